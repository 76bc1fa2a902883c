"""The gradient penalty of WGAN-GP."""

from functools import partial
from typing import ClassVar, Literal

import torch

from gantrain.losses.base import Scalar
from gantrain.regularizers.base import Critic, Regularizer, UpdateBatch, check_every
from gantrain.regularizers.input_gradient import gradient_norms
from gantrain.schedules.base import Number
from gantrain.seeding import own_rows


class GradientPenalty(Regularizer):
    """Pull the norm of the critic's gradient in each sample towards 1, at points between real and generated samples.

    Source: Gulrajani 2017, equation 3 and Algorithm 1, lines 4 to 7.
    """

    # With batch normalization a sample's gradient contains terms of the other samples: its norm is not a slope.
    with_batch_norm: ClassVar[Literal["wrong"]] = "wrong"
    bounds_lipschitz = True

    def __init__(self, *, weight: float, every: int):
        if weight < 0:
            raise ValueError(f"weight={weight}: a gradient penalty is at least 0 (the paper takes 10).")
        self.weight: Number = weight
        self.every = check_every(every)

    def discriminator_penalty(self, critic: Critic, batch: UpdateBatch) -> Scalar:
        """Return weight * E[(|grad D(x_hat)| - 1)^2], x_hat uniform on the line from a generated to a real sample."""
        real, fake = batch.real.detach(), batch.fake
        draw = partial(torch.rand, dtype=real.dtype, device=real.device)
        epsilon = own_rows(draw, [len(real)] + [1] * (real.dim() - 1))
        x_hat = torch.lerp(fake, real, epsilon)
        norms = gradient_norms(critic, x_hat, batch.labels)
        return self.weight * (norms - 1).square().mean()
