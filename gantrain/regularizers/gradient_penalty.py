"""The gradient penalty of WGAN-GP."""

from typing import ClassVar, Literal

import torch

from gantrain.losses.base import Scalar
from gantrain.regularizers.base import Critic, Regularizer, UpdateBatch, check_every
from gantrain.regularizers.input_gradient import gradient_norms
from gantrain.schedules.base import Number


class GradientPenalty(Regularizer):
    """Pull the norm of the critic's gradient with respect to its input to 1, between real and generated samples.

    Source: Gulrajani 2017, equation 3 and Algorithm 1, lines 4 to 7.

    Raises:
        ValueError: weight is negative, or every is below 1.
    """

    # With batch normalization, each logit depends on all samples of the batch, but the penalty is defined for functions
    # of one sample.
    with_batch_norm: ClassVar[Literal["wrong"]] = "wrong"
    bounds_lipschitz = True
    schedulable: ClassVar[tuple[str, ...]] = ("weight",)

    def __init__(self, *, weight: float, every: int):
        if weight < 0:
            raise ValueError(f"weight={weight}: the weight of a gradient penalty must be at least 0 (10 in the paper).")
        self.weight: Number = weight
        self.every = check_every(every)

    def discriminator_penalty(self, critic: Critic, batch: UpdateBatch) -> Scalar:
        """Return weight * E[(|grad D(x_hat)| - 1)^2], with x_hat uniform between a generated and a real sample.

        With packing, x_hat is uniform between a generated and a real pack.
        """
        real, fake = batch.real.detach(), batch.fake
        x_hat = torch.lerp(fake, real, batch.draw_uniform(real))
        norms = gradient_norms(critic, x_hat, batch.labels)
        return self.weight * (norms - 1).square().mean()
