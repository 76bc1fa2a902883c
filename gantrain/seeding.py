"""Random numbers keyed by (seed, purpose, index), independent of earlier draws.

So a run can be resumed or split over processes without saving the states of random generators.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor


def key(*parts: int | str) -> int:
    """Hash the parts to a 63-bit seed; different parts give independent seeds."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """Make a CPU generator with the seed key(*parts)."""
    return torch.Generator().manual_seed(key(*parts))


def seed_everything(*parts: int | str, device: torch.device) -> None:
    """Seed the default generators of the CPU and of the device with key(*parts).

    torch.manual_seed would seed those of all devices, which takes longer than a small training step.
    """
    seed = key(*parts)
    torch.default_generator.manual_seed(seed)
    if device.type not in ("cpu", "meta"):  # the meta device has no random numbers
        torch.get_device_module(device).manual_seed(seed)


@dataclass(frozen=True)
class Shard:
    """The rows of a batch in the current micro-batch of this rank.

    Attributes:
        rank, world_size: of this process, among the processes that train the run.
        micro_batch, num_micro_batches: index and number of the rank's micro-batches; (0, 1) without accumulation.
        rows: number of rows of a batch in the micro-batch; 0: all rows of the batch.
    """

    rank: int = 0
    world_size: int = 1
    micro_batch: int = 0
    num_micro_batches: int = 1
    rows: int = 0

    @property
    def num_shards(self) -> int:
        """Number of equal parts of a batch: one for each micro-batch of each rank."""
        return self.world_size * self.num_micro_batches


shard = Shard()
"""The current shard: engine.distributed sets the rank, updates.micro_batch the micro-batch."""


def own_rows(draw: Callable[[Sequence[int]], Tensor], shape: Sequence[int]) -> Tensor:
    """Draw random numbers for the whole batch, and return the rows of the current micro-batch of this rank.

    So the random numbers of a sample depend neither on the number of processes nor on the number of micro-batches.

    Args:
        draw: returns random numbers of a given shape [n, ...]; for a shape [n] it may return [n, ...].
        shape: shape of the result; its first dimension may be a multiple of the micro-batch, for example for real and
            generated samples together.
    """
    if shard.num_shards == 1:
        return draw(shape)
    n, *rest = shape
    groups = max(1, n // shard.rows)
    whole = draw([n * shard.num_shards, *rest])
    shards = whole.view(groups, shard.world_size, shard.num_micro_batches, n // groups, *whole.shape[1:])
    return shards[:, shard.rank, shard.micro_batch].flatten(0, 1)


@contextmanager
def unsharded() -> Iterator[None]:
    """Draw and compute as a single process while the block runs, for work that only one rank does.

    Otherwise a loss over the whole batch would wait for the other ranks.
    """
    global shard
    previous, shard = shard, Shard()
    try:
        yield
    finally:
        shard = previous


def whole_batch(x: Float[Tensor, "n *shape"]) -> Float[Tensor, "m *shape"]:
    """All-gather the rows of all ranks, in the order of the ranks; with a single process, return x.

    It can be differentiated twice. The gradient is that of the sum of all ranks' losses, so averaging the gradients of
    the parameters over the ranks, as before an optimizer step, gives the gradient of the mean loss.
    """
    if shard.world_size == 1:
        return x
    gathered: Tensor = _AllGather.apply(x)
    return gathered


class _AllGather(torch.autograd.Function):
    """All-gather along the first dimension. Every rank's loss depends on every row, so the gradients are summed."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(shard.world_size)]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Any:
        return _SumOwnRows.apply(gradient)


class _SumOwnRows(torch.autograd.Function):
    """Sum over the ranks, and keep this rank's rows: a reduce-scatter, the transpose of _AllGather."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        total = x.contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(shard.world_size)[shard.rank]

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Any:
        return _AllGather.apply(gradient)
