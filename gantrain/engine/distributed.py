"""Train one run with several processes, started by torchrun.

Each rank computes its rows of every batch, and the result is that of one process with the whole batch: every rank draws
the random numbers of all rows and uses its own (gantrain.seeding), BatchNorm normalizes over all rows, and gradients
are averaged before each optimizer step, after the complete backward pass, including the double backward of penalties.
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

import gantrain.seeding as seeding
from gantrain.console import console
from gantrain.engine.batch_norm import synchronize_batch_norm
from gantrain.engine.torchrun import ProcessRank, is_started_by_torchrun, process_rank
from gantrain.errors import ConfigError, GantrainError, UserError
from gantrain.train import TrainState
from gantrain.updates import Logs


@dataclass(frozen=True)
class Processes(ProcessRank):
    """The processes of a run; by default a single one, for which no method communicates.

    Attributes:
        host_group: process group for objects and numbers on the host, which uses gloo.
    """

    host_group: Any = None

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes the files and prints."""
        return self.rank == 0

    def rows(self, n: int) -> slice:
        """Return the slice of n rows that this rank computes."""
        return slice(self.rank * n // self.world_size, (self.rank + 1) * n // self.world_size)

    @contextmanager
    def raise_on_all_ranks(self) -> Iterator[None]:
        """Raise an error on every rank if one is raised on any rank while the block runs.

        Raises:
            Exception: the error of this rank, unchanged.
            ConfigError: another rank raised a UserError.
            GantrainError: another rank raised another exception.
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
                is_user_error, reason = report
                raise (ConfigError if is_user_error else GantrainError)(
                    f"process {rank} of {self.world_size}: {reason}"
                )

    def broadcast(self, content: Any) -> Any:
        """Broadcast an object from rank 0; the other ranks wait for it and return it."""
        if self.world_size == 1:
            return content
        objects = [content]
        dist.broadcast_object_list(objects, src=0, group=self.host_group)
        return objects[0]

    def wait_for_rank_0(self) -> None:
        """Wait until rank 0 calls this too; rank 0 does not wait."""
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
        objects = [None] * self.world_size if self.is_main else None
        dist.gather_object(content, objects, dst=0, group=self.host_group)
        return objects or []

    def all_reduce_max(self, number: int) -> int:
        """All-reduce (max) an integer."""
        if self.world_size == 1:
            return number
        largest = torch.tensor(number)
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=self.host_group)
        return int(largest)

    def split_batches(self, batch_size: int, state: TrainState) -> None:
        """Split every batch among the ranks from now on, and average gradients before each optimizer step.

        Raises:
            ConfigError: a network has a BatchNorm layer that cannot be synchronized.
        """
        if self.world_size > 1:
            seeding.shard = seeding.Shard(self.rank, self.world_size, rows=batch_size // self.world_size)
            self.average_gradients(state.G_optimizer, state.D_optimizer)
            for network in (state.G, state.D, state.G_ema):
                if network is not None:
                    synchronize_batch_norm(network)

    def average_gradients(self, *optimizers: Optimizer) -> None:
        """Average gradients over all ranks before each step of the optimizers from now on."""
        for optimizer in optimizers if self.world_size > 1 else ():
            optimizer.register_step_pre_hook(lambda optimizer, *_: average_gradients(optimizer, self.world_size))

    def average_logs(self, state: TrainState, logs: Logs) -> None:
        """Replace each tensor in the logs of a step by its mean over all ranks."""
        tensors = {tag: value for tag, value in logs.items() if isinstance(value, Tensor)}
        means = torch.stack([value.float().mean() for value in tensors.values()])
        dist.all_reduce(means)
        logs.update(zip(tensors, (means / self.world_size).unbind(), strict=True))
        state.lazy_logs.update({tag: logs[tag] for tag in state.lazy_logs})

    def is_lost_peer(self, error: BaseException) -> bool:
        """Return whether the error means that another process no longer responds."""
        text = str(error).lower()
        return self.world_size > 1 and (
            isinstance(error, dist.DistError)
            or (isinstance(error, RuntimeError) and any(word in text for word in ("gloo", "nccl", "closed by peer")))
        )

    def claims_report(self) -> bool:
        """Return True on the first rank that calls this, which then reports the root cause, and False on the others.

        Without a store of torchrun every rank reports, because each process has its own log then.
        """
        if self.world_size == 1 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            return True
        try:
            store = dist.distributed_c10d._get_default_store()
            store.set_timeout(timedelta(seconds=5))
            return bool(store.add("gantrain has reported", 1) == 1)
        except RuntimeError:
            return True


SINGLE_PROCESS = Processes()
"""One process."""


@contextmanager
def join_processes() -> Iterator[Processes]:
    """Initialize the process group while the block runs, if torchrun started several processes."""
    own = process_rank()
    if own.world_size == 1:
        yield SINGLE_PROCESS
        return
    from torch._C._distributed_c10d import PrefixStore  # missing in some builds of torch
    from torch.distributed.rendezvous import rendezvous

    # Each start has its own key prefix: processes that torchrun restarts (--max-restarts) would otherwise wait forever
    # for keys of the previous start (torch 2.14).
    start = f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    store, rank, world_size = next(rendezvous("env://"))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=PrefixStore(start, store), rank=rank, world_size=world_size)
    # A long timeout, because rank 0 may decode a large dataset while the others wait.
    host_group = dist.new_group(backend="gloo", timeout=timedelta(days=7))
    console.quiet = own.rank > 0
    try:
        yield Processes(own.rank, own.world_size, own.local_rank, host_group)
    finally:
        seeding.shard = seeding.Shard()
        if not is_started_by_torchrun():  # under torchrun, the process exits without a teardown: see __main__
            dist.destroy_process_group()


def require_single_process(what: str) -> None:
    """Check that torchrun did not start several processes.

    Args:
        what: the task that needs a single process, for the message.

    Raises:
        ConfigError: there are several processes.
    """
    if (world_size := process_rank().world_size) > 1:
        raise ConfigError(
            f"{what} runs in one process, but torchrun started {world_size}; run gantrain without torchrun."
        )


def average_gradients(optimizer: Optimizer, world_size: int) -> None:
    """All-reduce (mean) the gradients of an optimizer's parameters, with one call for each dtype."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    for dtype in dict.fromkeys(gradient.dtype for gradient in gradients):
        of_dtype = [gradient for gradient in gradients if gradient.dtype == dtype]
        flat = torch.cat([gradient.flatten() for gradient in of_dtype]) / world_size
        dist.all_reduce(flat)
        parts = torch.split_with_sizes(flat, [gradient.numel() for gradient in of_dtype])
        torch._foreach_copy_(of_dtype, [part.view_as(g) for part, g in zip(parts, of_dtype, strict=True)])


def _reason(failure: Exception) -> str:
    return str(failure) if isinstance(failure, GantrainError) else f"{type(failure).__name__}: {failure}"


def interleave(shares: Sequence[Sequence[Any]]) -> list[Any]:
    """Merge the lists of all ranks in round-robin order: the first item of each, then the second of each, ..."""
    longest = max(map(len, shares), default=0)
    return [share[i] for i in range(longest) for share in shares if i < len(share)]
