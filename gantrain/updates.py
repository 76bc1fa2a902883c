"""Updates of D and G: gradients, accumulated over micro-batches, and an optimizer step."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import gantrain.seeding as seeding
from gantrain.datasets.batches import Batch
from gantrain.schedules.base import Clock

Logs = dict[str, Tensor | float]
"""Values to log, by TensorBoard tag; of a tensor with several elements, the mean is logged."""

Update = Callable[[Batch | None, Clock], Logs]
"""Updates one network in place; takes a batch of real samples, or None if it needs none, and the clock."""

LossFunction = Callable[[Any, Clock], tuple[Tensor, Logs]]
"""Computes the loss of a player from a batch of real samples, with its logs."""


def total(losses: Iterable[Tensor]) -> Tensor:
    """Return the sum of losses; a single one is returned as it is."""
    return reduce(torch.add, losses)


def add_penalties(loss: Tensor, penalties: dict[str, Tensor]) -> Tensor:
    """Return the loss plus all penalties."""
    return sum(penalties.values(), start=loss)


def penalty_logs(penalties: dict[str, Tensor]) -> Logs:
    """Return the logs of penalties."""
    return {f"penalty/{name}": penalty.detach() for name, penalty in penalties.items()}


def no_op(*_: object) -> None:
    """Do nothing."""


def make_update(
    name: str,
    optimizer: Optimizer,
    loss_function: LossFunction,
    *,
    rows: int,
    accelerate: Callable[[Update], Update],
    accumulate: int = 1,
    zero_in_place: bool = False,
    before: Callable[[], None] = no_op,
    after: Callable[[Sequence[Logs]], None] = no_op,
) -> Update:
    """Return an update that computes the gradient of a loss and makes an optimizer step.

    Args:
        name: name of the update, for timings; for example "update_critic".
        rows: number of rows of a batch on this rank.
        accelerate: wraps the computation of one micro-batch, for example to replay it as a CUDA graph.
        accumulate: number of micro-batches per batch; their gradients are averaged.
        zero_in_place: whether gradients are zeroed in place instead of set to None. Then parameters that the loss does
            not reach have zero gradients, and several captured graphs write to the same gradients.
        before: called before the first forward pass.
        after: called after the optimizer step, with the logs of every micro-batch.
    """
    zero_in_place = zero_in_place or accumulate > 1
    if zero_in_place:
        allocate_gradients(optimizer)
    logs: list[Logs] = []

    def make_micro_update(i: int) -> Update:
        def micro_update(batch: Batch | None, clock: Clock) -> Logs:
            if i == 0:
                before()
                optimizer.zero_grad(set_to_none=not zero_in_place)
            with micro_batch(i, accumulate, rows=rows // accumulate):
                selected = select_micro_batch(batch, i, accumulate, rows=rows // accumulate)
                loss, own_logs = loss_function(selected, clock)
            (loss / accumulate if accumulate > 1 else loss).backward()  # type: ignore[no-untyped-call]
            if i == accumulate - 1:
                optimizer.step()
                after([*logs, own_logs])
            return own_logs

        micro_update.__name__ = name
        return accelerate(micro_update)

    updates = [make_micro_update(i) for i in range(accumulate)]
    return updates[0] if accumulate == 1 else join_micro_updates(name, optimizer, updates, logs)


def join_micro_updates(name: str, optimizer: Optimizer, updates: Sequence[Update], logs: list[Logs]) -> Update:
    """Return an update that calls the micro-updates one after another, and combines their logs.

    Args:
        logs: holds the logs of the micro-updates done so far.
    """

    def update(batch: Batch | None, clock: Clock) -> Logs:
        state = random_state(optimizer)
        logs.clear()
        for micro_update in updates:
            # All start from the same random state: each draws the numbers of the whole batch and uses its rows
            # (seeding.own_rows), so they do not depend on the number of micro-batches.
            set_random_state(optimizer, state)
            logs.append(micro_update(batch, clock))
        return {tag: combine([own_logs[tag] for own_logs in logs]) for tag in logs[0]}

    update.__name__ = name
    return update


@dataclass(frozen=True)
class Player:
    """The updates of D or of G.

    Attributes:
        update: one optimizer step for the player's loss.
        phases: lazy penalties: pairs of an interval k and an update that is made after the player's updates 1, k + 1,
            2k + 1, ... (lazy regularization; Karras 2020, StyleGAN2, appendix B).
    """

    update: Update
    phases: Sequence[tuple[int, Update]] = ()

    def __call__(self, batch: Batch | None, clock: Clock, *, count: int, lazy_logs: Logs) -> Logs:
        """Make an update, and the lazy penalties that are due; return the logs of the update.

        Args:
            count: number of updates that the player has made before.
            lazy_logs: updated in place with the logs of the lazy penalties.
        """
        logs = self.update(batch, clock)
        for every, phase in self.phases:
            if count % every == 0:
                lazy_logs.update(phase(batch, clock))
        return logs


def make_player(
    name: str,
    optimizer: Optimizer,
    loss_function: LossFunction,
    lazy_losses: dict[str, tuple[int, LossFunction]],
    **options: Any,
) -> Player:
    """Make a player from its loss and its lazy penalties.

    Args:
        lazy_losses: interval and loss of each lazy penalty, by name. The loss is the penalty times the interval, so
            that its mean gradient does not depend on the interval.
        options: options of make_update.
    """
    update = make_update(f"update_{name}", optimizer, loss_function, zero_in_place=bool(lazy_losses), **options)
    phases = [
        (every, make_update(f"update_{name}_{lazy}", optimizer, lazy_loss, zero_in_place=True, **options))
        for lazy, (every, lazy_loss) in lazy_losses.items()
    ]
    return Player(update, phases)


def combine(values: Sequence[Tensor | float]) -> Tensor:
    """Combine the logs of micro-batches under one tag: average scalars, concatenate vectors."""
    tensors = [torch.as_tensor(value) for value in values]
    return torch.cat(tensors) if tensors[0].ndim else torch.stack(tensors).mean()


def allocate_gradients(optimizer: Optimizer) -> None:
    """Give each parameter that has no gradient a gradient of zeros."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)


