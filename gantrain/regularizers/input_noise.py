"""Instance noise: Gaussian noise on all samples shown to D."""

from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from gantrain.regularizers.base import Regularizer
from gantrain.schedules.base import Clock, Number
from gantrain.seeding import own_rows


class InputNoise(Regularizer):
    """Add Gaussian noise of standard deviation `std` to real and generated samples, decaying linearly to 0.

    The noise makes the supports of the two distributions overlap, so that D cannot separate them perfectly.

    Source: Sønderby 2017, section 2.4 (instance noise); Arjovsky and Bottou 2017, section 3.

    Raises:
        ValueError: std is negative.
    """

    schedulable: ClassVar[tuple[str, ...]] = ("std",)
    follows_fraction: ClassVar[bool] = True

    def __init__(self, *, std: float):
        if std < 0:
            raise ValueError(f"std={std}: a standard deviation must be at least 0 (0.07 is usual for images).")
        self.std: Number = std

    def perturb(self, x: Float[Tensor, "n *shape"], clock: Clock) -> Float[Tensor, "n *shape"]:
        """Return x plus noise of standard deviation std * (1 - clock.fraction)."""
        noise = own_rows(partial(torch.randn, dtype=x.dtype, device=x.device), x.shape)
        return x + noise * (self.std * (1 - clock.fraction))
