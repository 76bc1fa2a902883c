"""Read how much memory a device has, check that tensors can fit, and estimate the largest batch size that fits.

The check is necessary because Linux overcommits memory, and later kills the process with no message.
"""

import os
import resource
from collections.abc import Sequence
from math import prod
from pathlib import Path

import torch

from gantrain.errors import ConfigError
from gantrain.files import format_bytes

SHARE_TO_FILL = 0.9
"""Share of a device's memory that a suggested batch size may use; libraries and fragmentation need the rest."""


def total_bytes(device: torch.device) -> int:
    """Return the total memory of the device in bytes; on a CPU at most the limits of the container and the process."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([physical, *container_limits(), *process_limits()])


def process_limits() -> list[int]:
    """List the limits of this process's memory in bytes, as set by `ulimit -v` and `ulimit -d`."""
    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    return [limit for limit in limits if limit != resource.RLIM_INFINITY]


def container_limits(root: Path = Path("/")) -> list[int]:
    """List the memory limits, in bytes, of the control groups (cgroup v1 and v2) of this process.

    Args:
        root: root of the file system.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    limits = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        mount, name = ("memory", "memory.limit_in_bytes") if controllers else ("", "memory.max")
        folder = Path(path.lstrip("/"))
        # In a container the path may be that of the host, while the container's group is mounted as the root.
        for group in (folder, *folder.parents):
            limits.append(_read_limit(root / "sys/fs/cgroup" / mount / group / name))
    return [limit for limit in limits if limit is not None]


def _read_limit(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None  # "max" means no limit


def require_memory(
    what: str, num: int, shapes: Sequence[Sequence[int]], device: torch.device, *, kept: str = "samples"
) -> None:
    """Check that a number of samples fits into the total memory of the device.

    Args:
        what: the key that sets the number, for the message.
        num: number of samples.
        shapes: shapes of the float32 tensors that each sample needs at least.
        kept: what these tensors are, for the message.

    Raises:
        ConfigError: the samples do not fit.
    """
    needed, total = 4 * num * sum(map(prod, shapes)), total_bytes(device)
    if needed > total:
        raise ConfigError(
            f"{what}={num}: the {kept} alone need {format_bytes(needed)}, but {device} has {format_bytes(total)}; "
            "use a smaller number."
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the error means that the device or the host has no memory left."""
    text = str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and ("can't allocate memory" in text or "not enough memory" in text)
    )


def largest_fitting(peaks: Sequence[tuple[int, int]], available: int, below: int) -> int:
    """Estimate the largest batch size that fits into memory from measurements of two smaller ones.

    The memory of a step is assumed to be a constant (weights, moments) plus a part proportional to the batch size.

    Args:
        peaks: for two batch sizes, a pair of the batch size and the peak memory of a step, in bytes.
        available: memory of the device, in bytes.
        below: a batch size that did not fit; the result is smaller.
    """
    (small, small_bytes), (large, large_bytes) = peaks
    per_sample = max(1, (large_bytes - small_bytes) // (large - small))
    fixed = small_bytes - per_sample * small
    fits = int(SHARE_TO_FILL * available - fixed) // per_sample
    fits = min(max(fits, 1), below - 1)
    return fits - fits % 8 if fits > 8 else fits
