"""The parts of R3GAN's networks (Huang 2024): stages, residual blocks, resampling and initialization."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv_transpose2d

from gantrain.models import layers

MIN_BASE, MAX_BASE = 4, 15
LAYERS_OF_A_BLOCK = 3


def stage_sizes(image_shape: Sequence[int], network: str = "R3GAN") -> list[int]:
    """Return the image sizes of the stages: from the base of 4 to 15 pixels to that of the image, doubling.

    A size of 32 gives [4, 8, 16, 32], 28 gives [7, 14, 28].

    Args:
        network: its name, for messages.

    Raises:
        ValueError: the shape is not that of a square image whose side is 4 to 15 pixels times a power of 2.
    """
    if len(image_shape) != 3 or image_shape[1] != image_shape[2]:
        raise ValueError(
            f"{network} needs square images, but the data has shape {tuple(image_shape)}; "
            "choose a square dataset.image_size, or network=mlp, which takes any shape."
        )
    sizes = [int(image_shape[1])]
    while sizes[0] % 2 == 0 and sizes[0] // 2 >= MIN_BASE:
        sizes.insert(0, sizes[0] // 2)
    if not MIN_BASE <= sizes[0] <= MAX_BASE:
        near = max(0, round(math.log2(max(sizes[-1], 1) / MIN_BASE)))
        raise ValueError(
            f"{network} needs images with a side of {MIN_BASE} to {MAX_BASE} pixels times a power of 2, but it is "
            f"{sizes[-1]}; try dataset.image_size={MIN_BASE * 2**near}."
        )
    return sizes


def stage_widths(sizes: Sequence[int], width: int | Sequence[int], full_width_until: int) -> list[int]:
    """Return the number of channels of each stage.

    Args:
        width: one number for each stage, from the smallest image size; or a single one, which is halved with each
            doubling of the image size above `full_width_until`.

    Raises:
        ValueError: a width or full_width_until is below 1, or the list has another length than there are stages.
    """
    if full_width_until < 1:
        raise ValueError(f"full_width_until={full_width_until}: an image has at least one pixel (32 is usual).")
    widths = one_per_stage("width", width, sizes)
    for value in widths:
        layers.check_width(value)
    if isinstance(width, int):
        halvings = [max(0, math.ceil(math.log2(size / full_width_until))) for size in sizes]
        widths = [max(1, width // 2**n) for n in halvings]
    return widths


def one_per_stage(name: str, value: int | Sequence[int], sizes: Sequence[int]) -> list[int]:
    """Return an option as a list with one number for each stage.

    Raises:
        ValueError: it is a list of another length.
    """
    values = [value] * len(sizes) if isinstance(value, int) else list(value)
    if len(values) != len(sizes):
        raise ValueError(
            f"{name}={values}: must be one number, or one for each of the {len(sizes)} stages, which have "
            f"{', '.join(map(str, sizes))} pixels."
        )
    return values


class Upsample(nn.Module):
    """Double height and width: linear interpolation by the filter [1, 3, 3, 1], with zeros outside of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", 4 * filter_1331(), persistent=False)
        self.kernel: Tensor

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h_up w_up"]:
        """Return the features at twice the size."""
        c = x.shape[1]
        return conv_transpose2d(x, self.kernel.expand(c, 1, 4, 4), stride=2, padding=1, groups=c)


