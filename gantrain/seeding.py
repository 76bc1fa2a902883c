"""Randomness keyed by what it is for, never by what was drawn before.

A run's random numbers are a function of (seed, purpose, index). That is why a run can be resumed, sharded or
replayed from any point: no generator's state has to be carried along.
"""

import hashlib

import torch


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