def select_micro_batch(batch: Batch | None, i: int, num: int, *, rows: int) -> Batch | None:
    """Return the i-th of `num` micro-batches, of `rows` rows.

    If G's batch is larger (generator_batch_multiple), its micro-batches have the same multiple of `rows`.
    """
    if batch is None or num == 1:
        return batch

    def select(x: Tensor) -> Tensor:
        return x.view(-1, num, rows, *x.shape[1:])[:, i].flatten(0, 1)

    return Batch(select(batch.x), None if batch.y is None else select(batch.y))


@contextmanager
def micro_batch(i: int, num: int, *, rows: int) -> Iterator[None]:
    """Set seeding.shard to the i-th of `num` micro-batches of `rows` rows while the block runs."""
    if num == 1:
        yield
        return
    previous = seeding.shard
    seeding.shard = replace(previous, micro_batch=i, num_micro_batches=num, rows=rows)
    try:
        yield
    finally:
        seeding.shard = previous


def random_state(optimizer: Optimizer) -> list[Tensor]:
    """Return the states of the default generators of the CPU and of the parameters' device."""
    device = optimizer.param_groups[0]["params"][0].device
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        states.append(torch.get_device_module(device).get_rng_state())
    return states


def set_random_state(optimizer: Optimizer, states: Sequence[Tensor]) -> None:
    """Restore what random_state returned."""
    device = optimizer.param_groups[0]["params"][0].device
    torch.set_rng_state(states[0])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[1])


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Compute no gradients of the module's parameters while the block runs; gradients still flow through the module."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