class Downsample(nn.Module):
    """Apply the filter [1, 3, 3, 1], with zeros outside of the image, and keep every second row and column."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", filter_1331(), persistent=False)
        self.kernel: Tensor

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h_down w_down"]:
        """Return the features at half the size."""
        c = x.shape[1]
        return torch.conv2d(x, self.kernel.expand(c, 1, 4, 4), stride=2, padding=1, groups=c)


def filter_1331() -> Float[Tensor, "1 1 4 4"]:
    """Return the outer product of [1, 3, 3, 1] with itself, divided by its sum."""
    row = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    return torch.outer(row, row)[None, None]


class Block(nn.Module):
    """Add a residual to x: 1x1 convolution to `expansion` times the width, grouped 3x3 convolution, 1x1 back.

    A leaky ReLU without output gain follows the first two convolutions, and only these have biases. Nothing follows the
    sum.

    Source: Huang 2024, section 3 (inverted bottleneck, grouped convolution, no normalization).

    Args:
        group_size: number of channels in a group; if there are fewer, they are one group.

    Raises:
        ValueError: expansion or group_size is below 1, or the channels cannot be divided into groups.
    """

    def __init__(self, width: int, *, expansion: int, group_size: int, slope: float):
        super().__init__()
        for name, value, usual in (("expansion", expansion, 2), ("group_size", group_size, 16)):
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1 ({usual} is usual).")
        hidden = expansion * width
        size = min(group_size, hidden)
        if hidden % size:
            raise ValueError(
                f"width={width}: a block has {expansion} * {width} = {hidden} channels, which cannot be divided into "
                f"groups of group_size={size}; the width of every stage must be a multiple of "
                f"{size // math.gcd(size, expansion)}."
            )
        self.slope = slope
        self.conv1 = nn.Conv2d(width, hidden, 1)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden // size)
        self.conv3 = nn.Conv2d(hidden, width, 1, bias=False)
        self.activation = layers.activation("leaky_relu", slope)

    def initialize(self, num_blocks: int) -> None:
        """Initialize the block in place, for a network with this number of blocks.

        The gain of a leaky ReLU, sqrt(2 / (1 + slope^2)), is multiplied by L^(-1 / (2 m - 2)) for L blocks with m = 3
        layers, and the last convolution is zero. So neither the features nor the first updates grow with L.

        Source: Zhang 2019 (Fixup), section 3; Huang 2024.
        """
        gain = math.sqrt(2 / (1 + self.slope**2)) * num_blocks ** (-1 / (2 * LAYERS_OF_A_BLOCK - 2))
        for conv in (self.conv1, self.conv2):
            init_normal(conv.weight, gain)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)
        nn.init.zeros_(self.conv3.weight)

    def forward(self, x: Float[Tensor, "n width h w"]) -> Float[Tensor, "n width h w"]:
        """Return x plus the residual."""
        hidden = self.activation(self.conv2(self.activation(self.conv1(x))))
        output: Tensor = x + self.conv3(hidden)
        return output


def make_blocks(widths: Sequence[int], counts: Sequence[int], **options: float) -> list[list[nn.Module]]:
    """Make the initialized blocks of each stage.

    Args:
        counts: number of blocks of each stage.
        options: expansion, group_size and slope.

    Raises:
        ValueError: a number of blocks is negative, or an option does not fit.
    """
    if min(counts) < 0:
        raise ValueError(f"num_blocks={list(counts)}: must be at least 0 in each stage (2 is usual).")
    blocks: list[list[nn.Module]] = []
    for width, count in zip(widths, counts, strict=True):
        made = [Block(width, **options) for _ in range(count)]  # type: ignore[arg-type]
        for block in made:
            block.initialize(sum(counts))
        blocks.append([*made])
    return blocks


def init_normal(weight: Tensor, gain: float = 1.0) -> None:
    """Draw a weight [out, in, ...] from N(0, gain^2 / fan-in)."""
    nn.init.normal_(weight, std=gain / math.sqrt(weight[0].numel()))


def linear(num_in: int, num_out: int) -> nn.Linear:
    """Make a linear layer without bias, with weights from N(0, 1 / fan-in)."""
    layer = nn.Linear(num_in, num_out, bias=False)
    init_normal(layer.weight)
    return layer


def pointwise(num_in: int, num_out: int) -> nn.Conv2d:
    """Make a 1x1 convolution without bias, with weights from N(0, 1 / fan-in)."""
    layer = nn.Conv2d(num_in, num_out, 1, bias=False)
    init_normal(layer.weight)
    return layer


def transition(num_in: int, num_out: int) -> list[nn.Module]:
    """Make a 1x1 convolution between stages, as a list that is empty if their widths are equal."""
    return [] if num_in == num_out else [pointwise(num_in, num_out)]


def label_embedding(num_classes: int, embedding_dim: int, gain: float = 1.0) -> nn.Embedding:
    """Make a linear layer of one-hot labels without bias: a vector for each class, from N(0, gain^2 / num_classes).

    Raises:
        ValueError: num_classes or embedding_dim is below 1.
    """
    embedding = layers.label_embedding(num_classes, embedding_dim)
    nn.init.normal_(embedding.weight, std=gain / math.sqrt(num_classes))
    return embedding
