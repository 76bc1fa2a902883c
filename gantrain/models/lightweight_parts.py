"""The parts of the lightweight GAN's networks (Liu 2021): up and down blocks, excitation, attention, decoder."""

from collections.abc import Sequence
from functools import partial, reduce

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize, pad

from gantrain.models import layers
from gantrain.seeding import own_rows

SIZES = (32, 64, 128, 256, 512)
"""Sizes of the images that the networks take, in pixels."""

SLOPE = 0.1
"""Slope of every leaky ReLU below 0."""

Features = Float[Tensor, "n c h w"]


def image_size(image_shape: Sequence[int]) -> int:
    """Return the side of square images, in pixels.

    Raises:
        ValueError: the shape is not that of a square image with a side of 32 to 512 pixels, a power of 2.
    """
    sizes = ", ".join(map(str, SIZES))
    if len(image_shape) != 3 or image_shape[1] != image_shape[2] or image_shape[1] not in SIZES:
        shape = tuple(image_shape)
        side = image_shape[-1] if len(image_shape) == 3 else SIZES[1]
        near = min(SIZES, key=lambda size: abs(size - side))
        other = "" if len(image_shape) == 3 else ", or network=mlp, which takes any shape"
        raise ValueError(
            f"network=lightweight needs square images with a side of {sizes} pixels, but the data has shape {shape}; "
            f"try dataset.image_size={near}{other}."
        )
    return int(image_shape[1])


