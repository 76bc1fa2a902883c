"""The lightweight GAN for few images (Liu 2021, FastGAN), in the form of lightweight-gan: no pretrained weights."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from gantrain.losses.base import Logits
from gantrain.models import lightweight_parts as parts
from gantrain.models.layers import activation
from gantrain.regularizers.base import Auxiliary
from gantrain.seeding import own_rows

LEAP = 8
"""Features at a size excite those at this multiple of the size."""

SMALL_SIZE = 32
"""Size of the copy of the image that D's second head sees."""

LARGEST_BLOCK, LAST_BLOCK = 256, 16
"""Sizes of the input of D's first and last block; larger images are first halved by a convolution."""


class Generator(nn.Module):
    """Map latents z [n, z_dim] to images [n, c, h, w].

    From 4x4 pixels with z_dim channels, each block doubles the size. Features at 16, 32 and 64 px excite the channels
    of those at 8 times the size, if the image is as large (skip-layer excitation).

    Source: Liu 2021, section 3.1 and figures 3 and 4.

    Args:
        image_shape: (c, h, w) with h = w of 32, 64, 128, 256 or 512 pixels.
        width: number of channels up to 16 px; halved with each doubling of the size above. The last block for 512 px
            has as many as the image.
        attention: sizes in pixels; a block whose input has one of them is preceded by attention. Other sizes have no
            effect, so that one setting fits images of all sizes.
        num_heads, head_dim: of the attention.
        antialias: whether to blur where the size changes.
        output: activation of the images: tanh, for values in (-1, 1), or linear.

    Raises:
        ValueError: the options do not fit the images.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        z_dim: int,
        *,
        width: int,
        attention: Sequence[int],
        num_heads: int,
        head_dim: int,
        antialias: bool,
        output: Literal["tanh", "linear"],
    ):
        super().__init__()
        size = parts.image_size(image_shape)
        parts.check_options(width, attention, num_heads, head_dim)
        channels = image_shape[0]
        self.start = nn.Sequential(nn.ConvTranspose2d(z_dim, 2 * z_dim, 4), nn.BatchNorm2d(2 * z_dim), nn.GLU(dim=1))
        self.blocks, widths = nn.ModuleList(), {4: z_dim}
        for s in doublings(4, size // 2):
            widths[2 * s] = channels if s >= LARGEST_BLOCK else parts.width_at(width, s)
            before = [parts.Attention(widths[s], num_heads=num_heads, head_dim=head_dim)] * (s in attention)
            block = parts.UpBlock(widths[s], widths[2 * s], size=2 * s, antialias=antialias)
            self.blocks.append(nn.Sequential(*before, block))
        excited = [s for s in doublings(16, 64) if LEAP * s <= size]
        self.excitations = nn.ModuleDict({str(s): parts.Excitation(widths[s], widths[LEAP * s]) for s in excited})
        self.to_image = nn.Sequential(nn.Conv2d(widths[size], channels, 3, padding=1), activation(output))
        parts.initialize(self)

    def forward(self, z: Float[Tensor, "n z_dim"]) -> Float[Tensor, "n c h w"]:
        """Return the images of latents."""
        x = parts.unit_length(self.start(z[:, :, None, None]))
        factors: dict[int, Tensor] = {}
        for block in self.blocks:
            x = block(x)
            size = x.shape[-1]
            if str(size) in self.excitations:
                factors[LEAP * size] = self.excitations[str(size)](x)
            if size in factors:
                x = x * factors[size]
        images: Tensor = self.to_image(x)
        return images


class Discriminator(nn.Module):
    """Map images [n, c, h, w] to logits of two heads, and to reconstructions of the images from D's features.

    The first head gives 5x5 logits, each of a part of the image; the second one gives a logit of a copy of 32x32
    pixels. The loss is the sum over both heads; everything else uses the mean of all 26 logits.

    Source: Liu 2021, section 3.2 and figure 4; second head as in lightweight-gan.

    Args:
        image_shape, width, ...: as in Generator.

    Attributes:
        heads: names of the auxiliary outputs that are the logits [n, k] of a head.
        has_decoder: whether it reconstructs its input, unless it is called with decode=False.
    """

    heads = ("patch_logits", "small_logits")
    has_decoder = True

    def __init__(
        self,
        image_shape: Sequence[int],
        *,
        width: int,
        attention: Sequence[int],
        num_heads: int,
        head_dim: int,
        antialias: bool,
    ):
        super().__init__()
        size = parts.image_size(image_shape)
        parts.check_options(width, attention, num_heads, head_dim)
        channels, first = image_shape[0], min(size, LARGEST_BLOCK)
        attend = partial(parts.Attention, num_heads=num_heads, head_dim=head_dim)
        num_in, self.stem = channels, nn.Sequential()
        if size > first:
            num_in = parts.width_at(width, first)
            conv = nn.Conv2d(channels, num_in, 4, stride=2, padding=1)
            self.stem = nn.Sequential(*parts.blurs(antialias), conv, parts.activation())
        self.blocks = nn.ModuleList()
        for s in reversed(doublings(LAST_BLOCK, first)):
            num_out = parts.width_at(width, s // 2)
            before = [attend(num_in)] * (s in attention)
            self.blocks.append(nn.Sequential(*before, parts.DownBlock(num_in, num_out, antialias=antialias)))
            num_in = num_out
        last = nn.Conv2d(num_in, 1, 4)
        self.to_patch_logits = nn.Sequential(nn.Conv2d(num_in, num_in, 1), parts.activation(), last)
        wide, narrow = parts.width_at(width, 64), parts.width_at(width, 128)
        self.to_small_logits = nn.Sequential(
            nn.Conv2d(channels, wide, 3, padding=1),
            attend(wide),
            parts.DownBlock(wide, narrow, antialias=antialias),
            attend(narrow),
        )
        self.last_small = nn.Conv2d(narrow, 1, 4)
        self.decoder = parts.Decoder(num_in, channels)
        self.part_decoder = parts.Decoder(parts.width_at(width, 16), channels) if size == 512 else None
        parts.initialize(self)
        for head in (last, self.last_small):
            # Otherwise the first gradients are so steep that, for hundreds of updates, a gradient penalty dominates
            # Adam's second moments, and D hardly learns to tell images apart.
            nn.init.zeros_(head.weight)

    def forward(self, x: Float[Tensor, "n c h w"], *, decode: bool = True) -> tuple[Logits, Auxiliary]:
        """Return the mean logits of images, and by name the logits of the heads and the reconstructions.

        Args:
            decode: whether to reconstruct. `reconstruction` [n, c, 128, 128] is that of the whole image. For 512 px,
                `part` [n, c, 128, 128] is that of a random quarter, and `quarter` [n], from 0 to 3, says of which.
        """
        features = [self.stem(x)]
        for block in self.blocks:
            features.append(block(features[-1]))
        small = adaptive_avg_pool2d(self.to_small_logits(interpolate(x, SMALL_SIZE)), 4)
        outputs: Auxiliary = {
            "patch_logits": self.to_patch_logits(features[-1]).flatten(1),
            "small_logits": self.last_small(small).flatten(1),
        }
        logits = torch.cat(list(outputs.values()), dim=1).mean(1)
        if decode:
            outputs["reconstruction"] = self.decoder(features[-1])
            if self.part_decoder is not None:
                outputs["quarter"] = own_rows(partial(torch.randint, 4, device=x.device), [len(x)])
                outputs["part"] = self.part_decoder(quarter_of(features[-2], outputs["quarter"]))
        return logits, outputs


def doublings(first: int, last: int) -> list[int]:
    """List first, 2 * first, 4 * first, ..., last."""
    return [first] if first >= last else [first, *doublings(2 * first, last)]


def quarter_of(x: Float[Tensor, "n c h w"], quarter: Int64[Tensor, " n"]) -> Float[Tensor, "n c h_half w_half"]:
    """Return a quarter of each image: 0 and 1 are the upper ones, from left to right, 2 and 3 the lower ones."""
    halves = (half for part in x.chunk(2, dim=2) for half in part.chunk(2, dim=3))
    quarters = torch.stack(list(halves), dim=1)
    index = quarter.long().view(-1, 1, 1, 1, 1).expand(-1, 1, *quarters.shape[2:])
    return quarters.gather(1, index).squeeze(1)
