"""Dequantization: uniform noise on real images, so that their pixels are not only 256 values."""

from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from gantrain.regularizers.base import Regularizer
from gantrain.schedules.base import Clock
from gantrain.seeding import own_rows


class Dequantization(Regularizer):
    """Add noise from U[0, scale) to every pixel of the real images that D sees in training, and to nothing else.

    Source: the released code of Gulrajani 2017 for CIFAR-10, and of Miyato 2018, both with scale 1/128.

    Args:
        scale: above 0, at most 1; 2/255 is the distance between two values of a pixel.

    Raises:
        ValueError: scale is out of range.
    """

    needs_images: ClassVar[bool] = True

    def __init__(self, *, scale: float):
        if not 0 < scale <= 1:
            raise ValueError(
                f"scale={scale}: must be above 0 and at most 1; 0.0078125 = 1/128 is about one step of a pixel."
            )
        self.scale = scale

    def perturb_real(self, x: Float[Tensor, "n *shape"], clock: Clock) -> Float[Tensor, "n *shape"]:
        """Return x plus noise."""
        noise = own_rows(partial(torch.rand, dtype=x.dtype, device=x.device), x.shape)
        return x + noise * self.scale
