"""The networks of R3GAN (Huang 2024) for square images: residual blocks of grouped convolutions, no normalization.

At the start both are linear functions of their input, because the last convolution of each block is zero.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gantrain.losses.base import Logits
from gantrain.models import r3gan_parts as parts
from gantrain.models.precision import full_precision, run_stage, stages_in_bf16

Widths = int | Sequence[int]
"""One number for all stages, or one for each stage, from the smallest image size."""


class Generator(nn.Module):
    """Map latents z [n, z_dim] to images [n, c, h, w]; no activation limits them to [-1, 1].

    A learned basis [width, base, base] is scaled in each channel by a linear function of z. The image size doubles from
    stage to stage, after a 1x1 convolution where the width changes.

    Source: Huang 2024, section 3 and figure 1.

    Args:
        image_shape: (c, h, w) with h = w of 4 to 15 pixels times a power of 2.
        width: number of channels of each stage; a single number is halved with each doubling of the image size above
            full_width_until.
        full_width_until: the largest image size in pixels with the full width; a list of widths ignores it.
        num_blocks: number of residual blocks of each stage.
        expansion: channels within a block, as a multiple of the stage's width.
        group_size: channels in a group of a block's 3x3 convolution.
        slope: slope of the leaky ReLU below 0.
        num_bf16_stages: number of image sizes, from the largest, that may run in bf16.

    Raises:
        ValueError: the options do not fit the images or each other.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        z_dim: int,
        *,
        width: Widths,
        full_width_until: int,
        num_blocks: Widths,
        expansion: int,
        group_size: int,
        slope: float,
        num_bf16_stages: int,
    ):
        super().__init__()
        sizes = parts.stage_sizes(image_shape)
        widths = parts.stage_widths(sizes, width, full_width_until)
        counts = parts.one_per_stage("num_blocks", num_blocks, sizes)
        blocks = parts.make_blocks(widths, counts, expansion=expansion, group_size=group_size, slope=slope)
        self.basis = nn.Parameter(torch.randn(widths[0], sizes[0], sizes[0]))
        self.basis_linear = parts.linear(z_dim, widths[0])
        self.stages = nn.ModuleList([nn.Sequential(*blocks[0])])
        for i in range(1, len(sizes)):
            entry = [*parts.transition(widths[i - 1], widths[i]), parts.Upsample()]
            self.stages.append(nn.Sequential(*entry, *blocks[i]))
        self.to_image = parts.pointwise(widths[-1], image_shape[0])
        self.in_bf16 = stages_in_bf16(len(sizes), num_bf16_stages)

    def forward(self, z: Float[Tensor, "n z_dim"]) -> Float[Tensor, "n c h w"]:
        """Return the images of latents."""
        with full_precision(z.device):
            x = self.basis * self.basis_linear(z)[:, :, None, None]
        for in_bf16, stage in zip(self.in_bf16, self.stages, strict=True):
            x = run_stage(stage, x, in_bf16=in_bf16)
        images: Tensor = run_stage(self.to_image, x, in_bf16=self.in_bf16[-1])
        return images


class Features(nn.Module):
    """Map images [n, c, h, w] to features [n, d]: the discriminator up to its last layer.

    The stages mirror the generator's. A learned filter of each channel, as large as the last stage, gives one feature.

    Source: Huang 2024, section 3 and figure 1.

    Args:
        image_shape, width, ...: as in Generator.

    Attributes:
        num_features: d, the number of channels of the last stage.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        *,
        width: Widths,
        full_width_until: int,
        num_blocks: Widths,
        expansion: int,
        group_size: int,
        slope: float,
        num_bf16_stages: int,
    ):
        super().__init__()
        sizes = parts.stage_sizes(image_shape)
        widths = parts.stage_widths(sizes, width, full_width_until)
        counts = parts.one_per_stage("num_blocks", num_blocks, sizes)
        blocks = parts.make_blocks(widths, counts, expansion=expansion, group_size=group_size, slope=slope)
        self.from_image = parts.pointwise(image_shape[0], widths[-1])
        self.stages = nn.ModuleList()
        for i in reversed(range(1, len(sizes))):
            exit_ = [parts.Downsample(), *parts.transition(widths[i], widths[i - 1])]
            self.stages.append(nn.Sequential(*blocks[i], *exit_))
        self.stages.append(nn.Sequential(*blocks[0]))
        self.in_bf16 = stages_in_bf16(len(sizes), num_bf16_stages)[::-1]
        self.num_features = widths[0]
        self.basis = nn.Conv2d(widths[0], widths[0], sizes[0], groups=widths[0], bias=False)
        parts.init_normal(self.basis.weight)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Return the features of images."""
        x = run_stage(self.from_image, x, in_bf16=self.in_bf16[0])
        for in_bf16, stage in zip(self.in_bf16, self.stages, strict=True):
            x = run_stage(stage, x, in_bf16=in_bf16)
        features: Tensor = run_stage(self.basis, x, in_bf16=False).flatten(1)
        return features


class Discriminator(nn.Module):
    """Map images [n, c, h, w] to logits [n].

    Source: Huang 2024, section 3 and figure 1.

    Args:
        image_shape, width, ...: as in Generator.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        *,
        width: Widths,
        full_width_until: int,
        num_blocks: Widths,
        expansion: int,
        group_size: int,
        slope: float,
        num_bf16_stages: int,
    ):
        super().__init__()
        self.features = Features(
            image_shape,
            width=width,
            full_width_until=full_width_until,
            num_blocks=num_blocks,
            expansion=expansion,
            group_size=group_size,
            slope=slope,
            num_bf16_stages=num_bf16_stages,
        )
        self.basis_linear = parts.linear(self.features.num_features, 1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Logits:
        """Return the logits of images."""
        logits: Tensor = run_stage(self.basis_linear, self.features(x), in_bf16=False).flatten()
        return logits
