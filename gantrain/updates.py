"""One update of a player: gradients, over micro-batches where they are accumulated, and a step of the optimizer."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gantrain import seeding
from gantrain.datasets.batches import Batch
from gantrain.schedules.base import Clock

Logs = dict[str, Tensor | float]
"""What one step showed, by TensorBoard tag; a tensor of several numbers stands for their mean."""

Update = Callable[[Batch | None, Clock], Logs]
"""An update of one player: takes real samples, where it needs them, and the time; changes the state."""

LossOf = Callable[[Any, Clock], tuple[Tensor, Logs]]
"""The loss of a player on a batch, and what to log of it."""


def add(loss: Tensor, penalties: dict[str, Tensor]) -> Tensor:
    """Add penalties to a loss."""
    return sum(penalties.values(), start=loss)


def logged(penalties: dict[str, Tensor]) -> Logs:
    """Return what to log of penalties."""
    return {f"penalty/{name}": penalty.detach() for name, penalty in penalties.items()}


def nothing(*_: object) -> None:
    """Do nothing."""


def make_update(
    name: str,
    optimizer: Optimizer,
    loss_of: LossOf,
    *,
    rows: int,
    accelerate: Callable[[Update], Update],
    accumulate: int = 1,
    keeps_gradients: bool = False,
    before: Callable[[], None] = nothing,
    after: Callable[[Sequence[Logs]], None] = nothing,
) -> Update:
    """Return the update that takes one optimizer step down the gradient of a loss.

    Args:
        name: what the update is called, "update_critic" for example; timings are kept by it.
        rows: how many rows this process has of a batch.
        accelerate: how what this process computes at a time is run, for example as a CUDA graph.
        accumulate: micro-batches, whose gradients are averaged.
        keeps_gradients: whether gradients are zeroed in place, so that parameters which the loss does not reach have
            zero gradients, and several captured graphs write to the same ones.
        before: called before the forward pass.
        after: called after the step with the logs of every micro-batch.
    """
    keeps_gradients = keeps_gradients or accumulate > 1
    if keeps_gradients:
        keep_gradients(optimizer)
    logs: list[Logs] = []

    def make_part(i: int) -> Update:
        def part(batch: Batch | None, clock: Clock) -> Logs:
            if i == 0:
                before()
                optimizer.zero_grad(set_to_none=not keeps_gradients)
            with micro_batch(i, accumulate, rows=rows // accumulate):
                loss, shown = loss_of(cut(batch, i, accumulate, rows=rows // accumulate), clock)
            (loss / accumulate if accumulate > 1 else loss).backward()  # type: ignore[no-untyped-call]
            if i == accumulate - 1:
                optimizer.step()
                after([*logs, shown])
            return shown

        part.__name__ = name
        return accelerate(part)

    parts = [make_part(i) for i in range(accumulate)]
    if accumulate == 1:
        return parts[0]

    def update(batch: Batch | None, clock: Clock) -> Logs:
        state = random_state(optimizer)
        logs.clear()
        for part in parts:
            # A sample meets the same random numbers whatever the cut: each part draws all and takes its rows.
            set_random_state(optimizer, state)
            logs.append(part(batch, clock))
        return {tag: merged([part_logs[tag] for part_logs in logs]) for tag in logs[0]}

    update.__name__ = name
    return update


@dataclass(frozen=True)
class Player:
    """The updates of D or of G.

    Attributes:
        update: one step down the player's loss.
        phases: penalties with an interval of their own, each an update at every k-th of the player's (lazy
            regularization; Karras 2020, StyleGAN2, appendix B).
    """

    update: Update
    phases: Sequence[tuple[int, Update]] = ()

    def __call__(self, batch: Batch | None, clock: Clock, *, count: int, lazy_logs: Logs) -> Logs:
        """Make an update, and the phases that are due.

        Args:
            count: updates that the player has made before.
            lazy_logs: takes what phases log, which is kept until they come again.
        """
        logs = self.update(batch, clock)
        for every, phase in self.phases:
            if count % every == 0:
                lazy_logs.update(phase(batch, clock))
        return logs


def make_player(
    name: str, optimizer: Optimizer, loss_of: LossOf, lazy_losses: dict[str, tuple[int, LossOf]], **options: Any
) -> Player:
    """Return a player that follows a loss, and lazy penalties by name, each with its interval.

    Args:
        lazy_losses: already times their interval, so that they weigh the same on average.
        options: of make_update.
    """
    keeps_gradients = bool(lazy_losses)
    update = make_update(f"update_{name}", optimizer, loss_of, keeps_gradients=keeps_gradients, **options)
    phases = [
        (every, make_update(f"update_{name}_{lazy}", optimizer, lazy_loss, keeps_gradients=True, **options))
        for lazy, (every, lazy_loss) in lazy_losses.items()
    ]
    return Player(update, phases)


def merged(values: Sequence[Tensor | float]) -> Tensor:
    """Average scalars of micro-batches; concatenate their vectors."""
    tensors = [torch.as_tensor(value) for value in values]
    return torch.cat(tensors) if tensors[0].ndim else torch.stack(tensors).mean()


def keep_gradients(optimizer: Optimizer) -> None:
    """Give every parameter a gradient, zero where it has none."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)


def cut(batch: Batch | None, i: int, num: int, *, rows: int) -> Batch | None:
    """Return the i-th of `num` micro-batches of `rows` rows, or of several times as many where G's batch is larger."""
    if batch is None or num == 1:
        return batch

    def part(x: Tensor) -> Tensor:
        return x.view(-1, num, rows, *x.shape[1:])[:, i].flatten(0, 1)

    return Batch(part(batch.x), None if batch.y is None else part(batch.y))


@contextmanager
def micro_batch(i: int, num: int, *, rows: int) -> Iterator[None]:
    """Draw what is random for each sample as for the i-th of `num` micro-batches of `rows` rows."""
    if num == 1:
        yield
        return
    whole = seeding.shard
    seeding.shard = replace(whole, micro_batch=i, num_micro_batches=num, rows=rows)
    try:
        yield
    finally:
        seeding.shard = whole


def random_state(optimizer: Optimizer) -> list[Tensor]:
    """Return the states of the random generators that an update draws from."""
    device = optimizer.param_groups[0]["params"][0].device
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        states.append(torch.get_device_module(device).get_rng_state())
    return states


def set_random_state(optimizer: Optimizer, states: Sequence[Tensor]) -> None:
    """Put the random generators back to earlier states."""
    device = optimizer.param_groups[0]["params"][0].device
    torch.set_rng_state(states[0])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[1])


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Let gradients pass through the module without computing those of its parameters."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