def width_at(width: int, size: int) -> int:
    """Return the number of channels at a size in pixels: `width` up to 8 px, halved with each doubling above."""
    return max(1, width * 8 // max(size, 8))


def check_options(width: int, attention: Sequence[int], num_heads: int, head_dim: int) -> None:
    """Check the options that both networks have.

    Raises:
        ValueError: an option is out of its range.
    """
    layers.check_width(width)
    for size in attention:
        if size not in (4, 8, 16, 32, 64, 128, 256):
            raise ValueError(
                f"attention={list(attention)}: must list sizes in pixels, powers of 2 from 4 to 256, for example [32]."
            )
    for name, value, usual in (("num_heads", num_heads, 8), ("head_dim", head_dim, 64)):
        if value < 1:
            raise ValueError(f"{name}={value}: attention needs at least 1 ({usual} is usual).")


def initialize(network: nn.Module) -> None:
    """Draw the weights of all convolutions from N(0, 2 / fan-in), as in the released code; the others stay as they are.

    Source: He 2015, equation 10.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)


def activation() -> nn.Module:
    """Make a leaky ReLU."""
    return layers.activation("leaky_relu", SLOPE)


class Blur(nn.Module):
    """Blur each channel by the filter [1, 2, 1] in both directions; the edges are reflected.

    Source: Zhang 2019 (antialiasing), section 3.
    """

    def __init__(self) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("kernel", torch.outer(row, row)[None, None], persistent=False)
        self.kernel: Tensor

    def forward(self, x: Features) -> Features:
        """Return the blurred features."""
        c = x.shape[1]
        return torch.conv2d(pad(x, (1, 1, 1, 1), mode="reflect"), self.kernel.expand(c, 1, 3, 3), groups=c)


def blurs(antialias: bool) -> list[nn.Module]:
    """Make a blur, as a list that is empty without antialiasing."""
    return [Blur()] if antialias else []


class Noise(nn.Module):
    """Add one channel of noise from N(0, 1) to all channels, times a learned factor that starts at 0.

    In evaluation mode all samples get the same noise, so that a sample depends only on its latent.

    Source: Karras 2019 (StyleGAN), section 2, there with a factor for each channel.

    Args:
        size: height and width of the features.
    """

    def __init__(self, size: int):
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(1))
        self.register_buffer("fixed", torch.randn(1, 1, size, size))
        self.fixed: Tensor

    def forward(self, x: Features) -> Features:
        """Return the features with noise."""
        if not self.training:
            return x + self.scale * self.fixed
        draw = partial(torch.randn, dtype=x.dtype, device=x.device)
        return x + self.scale * own_rows(draw, [len(x), 1, *x.shape[2:]])


class Upsample(nn.Sequential):
    """Double height and width: 1x1 convolution to 4 times the channels, SiLU, and pixel shuffle.

    Source: Shi 2016 (sub-pixel convolution), equation 4.
    """

    def __init__(self, num_channels: int):
        super().__init__(nn.Conv2d(num_channels, 4 * num_channels, 1), nn.SiLU(), nn.PixelShuffle(2))


class UpBlock(nn.Module):
    """Double height and width: upsampling, 4x4 convolution, noise, BatchNorm, and a gated linear unit (GLU).

    Source: Liu 2021, section 3.1 and figure 4; upsampling, kernel size and noise as in lightweight-gan.

    Args:
        size: height and width of the output.
        antialias: whether to blur after upsampling.
    """

    def __init__(self, num_in: int, num_out: int, *, size: int, antialias: bool):
        super().__init__()
        self.upsample = nn.Sequential(Upsample(num_in), *blurs(antialias))
        # An even kernel has no center: one more row and column of zeros on the side of the first pixel.
        self.conv = nn.Sequential(nn.ZeroPad2d((2, 1, 2, 1)), nn.Conv2d(num_in, 2 * num_out, 4))
        self.noise = Noise(size)
        self.norm = nn.BatchNorm2d(2 * num_out)
        self.gate = nn.GLU(dim=1)

    def forward(self, x: Features) -> Float[Tensor, "n c_out h_up w_up"]:
        """Return the features at twice the size."""
        output: Tensor = self.gate(self.norm(self.noise(self.conv(self.upsample(x)))))
        return output


class Excitation(nn.Module):
    """Compute a factor in (0, 1) for each channel of larger features, from the features at a small size.

    This is skip-layer excitation, with the pooling by attention of global context networks: a weighted mean over the
    pixels, then two 1x1 convolutions.

    Source: Liu 2021, equation 1 (there with average pooling); Cao 2019 (global context), section 3.2.
    """

    def __init__(self, num_in: int, num_out: int):
        super().__init__()
        hidden = max(3, num_out // 2)
        self.attention_logit = nn.Conv2d(num_in, 1, 1)
        self.squeeze, self.expand = nn.Conv2d(num_in, hidden, 1), nn.Conv2d(hidden, num_out, 1)
        self.activation = activation()

    def forward(self, x: Features) -> Float[Tensor, "n c_out 1 1"]:
        """Return the factors for the larger features."""
        weights = torch.softmax(self.attention_logit(x).flatten(2), dim=2)
        pooled = (x.flatten(2) @ weights.mT)[..., None]
        return torch.sigmoid(self.expand(self.activation(self.squeeze(pooled))))


def downsample(num_in: int, num_out: int) -> nn.Module:
    """Make a layer that halves height and width: the pixels of each 2x2 block to channels, and a 1x1 convolution.

    Source: Sunkara and Luo 2022 (space to depth), section 3.
    """
    return nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * num_in, num_out, 1))


class DownBlock(nn.Module):
    """Halve height and width: the sum of a branch of two convolutions and one of average pooling.

    Source: Liu 2021, section 3.2 and figure 4, there with the mean of both.
    """

    def __init__(self, num_in: int, num_out: int, *, antialias: bool):
        super().__init__()
        conv = nn.Conv2d(num_out, num_out, 3, padding=1)
        self.convs = nn.Sequential(*blurs(antialias), downsample(num_in, num_out), activation(), conv, activation())
        self.pooled = nn.Sequential(*blurs(antialias), nn.AvgPool2d(2), nn.Conv2d(num_in, num_out, 1), activation())

    def forward(self, x: Features) -> Float[Tensor, "n c_out h_down w_down"]:
        """Return the features at half the size."""
        output: Tensor = self.convs(x) + self.pooled(x)
        return output


class ChannelNorm(nn.Module):
    """Normalize over the channels at each pixel, with a learned scale and shift for each channel."""

    def __init__(self, num_channels: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, num_channels, 1, 1))
        self.shift = nn.Parameter(torch.zeros(1, num_channels, 1, 1))

    def forward(self, x: Features) -> Features:
        """Return the normalized features."""
        centered = x - x.mean(1, keepdim=True)
        return centered * torch.rsqrt(centered.square().mean(1, keepdim=True) + 1e-5) * self.scale + self.shift


class Attention(nn.Module):
    """Add linear attention over all pixels, and ordinary attention over the 3x3 pixels around each one.

    The cost grows linearly with the number of pixels, unlike that of SAGAN's attention.

    Source: Shen 2021 (efficient attention), section 3.2; the local part as in lightweight-gan.
    """

    def __init__(self, num_channels: int, *, num_heads: int, head_dim: int):
        super().__init__()
        inner = num_heads * head_dim
        self.num_heads, self.head_dim = num_heads, head_dim
        self.norm = ChannelNorm(num_channels)
        self.global_query = nn.Conv2d(num_channels, inner, 1, bias=False)
        depthwise = nn.Conv2d(num_channels, num_channels, 3, padding=1, groups=num_channels, bias=False)
        self.global_key_value = nn.Sequential(depthwise, nn.Conv2d(num_channels, 2 * inner, 1, bias=False))
        self.local_query = nn.Conv2d(num_channels, inner, 1, bias=False)
        self.local_key_value = nn.Conv2d(num_channels, 2 * inner, 1, bias=False)
        self.activation = nn.GELU()
        self.out = nn.Conv2d(2 * inner, num_channels, 1)

    def forward(self, x: Features) -> Features:
        """Return x plus the attention."""
        normed = self.norm(x)
        attended = [self.activation(self.attend_globally(normed)), self.attend_locally(normed)]
        output: Tensor = x + self.out(torch.cat(attended, dim=1))
        return output

    def split(self, x: Features) -> Float[Tensor, "n heads d h w"]:
        """Split the channels into heads."""
        return x.reshape(len(x), self.num_heads, self.head_dim, *x.shape[2:])

    def attend_globally(self, x: Features) -> Float[Tensor, "n inner h w"]:
        """Return for each pixel a combination of values that are weighted over all pixels."""
        query = self.split(self.global_query(x)).flatten(3)
        key, value = (self.split(part).flatten(3) for part in self.global_key_value(x).chunk(2, dim=1))
        context = torch.softmax(key, dim=3) @ value.mT  # [n, heads, d of the key, d of the value]
        attended: Tensor = context.mT @ (torch.softmax(query, dim=2) * self.head_dim**-0.5)
        return attended.reshape(len(x), -1, *x.shape[2:])

    def attend_locally(self, x: Features) -> Float[Tensor, "n inner h w"]:
        """Return a weighted mean of the values around each pixel; outside of the image, keys and values are 0."""
        query = self.split(self.local_query(x)) * self.head_dim**-0.5
        key, value = (self.split(pad(part, (1, 1, 1, 1))) for part in self.local_key_value(x).chunk(2, dim=1))
        height, width = x.shape[2:]

        def around(padded: Tensor) -> list[Tensor]:
            return [padded[..., i : i + height, j : j + width] for i in range(3) for j in range(3)]

        logits = torch.stack([(query * shifted).sum(2) for shifted in around(key)])
        weights = torch.softmax(logits, dim=0)
        terms = (w[:, :, None] * shifted for w, shifted in zip(weights, around(value), strict=True))
        attended: Tensor = reduce(torch.add, terms)
        return attended.flatten(1, 2)


class Decoder(nn.Sequential):
    """Map features [n, c, 8, 8] to images [n, channels, 128, 128], to train the features by reconstruction.

    Source: Liu 2021, section 3.2; upsampling as in lightweight-gan.
    """

    NUM_DOUBLINGS = 4

    def __init__(self, num_in: int, num_image_channels: int):
        blocks: list[nn.Module] = []
        for i in range(self.NUM_DOUBLINGS):
            num_out = num_image_channels if i == self.NUM_DOUBLINGS - 1 else max(1, num_in // 2)
            conv = nn.Conv2d(num_in, 2 * num_out, 3, padding=1)
            blocks.append(nn.Sequential(Upsample(num_in), conv, nn.GLU(dim=1)))
            num_in = num_out
        super().__init__(*blocks)


def unit_length(x: Features) -> Features:
    """Scale the channels of each pixel to length 1."""
    return normalize(x, dim=1)
