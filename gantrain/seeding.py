"""Randomness keyed by what it is for, never by what was drawn before.

A run's random numbers are a function of (seed, purpose, index). That is why a run can be resumed, sharded or
replayed from any point: no generator's state has to be saved.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor


def key(*parts: int | str) -> int:
    """Mix the parts into a 63-bit seed; different parts give unrelated seeds."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """Make a CPU generator seeded by the key of the parts."""
    return torch.Generator().manual_seed(key(*parts))


def seed_everything(*parts: int | str, device: torch.device) -> None:
    """Seed the generators that computing on the device draws from, by the key of the parts.

    torch.manual_seed would do the same for every kind of device there is, which takes longer than a small step.
    """
    seed = key(*parts)
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


@dataclass(frozen=True)
class Shard:
    """Which rows of every batch are computed now: those of this rank, of its current micro-batch.

    Attributes:
        rank, world_size: of this process among those that train the run.
        micro_batch, num_micro_batches: where gradients are accumulated, which part of the rank's rows it is.
        rows: how many rows of a batch are computed at a time; 0: all of them.
    """

    rank: int = 0
    world_size: int = 1
    micro_batch: int = 0
    num_micro_batches: int = 1
    rows: int = 0

    @property
    def num_parts(self) -> int:
        """Into how many equal parts a batch is cut."""
        return self.world_size * self.num_micro_batches


shard = Shard()
"""Set by engine.distributed and by accumulation."""


def own_rows(draw: Callable[[Sequence[int]], Tensor], shape: Sequence[int]) -> Tensor:
    """Draw random numbers for the whole batch and return the rows that are computed now.

    So the numbers that a sample meets depend neither on the number of processes nor on that of micro-batches.

    Args:
        draw: makes random numbers of a given shape; of a shape [n] it may also make vectors, [n, ...].
        shape: [n, ...] of what is wanted; n may be several times the rows computed now, as of real and generated
            samples together.
    """
    if shard.num_parts == 1:
        return draw(shape)
    n, *rest = shape
    groups = max(1, n // shard.rows)
    whole = draw([n * shard.num_parts, *rest])
    parts = whole.view(groups, shard.world_size, shard.num_micro_batches, n // groups, *whole.shape[1:])
    return parts[:, shard.rank, shard.micro_batch].flatten(0, 1)


def whole_batch(x: Float[Tensor, "n *shape"]) -> Float[Tensor, "m *shape"]:
    """Gather the rows of all processes, in the order of their ranks; x itself where there is one process.

    It can be differentiated twice: averaging the processes' gradients, as before an optimizer's step, gives the
    gradient of the mean of their losses.
    """
    if shard.world_size == 1:
        return x
    gathered: Tensor = _AllGather.apply(x)
    return gathered


class _AllGather(torch.autograd.Function):
    """Its gradient is that of the sum of all processes' losses, each of which depends on every row."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(shard.world_size)]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Any:
        return _SumOwnRows.apply(gradient)


class _SumOwnRows(torch.autograd.Function):
    """The sum over the processes, of which each keeps its own rows; the transpose of _AllGather."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        total = x.contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(shard.world_size)[shard.rank]

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Any:
        return _AllGather.apply(gradient)
