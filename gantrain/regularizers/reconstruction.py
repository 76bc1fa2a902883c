"""The reconstruction loss of a discriminator with decoders, for training on few images."""

from typing import ClassVar

from torch import Tensor
from torch.nn.functional import interpolate, mse_loss

from gantrain.losses.base import Scalar
from gantrain.models.lightweight import quarter_of
from gantrain.regularizers.base import Critic, Regularizer, UpdateBatch
from gantrain.schedules.base import Number


class Reconstruction(Regularizer):
    """Train D to reconstruct the real images that it sees from its features, so that these describe the whole image.

    The images, after augmentation, are resized to the reconstructions by taking the nearest pixel.

    Source: Liu 2021, equation 2, with the squared error, as in lightweight-gan, instead of a pretrained distance.

    Args:
        weight: weight of the mean squared error, of images in [-1, 1].

    Raises:
        ValueError: the weight is negative.

    Attributes:
        needs_decoder: whether D must have the attribute `has_decoder`; checked before the first step.
    """

    needs_decoder: ClassVar[bool] = True
    needs_images: ClassVar[bool] = True
    schedulable: ClassVar[tuple[str, ...]] = ("weight",)

    def __init__(self, *, weight: float):
        if weight < 0:
            raise ValueError(
                f"weight={weight}: the weight of a reconstruction loss must be at least 0 (0.25 is usual)."
            )
        self.weight: Number = weight

    def discriminator_penalty(self, critic: Critic, batch: UpdateBatch) -> Scalar:
        """Return weight * (E[(x - reconstruction)^2] + the same for a quarter of each image, if D decodes one)."""
        outputs, images = batch.real_aux, batch.real_augmented
        error = squared_error(outputs["reconstruction"], images)
        if "part" in outputs:
            error = error + squared_error(outputs["part"], quarter_of(images, outputs["quarter"]))
        return self.weight * error


def squared_error(reconstruction: Tensor, images: Tensor) -> Scalar:
    """Return the mean squared error of a reconstruction, for images that are resized to it."""
    return mse_loss(reconstruction, interpolate(images.detach(), reconstruction.shape[2:]))
