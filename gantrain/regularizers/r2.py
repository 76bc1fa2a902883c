"""R2: a zero-centered gradient penalty on generated samples."""

from typing import ClassVar, Literal

from gantrain.losses.base import Scalar
from gantrain.regularizers.base import Critic, Regularizer, UpdateBatch, check_every
from gantrain.schedules.base import Number


class R2(Regularizer):
    """Pull D's gradient with respect to generated samples towards 0; R3GAN combines it with R1.

    The samples are those before augmentation, so the gradient is taken through the augmentation.

    Source: Mescheder 2018, equation 10; Huang 2024 (R3GAN).

    Raises:
        ValueError: gamma is negative, or every is below 1.
    """

    # For the same reason as in gradient_penalty.
    with_batch_norm: ClassVar[Literal["wrong"]] = "wrong"
    schedulable: ClassVar[tuple[str, ...]] = ("gamma",)
    needs_gradients: ClassVar[Literal["fake"]] = "fake"

    def __init__(self, *, gamma: float, every: int):
        if gamma < 0:
            raise ValueError(f"gamma={gamma}: gamma must be at least 0 (10 in the paper; 0.01 to 1 is usual).")
        self.gamma: Number = gamma
        self.every = check_every(every)

    def discriminator_penalty(self, critic: Critic, batch: UpdateBatch) -> Scalar:
        """Return gamma / 2 * E[|grad D(G(z))|^2] over the generated samples."""
        return self.gamma / 2 * batch.gradients("fake", critic).square().sum(1).mean()
