"""The gradient penalty of WGAN-GP."""

from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from gantrain.losses.base import Scalar
from gantrain.regularizers.base import CriticBatch, Regularizer
from gantrain.regularizers.input_gradient import input_gradient
from gantrain.seeding import own_rows


class GradientPenalty(Regularizer):
    """Pull the critic's gradient norm, a sample at a time, towards 1 between real and fake.

    Source: Gulrajani 2017, equation 3 and Algorithm 1, lines 4 to 7.
    """

    # A sample's gradient would hold the other samples' share, and its norm would mean nothing.
    with_batch_norm: ClassVar[Literal["wrong"]] = "wrong"
    bounds_lipschitz = True

    def __init__(self, *, weight: float):
        if weight < 0:
            raise ValueError(f"weight={weight}: a gradient penalty is at least 0 (the paper takes 10).")
        self.weight = weight

    def penalty(self, critic: nn.Module, batch: CriticBatch) -> Scalar:
        """weight * E[(|grad D(x_hat)| - 1)^2], x_hat uniform on the lines from fake to real."""
        real, fake = batch.real.detach(), batch.fake
        draw = partial(torch.rand, dtype=real.dtype, device=real.device)
        epsilon = own_rows(draw, [len(real)] + [1] * (real.dim() - 1))
        x_hat = torch.lerp(fake, real, epsilon)
        norms: Tensor = torch.linalg.vector_norm(input_gradient(critic, x_hat).flatten(1), dim=1)
        return self.weight * (norms - 1).square().mean()
