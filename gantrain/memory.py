"""What cannot fit into memory, found before it is tried.

Linux promises more memory than there is and ends the process that asks it to keep the promise, without a word.
"""

import os
from collections.abc import Sequence
from math import prod

import torch

from gantrain.errors import ConfigError
from gantrain.files import format_bytes


def total_bytes(device: torch.device) -> int:
    """How much memory the device has, used or not."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


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
            f"{format_bytes(total)}; take fewer."
        )
