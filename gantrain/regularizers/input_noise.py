"""Noise on everything that the discriminator is shown."""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from gantrain.regularizers.base import Progress, Regularizer
from gantrain.seeding import own_rows


class InputNoise(Regularizer):
    """Gaussian noise of standard deviation `std` on real and fake samples alike, decaying linearly to 0.

    It gives the two distributions a common support, so that D cannot tell them apart perfectly.
    Source: Sønderby 2017, section 2.4 (instance noise); Arjovsky and Bottou 2017, section 3.
    """

    def __init__(self, *, std: float):
        if std < 0:
            raise ValueError(f"std={std}: a standard deviation is at least 0 (images span [-1, 1]; 0.07 is usual).")
        self.std = std

    def perturb(self, x: Float[Tensor, "n *shape"], progress: Progress) -> Float[Tensor, "n *shape"]:
        """Add fresh noise."""
        noise = own_rows(partial(torch.randn, dtype=x.dtype, device=x.device), x.shape)
        return x + noise * (self.std * (1 - progress))
