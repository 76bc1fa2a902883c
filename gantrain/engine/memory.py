"""How much memory there is, what cannot fit into it, and which batch size would.

Linux grants more memory than there is and kills the process that uses it, without a message.
"""

import os
from collections.abc import Sequence
from math import prod
from pathlib import Path

import torch

from gantrain.errors import ConfigError
from gantrain.files import format_bytes

SHARE_TO_FILL = 0.9
"""Of a device's memory that a suggested batch size may need: other steps, libraries and fragments take some too."""


def total_bytes(device: torch.device) -> int:
    """Return how much memory the device has, used or not; on a CPU at most the limit of the container."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([physical, *container_limits()])


def container_limits(root: Path = Path("/")) -> list[int]:
    """List the memory limits, in bytes, of the control groups (cgroup v1 and v2) that this process is in.

    Args:
        root: of the file system, "/".
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
        # Inside a container the path is that of the host, and its own group is mounted as the root.
        for group in (folder, *folder.parents):
            limits.append(_read_limit(root / "sys/fs/cgroup" / mount / group / name))
    return [limit for limit in limits if limit is not None]


def _read_limit(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None  # "max": none


def require_memory(what: str, num: int, shapes: Sequence[Sequence[int]], device: torch.device) -> None:
    """Refuse more samples at once than the device could hold if there were nothing else.

    Args:
        what: the key that says how many.
        num: how many.
        shapes: of the float32 tensors that each of them takes at the least.

    Raises:
        ConfigError: they do not fit.
    """
    needed, total = 4 * num * sum(map(prod, shapes)), total_bytes(device)
    if needed > total:
        raise ConfigError(
            f"{what}={num}: so many samples alone take {format_bytes(needed)}, and {device} has "
            f"{format_bytes(total)}; use a smaller number."
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether the error means that the device or the host has no memory left."""
    text = str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and ("can't allocate memory" in text or "not enough memory" in text)
    )


def largest_fitting(peaks: Sequence[tuple[int, int]], available: int, below: int) -> int:
    """Return the largest batch size that is likely to fit, from the memory of two smaller ones.

    The need of a step is taken to be a part that does not depend on the batch (weights, moments) and one that is
    proportional to it.

    Args:
        peaks: two pairs of a batch size and the bytes that a step took.
        available: bytes.
        below: the batch size that did not fit.
    """
    (small, small_bytes), (large, large_bytes) = peaks
    per_sample = max(1, (large_bytes - small_bytes) // (large - small))
    fixed = small_bytes - per_sample * small
    fits = int(SHARE_TO_FILL * available - fixed) // per_sample
    fits = min(max(fits, 1), below - 1)
    return fits - fits % 8 if fits > 8 else fits
