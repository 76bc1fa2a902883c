"""Keep the memory of freed tensors on a CPU for the next step, instead of giving it back to the kernel.

The C library glibc gives large blocks back when they are freed, and the kernel clears each page when it is allocated
again. For activations of images this can take longer than the arithmetic.
"""

import ctypes
import os
import resource
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from gantrain.engine.memory import total_bytes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # options of mallopt, from malloc.h

LARGEST_MMAP_THRESHOLD = 32 * 2**20
"""glibc accepts no larger threshold. Larger blocks come from the kernel unless M_MMAP_MAX is 0."""

DEFAULTS = {M_MMAP_MAX: 65_536, M_TRIM_THRESHOLD: 2 * LARGEST_MMAP_THRESHOLD}
"""glibc raises M_TRIM_THRESHOLD to this value by itself when a program frees large blocks."""

NUM_FIRST_STEPS = 2

GROWTH = 2.0
"""Limit of the growth of a process whose large blocks come from the heap; the largest seen is 1.7 (lightweight)."""


@contextmanager
def keep_freed_memory(
    device: torch.device,
    num_processes: int,
    *,
    library: Any = None,
    available: int | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Iterator[Callable[..., None]]:
    """Keep freed memory while the block runs; call what this returns after each training step.

    Blocks below 32 MiB are kept from the start. Larger ones are kept after the first steps, and only if twice the
    process's peak memory fits, because the gaps between blocks make it grow. At the end free memory is given back.
    Nothing is done on a GPU, without glibc, or if environment variables set glibc's allocator.

    Args:
        num_processes: number of processes that share the memory.
        library: the C library; None: that of the process.
        available: bytes of memory for all processes; None: those of the device.
    """
    library = library or ctypes.CDLL(None)
    if device.type != "cpu" or is_configured(environment) or not hasattr(library, "mallopt"):
        yield lambda *_: None
        return
    num_steps = 0
    limit = (total_bytes(device) if available is None else available) / num_processes / GROWTH

    def after_step(*_: object) -> None:
        nonlocal num_steps
        num_steps += 1
        if num_steps == NUM_FIRST_STEPS and peak_bytes() <= limit:
            library.mallopt(M_MMAP_MAX, 0)

    library.mallopt(M_TRIM_THRESHOLD, -1)  # never
    library.mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
    try:
        yield after_step
    finally:
        for option, value in DEFAULTS.items():
            library.mallopt(option, value)
        library.malloc_trim(0)


def peak_bytes() -> int:
    """Return the peak memory of this process so far, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def is_configured(environment: Mapping[str, str]) -> bool:
    """Return whether environment variables set options of glibc's allocator."""
    options = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_"}
    return bool(options & environment.keys()) or "glibc.malloc." in environment.get("GLIBC_TUNABLES", "")
