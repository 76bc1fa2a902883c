"""Residual blocks that double or halve the size of feature maps, and how many channels they have."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, relu

from gantrain.models import dcgan, layers
from gantrain.models.layers import InitName
from gantrain.models.spectral_norm import NUM_FIRST_ITERATIONS, iterate_spectral_norms, original_weight

UpsampleName = Literal["nearest", "bilinear"]
ResidualInit = Literal["glorot", "dcgan", "xavier", "kaiming", "orthogonal", "default"]
"""The `init` of a residual network: "glorot", or one of layers.InitName."""

SMALL = 32
"""Up to this size of the image, in pixels, all layers have the same number of channels."""

SMALL_GENERATOR, SMALL_DISCRIMINATOR, WIDEST = 4, 2, 16
"""Numbers of channels as multiples of `width`: for small images in G and in D, and the largest for others."""

DISCRIMINATOR_BLOCKS = {48: (5, 4), 64: (5, 5), 128: (6, 5)}
"""Number of D's blocks, and how many of them halve the size, by the size of the image (published networks)."""


class UpBlock(nn.Module):
    """Map features [n, num_in, h, w] to [n, num_out, 2h, 2w].

    The residual branch is norm, ReLU, upsampling, 3x3 convolution, norm, ReLU, 3x3 convolution. The shortcut is a 1x1
    convolution before the upsampling; that equals the usual order, because both are linear and the weights of the
    upsampling have sum 1, and takes a quarter of the time.

    Source: Miyato 2018, appendix B.4; the released code of Gulrajani 2017 for CIFAR-10.

    Args:
        norm: makes the normalization of a number of channels; it is called with the features and `condition`.
    """

    def __init__(self, num_in: int, num_out: int, *, norm: Callable[[int], nn.Module], upsample: UpsampleName):
        super().__init__()
        self.norm1, self.norm2 = norm(num_in), norm(num_out)
        self.conv1 = nn.Conv2d(num_in, num_out, 3, padding=1)
        self.conv2 = nn.Conv2d(num_out, num_out, 3, padding=1)
        self.shortcut = nn.Conv2d(num_in, num_out, 1)
        self.upsample: UpsampleName = upsample

    def forward(self, x: Float[Tensor, "n num_in h w"], *condition: Tensor) -> Float[Tensor, "n num_out h2 w2"]:
        """Return the features of twice the size; `condition` is passed to the normalizations."""
        residual = self.conv1(double(relu(self.norm1(x, *condition)), self.upsample))
        residual = self.conv2(relu(self.norm2(residual, *condition)))
        output: Tensor = residual + double(self.shortcut(x), self.upsample)
        return output


