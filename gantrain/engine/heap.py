"""Keep the memory of freed tensors on a CPU for the next step, instead of giving it back to the kernel.

The C library glibc gives large blocks back when they are freed, and the kernel clears each page when it is allocated
again. For activations of images this can take as long as the arithmetic.
"""

import ctypes
import os
import resource
from collections.abc import Mapping
from typing import Any

import torch

from gantrain.engine.memory import total_bytes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # options of mallopt, from malloc.h

LARGEST_MMAP_THRESHOLD = 32 * 2**20
"""glibc accepts no larger threshold. Larger blocks come from the kernel unless M_MMAP_MAX is 0."""

NUM_FIRST_STEPS = 2

GROWTH = 2.0
"""Limit of the growth of a process whose large blocks come from the heap; the largest seen is 1.7 (lightweight)."""


class KeepFreedMemory:
    """A callback of the training on a CPU: blocks below 32 MiB are kept at once, larger ones after the first steps.

    Larger ones are kept only if twice the process's peak memory fits, because the gaps between blocks make it grow.
    Environment variables with which the user has set glibc's allocator are respected. Without glibc nothing is done.

    Args:
        available: bytes of memory for this process.
    """

    def __init__(self, available: int, library: Any = None, environment: Mapping[str, str] = os.environ):
        self.available, self.num_steps = available, 0
        self.mallopt = None if is_configured(environment) else getattr(library or ctypes.CDLL(None), "mallopt", None)
        if self.mallopt is not None:
            self.mallopt(M_TRIM_THRESHOLD, -1)  # never
            self.mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)

    def __call__(self, *_: object) -> None:
        """Keep large blocks too, if this is the last of the first steps and there is enough memory."""
        self.num_steps += 1
        if self.mallopt is None or self.num_steps != NUM_FIRST_STEPS:
            return
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if GROWTH * peak <= self.available:
            self.mallopt(M_MMAP_MAX, 0)


def keep_freed_memory(device: torch.device, num_processes: int) -> list[KeepFreedMemory]:
    """Return the callbacks with which a training on this device keeps freed memory; none on a GPU.

    Args:
        num_processes: number of processes that share the memory.
    """
    return [KeepFreedMemory(total_bytes(device) // num_processes)] if device.type == "cpu" else []


def is_configured(environment: Mapping[str, str]) -> bool:
    """Return whether environment variables set options of glibc's allocator."""
    options = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_"}
    return bool(options & environment.keys()) or "glibc.malloc." in environment.get("GLIBC_TUNABLES", "")
