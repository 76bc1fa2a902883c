"""Deep convolutional networks after Radford 2016, for square images of any size that halves down to a small base.

Both networks are one stack: 4x4 convolutions of stride 2 between the image and a base of at least 4x4, the number of
channels doubling with every halving, and one convolution over the whole base.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from gantrain.losses.base import Logits
from gantrain.models import layers
from gantrain.models.layers import ActivationName, BiasName, InitName, NormOption
from gantrain.models.spectral_norm import spectral_norm

MIN_SIZE, MAX_SIZE, MIN_BASE = 16, 256, 4


def base_and_halvings(image_shape: Sequence[int]) -> tuple[int, int]:
    """Find how often the image can be halved while at least 4 pixels are left, and what is left.

    64 gives (4, 4), 28 gives (7, 2), 128 gives (4, 5).

    Raises:
        ValueError: the shape is not that of a square image of a size that fits.
    """
    if len(image_shape) != 3 or image_shape[1] != image_shape[2]:
        raise ValueError(
            f"DCGAN makes square images, but the data has shape {tuple(image_shape)}; "
            "choose a square dataset.image_size, or network=mlp, which takes any shape."
        )
    size = image_shape[1]
    if not MIN_SIZE <= size <= MAX_SIZE or size % 4:
        near = min(max(round(size / 4) * 4, MIN_SIZE), MAX_SIZE)
        raise ValueError(
            f"DCGAN makes images of {MIN_SIZE} to {MAX_SIZE} pixels a side, a multiple of 4, but the data has {size}; "
            f"try dataset.image_size={near}."
        )
    halvings = 0
    while size % 2 == 0 and size // 2 >= MIN_BASE:
        size, halvings = size // 2, halvings + 1
    return size, halvings


def check_channels(image_shape: Sequence[int]) -> None:
    """Refuse to generate what is no grey or colour image; D takes any channels, for example those of packed images.

    Raises:
        ValueError: the channels are neither 1 nor 3.
    """
    if len(image_shape) == 3 and image_shape[0] not in (1, 3):
        raise ValueError(f"DCGAN makes images of 1 or 3 channels, but the data has {image_shape[0]}; use network=mlp.")


def downsampling(
    num_channels: int,
    halvings: int,
    *,
    width: int,
    norm: NormOption,
    activation: ActivationName,
    slope: float,
    bias: BiasName,
) -> list[nn.Module]:
    """Make the layers of D from the image to the features [n, width 2^(halvings - 1), base, base].

    Source: Radford 2016, section 3. No normalization on the first layer.
    """
    stack: list[nn.Module] = [
        nn.Conv2d(num_channels, width, 4, stride=2, padding=1, bias=bias != "none"),
        layers.activation(activation, slope),
    ]
    for num_in in (width * 2**i for i in range(halvings - 1)):
        stack += [
            nn.Conv2d(num_in, 2 * num_in, 4, stride=2, padding=1, bias=bias == "all"),
            *layers.norm(norm, 2 * num_in, dims=2),
            layers.activation(activation, slope),
        ]
    return stack


class Projection(nn.ConvTranspose2d):
    """The transposed convolution of a single pixel, which is a matrix product; computed as one it is twice as fast."""

    def forward(self, z: Float[Tensor, "n z_dim"]) -> Float[Tensor, "n c base base"]:  # type: ignore[override]
        """Spread each code over the base."""
        weight = self.weight  # once: a spectrally normalized weight is computed anew each time
        x = (z @ weight.flatten(1)).view(len(z), *weight.shape[1:])
        return x if self.bias is None else x + self.bias[:, None, None]


class Generator(nn.Module):
    """z [n, z_dim] to images [n, c, h, w] in [-1, 1].

    Source: Radford 2016, figure 1 and section 3.

    Args:
        image_shape: (c, h, w) with h = w a multiple of 4 from 16 to 256.
        width: channels of the last hidden layer, doubled by each layer before it.
        slope: of leaky_relu below 0; the other activations ignore it.
        bias: "ends" gives a bias to the layers that are never normalized: D's first, and the last of both.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        z_dim: int,
        *,
        width: int,
        norm: NormOption,
        activation: ActivationName,
        slope: float,
        bias: BiasName,
        init: InitName,
    ):
        super().__init__()
        layers.check_width(width)
        check_channels(image_shape)
        base, halvings = base_and_halvings(image_shape)
        hidden_bias, output_bias = bias == "all", bias != "none"

        widest = width * 2 ** (halvings - 1)
        stack: list[nn.Module] = [
            Projection(z_dim, widest, base, bias=hidden_bias),
            *layers.norm(norm, widest, dims=2),
            layers.activation(activation, slope),
        ]
        for num_out in (width * 2**i for i in reversed(range(halvings - 1))):
            stack += [
                nn.ConvTranspose2d(2 * num_out, num_out, 4, stride=2, padding=1, bias=hidden_bias),
                *layers.norm(norm, num_out, dims=2),
                layers.activation(activation, slope),
            ]
        stack += [nn.ConvTranspose2d(width, image_shape[0], 4, stride=2, padding=1, bias=output_bias), nn.Tanh()]
        self.layers = nn.Sequential(*stack)
        layers.initialize(self, init)
        if norm == "spectral":
            spectral_norm(self)

    def forward(self, z: Float[Tensor, "n z_dim"]) -> Float[Tensor, "n c h w"]:
        """Make one image from each code."""
        images: Tensor = self.layers(z)
        return images


class Discriminator(nn.Module):
    """Images [n, c, h, w] to logits [n].

    Source: Radford 2016, section 3. No normalization on the first layer.

    Args:
        image_shape: (c, h, w) with h = w a multiple of 4 from 16 to 256.
        width: channels of the first layer, doubled by each layer after it.
        slope: of leaky_relu below 0; the other activations ignore it.
        bias: "ends" gives a bias to the layers that are never normalized: D's first, and the last of both.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        *,
        width: int,
        norm: NormOption,
        activation: ActivationName,
        slope: float,
        bias: BiasName,
        init: InitName,
    ):
        super().__init__()
        layers.check_width(width)
        base, halvings = base_and_halvings(image_shape)
        self.layers = nn.Sequential(
            *downsampling(
                image_shape[0], halvings, width=width, norm=norm, activation=activation, slope=slope, bias=bias
            ),
            nn.Conv2d(width * 2 ** (halvings - 1), 1, base, bias=bias != "none"),
            nn.Flatten(0),
        )
        layers.initialize(self, init)
        if norm == "spectral":
            spectral_norm(self)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Logits:
        """Score each image."""
        logits: Tensor = self.layers(x)
        return logits