class DownBlock(nn.Module):
    """Map features [n, num_in, h, w] to [n, num_out, h / 2, w / 2], or without downsampling to [n, num_out, h, w].

    The residual branch is ReLU, 3x3 convolution, ReLU, 3x3 convolution, average pooling; the first block of a network
    has no ReLU before its first convolution, because its input is an image. The shortcut is average pooling, then a 1x1
    convolution, and the identity where the shape stays. In the other order it has the same values, because both are
    linear, and takes four times as long.

    Source: Miyato 2018, appendix B.4; the released code of Gulrajani 2017 for CIFAR-10.

    Args:
        num_hidden: number of channels between the two convolutions.
        first: whether the block is the first of its network.
    """

    def __init__(self, num_in: int, num_out: int, *, num_hidden: int, downsample: bool, first: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(num_in, num_hidden, 3, padding=1)
        self.conv2 = nn.Conv2d(num_hidden, num_out, 3, padding=1)
        self.shortcut = nn.Conv2d(num_in, num_out, 1) if downsample or num_in != num_out else nn.Identity()
        self.downsample, self.first = downsample, first

    def forward(self, x: Float[Tensor, "n num_in h w"]) -> Float[Tensor, "n num_out h2 w2"]:
        """Return the features after the block; the input is not changed."""
        residual = self.conv2(relu(self.conv1(x if self.first else relu(x))))
        if self.downsample:
            residual, x = avg_pool2d(residual, 2), avg_pool2d(x, 2)
        output: Tensor = residual + self.shortcut(x)
        return output


def double(x: Float[Tensor, "n c h w"], mode: UpsampleName) -> Float[Tensor, "n c h2 w2"]:
    """Double the height and width of feature maps."""
    return interpolate(x, scale_factor=2, mode=mode, align_corners=None if mode == "nearest" else False)


def initialize(module: nn.Module, init: ResidualInit) -> None:
    """Initialize every layer of the module in place.

    "glorot": weights are uniform with the bounds of Glorot 2010, times sqrt(2) for the 3x3 convolutions of residual
    blocks, which follow a ReLU; biases are 0. Embeddings get a gain of 1, too. Other names: see layers.initialize.

    Source: the released code of Gulrajani 2017 and of Miyato 2018.
    """
    if init != "glorot":
        name: InitName = init
        layers.initialize(module, name)
        return
    blocks = [block for block in module.modules() if isinstance(block, UpBlock | DownBlock)]
    rectified = {conv for block in blocks for conv in (block.conv1, block.conv2)}
    for layer in module.modules():
        weight, bias = original_weight(layer), getattr(layer, "bias", None)
        if isinstance(weight, nn.Parameter) and weight.dim() > 1:
            nn.init.xavier_uniform_(weight, gain=math.sqrt(2) if layer in rectified else 1.0)
        if isinstance(bias, nn.Parameter):
            nn.init.zeros_(bias)
    for _ in range(NUM_FIRST_ITERATIONS):
        iterate_spectral_norms(module)  # u and v belonged to the previous weights


def generator_layout(
    image_shape: Sequence[int], *, width: int, multipliers: Sequence[int] | None
) -> tuple[int, list[int]]:
    """Return the size of G's base, and the number of channels at each size from the base to the image.

    Without multipliers: up to 32 px 4 width channels everywhere; for larger images `width` in the last layer, and twice
    as many at half the size, up to 16 width. With width 64 these are the published networks for 32, 48, 64 and 128 px.

    Source: Miyato 2018, appendix B.4, tables 4 to 6.

    Args:
        image_shape: (c, h, w) with h = w a multiple of 4 from 16 to 256.
        multipliers: number of channels at each size, from the base to the image, divided by `width`; or None.

    Raises:
        ValueError: the shape is not that of such an image, or the multipliers do not fit it.
    """
    layers.check_width(width)
    dcgan.check_channels(image_shape, kind="a ResNet")
    _, halvings = dcgan.base_and_halvings(image_shape, kind="a ResNet")
    if multipliers is None:
        doubling = [min(2**i, WIDEST) for i in reversed(range(halvings + 1))]
        multipliers = [SMALL_GENERATOR] * (halvings + 1) if image_shape[1] <= SMALL else doubling
    doublings = len(multipliers) - 1
    check_multipliers(multipliers, at_least=2)
    if image_shape[1] % 2**doublings:
        raise ValueError(
            f"multipliers={list(multipliers)}: {doublings} doublings make images with a side that is a multiple of "
            f"{2**doublings}, but it is {image_shape[1]}; use {halvings + 1} multipliers, or null."
        )
    return image_shape[1] // 2**doublings, [width * multiplier for multiplier in multipliers]


def discriminator_layout(
    image_shape: Sequence[int], *, width: int, multipliers: Sequence[int] | None, num_halvings: int | None
) -> tuple[list[int], int]:
    """Return the number of channels after each of D's blocks, and how many of them, the first ones, halve the size.

    Without multipliers: up to 32 px four blocks with 2 width channels, the first two of which halve the size; for
    larger images `width` channels after the first block, and twice as many after each further one, up to 16 width.

    Source: Miyato 2018, appendix B.4, tables 4 to 6.

    Args:
        image_shape: (c, h, w) with h = w a multiple of 4 from 16 to 256.
        multipliers: number of channels after each block, divided by `width`; or None.
        num_halvings: number of blocks that halve the size; None: as in the published networks.

    Raises:
        ValueError: the shape is not that of such an image, or the multipliers do not fit it.
    """
    layers.check_width(width)
    size = image_shape[1] if len(image_shape) == 3 else 0
    _, halvings = dcgan.base_and_halvings(image_shape, kind="a ResNet")
    num_blocks, default = (4, 2) if size <= SMALL else DISCRIMINATOR_BLOCKS.get(size, (halvings + 1, halvings))
    if multipliers is None:
        doubling = [min(2**i, WIDEST) for i in range(num_blocks)]
        multipliers = [SMALL_DISCRIMINATOR] * num_blocks if size <= SMALL else doubling
    check_multipliers(multipliers, at_least=1)
    num_halvings = min(default, len(multipliers)) if num_halvings is None else num_halvings
    if not 0 <= num_halvings <= len(multipliers) or size < 2**num_halvings:
        most = min(len(multipliers), int(math.log2(size)))
        raise ValueError(
            f"num_halvings={num_halvings}: {len(multipliers)} blocks can halve {size} pixels 0 to {most} times; "
            "null takes the published number."
        )
    return [width * multiplier for multiplier in multipliers], num_halvings


def check_multipliers(multipliers: Sequence[int], *, at_least: int) -> None:
    """Check that there are enough multipliers, all of them at least 1.

    Raises:
        ValueError: there are too few, or one is below 1.
    """
    if len(multipliers) < at_least or min(multipliers) < 1:
        raise ValueError(
            f"multipliers={list(multipliers)}: must be at least {at_least} whole numbers from 1, for example "
            "[4,4,4,4], or null."
        )


def check_attention(attention: Sequence[int], num_blocks: int) -> None:
    """Check the numbers of the blocks after which self-attention is applied.

    Raises:
        ValueError: there is no such block.
    """
    if not set(attention) <= {*range(1, num_blocks + 1)}:
        raise ValueError(
            f"attention={list(attention)}: the network has {num_blocks} blocks; choose numbers from 1 to {num_blocks}, "
            "for example [2], or [] for none."
        )


def pool(x: Float[Tensor, "n c h w"], name: Literal["sum", "mean"]) -> Float[Tensor, "n c"]:
    """Return the sum or the mean over all pixels."""
    return torch.sum(x, (2, 3)) if name == "sum" else torch.mean(x, (2, 3))
