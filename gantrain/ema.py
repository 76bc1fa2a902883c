"""The exponential moving average of the generator's weights."""

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(kw_only=True)
class EMA:
    """Average the weights exponentially, with a half-life in images, so that it does not depend on the batch size.

    Source: Karras 2018 (Progressive GAN), section 4, there with a fixed decay per step; the ramp-up is that of
        Karras 2020 (StyleGAN2-ADA, released code).

    Attributes:
        halflife_images: number of images after which the weight of an old value has halved; 0: copy the current values.
            A schedule may change it at each step.
        rampup: limits the half-life to this fraction of the images seen so far, so that the average soon forgets the
            random initialization (0.05 is usual); None: no limit.

    Raises:
        ValueError: halflife_images is negative, or rampup is not positive.
    """

    halflife_images: float
    rampup: float | None

    def __post_init__(self) -> None:
        if not self.halflife_images >= 0:
            raise ValueError(
                f"halflife_images={self.halflife_images}: a half-life is at least 0 images (usual: 10,000 for digits, "
                "500,000 for CIFAR-10)."
            )
        if self.rampup is not None and not self.rampup > 0:
            raise ValueError(
                f"rampup={self.rampup}: must be a fraction of the images seen, above 0, or null (0.05 is usual)."
            )

    @torch.no_grad()
    def update(self, average: nn.Module, current: nn.Module, *, num_images: int, images_seen: int) -> None:
        """Move the average towards the current weights, and copy the buffers.

        Args:
            num_images: number of images in this step, which is batch_size.
            images_seen: number of images in the earlier steps.
        """
        halflife = self.halflife_images
        if self.rampup is not None:
            halflife = min(halflife, images_seen * self.rampup)
        weight = 1 - 0.5 ** (num_images / max(halflife, 1e-8))
        torch._foreach_lerp_(list(average.parameters()), list(current.parameters()), weight)
        if buffers := list(current.buffers()):
            torch._foreach_copy_(list(average.buffers()), buffers)
