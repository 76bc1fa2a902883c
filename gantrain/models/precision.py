"""Full precision for parts of a network that autocast would make too inexact."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Turn off autocast while the block runs, for operations that bf16 would make too inexact."""
    if not torch.amp.is_autocast_available(device.type):  # the meta device
        yield
        return
    with torch.autocast(device.type, enabled=False):
        yield
