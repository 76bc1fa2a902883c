"""The exponential moving average of the generator's weights."""

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class EMA:
    """Average whose memory is given in images, so that it means the same at every batch size.

    Source: Karras 2018 (Progressive GAN), section 4, there with a fixed decay a step.
    """

    halflife_images: float

    @torch.no_grad()
    def update(self, average: nn.Module, current: nn.Module, *, num_images: int) -> None:
        """Move the average towards the current weights by what `num_images` weigh; buffers are copied."""
        weight = 1 - 0.5 ** (num_images / self.halflife_images)
        torch._foreach_lerp_(list(average.parameters()), list(current.parameters()), weight)
        if buffers := list(current.buffers()):
            torch._foreach_copy_(list(average.buffers()), buffers)
