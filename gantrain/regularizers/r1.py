"""R1: a zero-centred gradient penalty on real samples."""

from typing import ClassVar, Literal

from gantrain.losses.base import Scalar
from gantrain.regularizers.base import Critic, Regularizer, UpdateBatch, check_every
from gantrain.regularizers.input_gradient import mean_squared_gradient_norm
from gantrain.schedules.base import Number


class R1(Regularizer):
    """Pull D's gradient in real samples towards 0.

    The gradient is taken in the samples before augmentation, and so passes through the augmentation.
    Source: Mescheder 2018, equation 9; lazily (`every`) Karras 2020 (StyleGAN2), appendix B.
    """

    # As with gradient_penalty. Minibatch standard deviation is fine: StyleGAN2 has both.
    with_batch_norm: ClassVar[Literal["wrong"]] = "wrong"

    def __init__(self, *, gamma: float, every: int):
        if gamma < 0:
            raise ValueError(f"gamma={gamma}: the weight of R1 is at least 0 (10 in the paper; 0.01 to 1 is usual).")
        self.gamma: Number = gamma
        self.every = check_every(every)

    def discriminator_penalty(self, critic: Critic, batch: UpdateBatch) -> Scalar:
        """Return gamma / 2 * E[|grad D(x)|^2] over the real samples."""
        return self.gamma / 2 * mean_squared_gradient_norm(critic, batch.real, batch.labels)
