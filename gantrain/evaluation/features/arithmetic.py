"""Run extractors in float32, whatever precision the training has."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Turn off gradients, autocast and tf32 while the block runs, so that features do not depend on runtime.precision.

    tf32 would change them: it rounds the inputs of matrix products to 10 bits of mantissa, by default in convolutions.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
