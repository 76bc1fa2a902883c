"""Several processes that train one run, started by torchrun.

Each rank computes its rows of every batch, and together they do what one process would do with the whole batch: random
numbers are drawn for all rows and cut (seeding), gradients are averaged before each optimizer step, when the whole
backward pass is done, the double backward of a penalty included, and BatchNorm sees all rows.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from gantrain import seeding
from gantrain.console import console
from gantrain.engine.batch_norm import normalize_whole_batches
from gantrain.engine.torchrun import Place, is_of_torchrun, place
from gantrain.errors import ConfigError, GantrainError, UserError
from gantrain.train import TrainState
from gantrain.updates import Logs


@dataclass(frozen=True)
class Processes(Place):
    """The processes of a run; by default this one alone, for which every method here does nothing.

    Attributes:
        host_group: the process group for messages between hosts, not devices.
    """

    host_group: Any = None

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes the files and prints."""
        return self.rank == 0

    def rows(self, n: int) -> slice:
        """Return which of n rows are this rank's."""
        return slice(self.rank * n // self.world_size, (self.rank + 1) * n // self.world_size)

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """Raise on every rank what fails on one while the block runs.

        Raises:
            GantrainError: it failed on another rank, a ConfigError where the user can fix it; what fails on this rank
                is raised as it is.
        """
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        failures: list[Any] = [None] * self.world_size
        if self.world_size > 1:
            mine = None if failure is None else (isinstance(failure, UserError), _reason(failure))
            dist.all_gather_object(failures, mine, group=self.host_group)
        if failure is not None:
            raise failure
        for rank, report in enumerate(failures):
            if report is not None:
                is_of_the_user, reason = report
                raise (ConfigError if is_of_the_user else GantrainError)(
                    f"process {rank} of {self.world_size}: {reason}"
                )

    def broadcast(self, content: Any) -> Any:
        """Broadcast an object from rank 0; the other ranks wait for it."""
        if self.world_size == 1:
            return content
        held = [content]
        dist.broadcast_object_list(held, src=0, group=self.host_group)
        return held[0]

    def barrier(self) -> None:
        """Wait until rank 0 is here."""
        self.broadcast(None)

    def broadcast_networks(self, state: TrainState) -> None:
        """Broadcast the weights and buffers of rank 0."""
        if self.world_size > 1:
            for network in (state.G, state.D, state.G_ema):
                for tensor in [] if network is None else network.state_dict().values():
                    dist.broadcast(tensor, src=0)

    def gather(self, content: Any) -> list[Any]:
        """Gather objects on rank 0, in the order of the ranks; other ranks get []."""
        if self.world_size == 1:
            return [content]
        held = [None] * self.world_size if self.is_main else None
        dist.gather_object(content, held, dst=0, group=self.host_group)
        return held or []

    def all_reduce_max(self, number: int) -> int:
        """All-reduce (max)."""
        if self.world_size == 1:
            return number
        held = torch.tensor(number)
        dist.all_reduce(held, dist.ReduceOp.MAX, group=self.host_group)
        return int(held)

    def split_batches(self, batch_size: int, state: TrainState) -> None:
        """Split every batch among the ranks from here on, and average gradients before each optimizer step.

        Raises:
            ConfigError: the batch cannot be split evenly, or a network has a BatchNorm that cannot see all rows.
        """
        if batch_size % self.world_size:
            near = max(1, round(batch_size / self.world_size)) * self.world_size
            fewer = max(n for n in range(1, self.world_size) if batch_size % n == 0)
            raise ConfigError(
                f"batch_size={batch_size}: {self.world_size} processes take equal parts of each batch; start {fewer}, "
                f"or use batch_size={near}."
            )
        if self.world_size > 1:
            seeding.shard = seeding.Shard(self.rank, self.world_size, rows=batch_size // self.world_size)
            for optimizer in (state.G_optimizer, state.D_optimizer):
                optimizer.register_step_pre_hook(lambda optimizer, *_: average_gradients(optimizer, self.world_size))
            for network in (state.G, state.D, state.G_ema):
                if network is not None:
                    normalize_whole_batches(network)

    def average_logs(self, state: TrainState, logs: Logs) -> None:
        """Replace each tensor in a step's logs by its mean over the whole batch."""
        tensors = {tag: value for tag, value in logs.items() if isinstance(value, Tensor)}
        means = torch.stack([value.float().mean() for value in tensors.values()])
        dist.all_reduce(means)
        logs.update(zip(tensors, (means / self.world_size).unbind(), strict=True))
        state.lazy_logs.update({tag: logs[tag] for tag in state.lazy_logs})

    def is_lost_peer(self, error: BaseException) -> bool:
        """Tell whether the error means that another process does not answer any more."""
        text = str(error).lower()
        return self.world_size > 1 and (
            isinstance(error, dist.DistError)
            or (isinstance(error, RuntimeError) and any(word in text for word in ("gloo", "nccl", "closed by peer")))
        )

    def claims_report(self) -> bool:
        """Claim the right to report the root cause; only the first rank to ask gets it.

        Where torchrun keeps no store, each process has a log of its own, and all report.
        """
        if self.world_size == 1 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            return True
        try:
            store = dist.distributed_c10d._get_default_store()
            store.set_timeout(timedelta(seconds=5))
            return bool(store.add("gantrain has reported", 1) == 1)
        except RuntimeError:
            return True


SINGLE = Processes()
"""One process."""


@contextmanager
def joined() -> Iterator[Processes]:
    """Join the processes that torchrun started; a single one where it started none."""
    where = place()
    if where.world_size == 1:
        yield SINGLE
        return
    from torch._C._distributed_c10d import PrefixStore  # not in every build of torch
    from torch.distributed.rendezvous import rendezvous

    # Keys of its own for each start: processes that torchrun restarts (--max-restarts) would otherwise wait for ever on
    # keys of the previous start (torch 2.14).
    start = f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    store, rank, world_size = next(rendezvous("env://"))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=PrefixStore(start, store), rank=rank, world_size=world_size)
    # Rank 0 may be decoding a data set while the others wait for it.
    host_group = dist.new_group(backend="gloo", timeout=timedelta(days=7))
    console.quiet = where.rank > 0
    try:
        yield Processes(where.rank, where.world_size, where.local_rank, host_group)
    finally:
        seeding.shard = seeding.Shard()
        if not is_of_torchrun():  # torchrun's processes exit without tearing down their connections
            dist.destroy_process_group()


def require_single_process(what: str) -> None:
    """Refuse torchrun's processes for a task that runs in one.

    Raises:
        ConfigError: there are several.
    """
    if (world_size := place().world_size) > 1:
        raise ConfigError(f"{what} runs in one process, and torchrun started {world_size}; call it by gantrain alone.")


def average_gradients(optimizer: Optimizer, world_size: int) -> None:
    """All-reduce (mean) the gradients of an optimizer's parameters, in one message a dtype."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    for dtype in dict.fromkeys(gradient.dtype for gradient in gradients):
        some = [gradient for gradient in gradients if gradient.dtype == dtype]
        flat = torch.cat([gradient.flatten() for gradient in some]) / world_size
        dist.all_reduce(flat)
        parts = torch.split_with_sizes(flat, [gradient.numel() for gradient in some])
        torch._foreach_copy_(some, [part.view_as(g) for part, g in zip(parts, some, strict=True)])


def _reason(failure: Exception) -> str:
    return str(failure) if isinstance(failure, GantrainError) else f"{type(failure).__name__}: {failure}"


def interleaved(shares: Sequence[Sequence[Any]]) -> list[Any]:
    """Merge lists whose items were dealt out to the ranks in turn."""
    longest = max(map(len, shares), default=0)
    return [share[i] for i in range(longest) for share in shares if i < len(share)]
