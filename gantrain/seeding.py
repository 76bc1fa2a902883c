"""Randomness keyed by what it is for, never by what was drawn before.

A run's random numbers are a function of (seed, purpose, index). That is why a run can be resumed, sharded or
replayed from any point: no generator's state has to be carried along.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
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
    """Which rows of every batch this process has, of which each process has as many."""

    rank: int = 0
    size: int = 1
    rows: int = 0


shard = Shard()
"""Set by processes."""


def own_rows(draw: Callable[[Sequence[int]], Tensor], shape: Sequence[int]) -> Tensor:
    """Draw what has a row a sample for all processes, and return the rows of this one.

    So the numbers that a sample meets do not depend on how many processes there are.

    Args:
        draw: makes random numbers of a given shape.
        shape: [n, ...] of what is wanted; n may be several times the process's rows, as of real and fake samples.
    """
    if shard.size == 1:
        return draw(shape)
    n, *rest = shape
    whole = draw([n * shard.size, *rest])
    return whole.view(n // shard.rows, shard.size, shard.rows, *rest)[:, shard.rank].reshape(list(shape))
