"""Which parts of a network run in bf16 under autocast, and which in full precision."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Turn off autocast while the block runs, for operations that bf16 would make too inexact."""
    # The meta device has no autocast; engine.meta casts for it, where the CPU's is turned on.
    has_autocast = torch.amp.is_autocast_available(device.type)
    with torch.autocast(device.type if has_autocast else "cpu", enabled=False):
        yield


def stages_in_bf16(num_stages: int, num_bf16_stages: int) -> list[bool]:
    """Return for each stage, from the smallest image size, whether it may run in bf16.

    Those of the largest images may, but never that of the smallest.

    Raises:
        ValueError: num_bf16_stages is negative.
    """
    if num_bf16_stages < 0:
        raise ValueError(f"num_bf16_stages={num_bf16_stages}: must be at least 0 (4 is usual).")
    return [stage >= max(1, num_stages - num_bf16_stages) for stage in range(num_stages)]


def run_stage(stage: Callable[..., Any], x: Tensor, *inputs: Any, in_bf16: bool) -> Any:
    """Call a stage on features; if it may not run in bf16, autocast is turned off and bf16 features become float32."""
    if in_bf16:
        return stage(x, *inputs)
    with full_precision(x.device):
        return stage(x.float() if x.dtype == torch.bfloat16 else x, *inputs)
