"""Deep convolutional networks (Radford 2016) for square images.

Both networks have 4x4 convolutions of stride 2 between the image and a base of at least 4x4 pixels, with twice as many
channels at half the size, and one convolution whose kernel has the size of the base.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from gantrain.losses.base import Logits
from gantrain.models import layers
from gantrain.models.layers import ActivationName, BiasName, InitName, NormOption
from gantrain.models.spectral_norm import spectral_norm

MIN_SIZE, MAX_SIZE, MIN_BASE = 16, 256, 4


def base_and_halvings(image_shape: Sequence[int], *, kind: str = "DCGAN") -> tuple[int, int]:
    """Return the size of the base and the number of halvings from the image to the base, which has at least 4 pixels.

    A size of 64 gives (4, 4), 28 gives (7, 2), 128 gives (4, 5).

    Args:
        kind: name of the network, for messages.

    Raises:
        ValueError: the shape is not that of a square image with a side from 16 to 256 that is a multiple of 4.
    """
    if len(image_shape) != 3 or image_shape[1] != image_shape[2]:
        raise ValueError(
            f"{kind} needs square images, but the data has shape {tuple(image_shape)}; "
            "choose a square dataset.image_size, or network=mlp, which takes any shape."
        )
    size = image_shape[1]
    if not MIN_SIZE <= size <= MAX_SIZE or size % 4:
        near = min(max(round(size / 4) * 4, MIN_SIZE), MAX_SIZE)
        raise ValueError(
            f"{kind} needs images with a side of {MIN_SIZE} to {MAX_SIZE} pixels, a multiple of 4, but it is {size}; "
            f"try dataset.image_size={near}."
        )
    halvings = 0
    while size % 2 == 0 and size // 2 >= MIN_BASE:
        size, halvings = size // 2, halvings + 1
    return size, halvings


def check_channels(image_shape: Sequence[int], *, kind: str = "DCGAN") -> None:
    """Check that an image to generate has 1 (gray) or 3 (RGB) channels; D takes any number, as in packed images.

    Args:
        kind: name of the network, for messages.

    Raises:
        ValueError: it has another number of channels.
    """
    if len(image_shape) == 3 and image_shape[0] not in (1, 3):
        raise ValueError(f"{kind} needs images with 1 or 3 channels, but they have {image_shape[0]}; use network=mlp.")


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
    """A transposed convolution of a single pixel, computed as a matrix product, which is twice as fast."""

    def forward(self, z: Float[Tensor, "n z_dim"]) -> Float[Tensor, "n c base base"]:  # type: ignore[override]
        """Return the features of the base from each latent."""
        weight = self.weight  # read once, because a spectrally normalized weight is computed at each access
        x = (z @ weight.flatten(1)).view(len(z), *weight.shape[1:])
        return x if self.bias is None else x + self.bias[:, None, None]


class Generator(nn.Module):
    """Map latents z [n, z_dim] to images [n, c, h, w] in [-1, 1].

    Source: Radford 2016, figure 1 and section 3.

    Args:
        image_shape: (c, h, w) with h = w a multiple of 4 from 16 to 256.
        width: number of channels of the last hidden layer; each layer before has twice as many as the next.
        slope: slope of leaky_relu below 0; other activations ignore it.
        bias: "all", "none", or "ends": only layers without normalization have a bias: D's first layer and the last
            layers of G and D.
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
        """Return the images of latents."""
        images: Tensor = self.layers(z)
        return images


class Discriminator(nn.Module):
    """Map images [n, c, h, w] to logits [n].

    Source: Radford 2016, section 3. No normalization on the first layer.

    Args:
        image_shape: (c, h, w) with h = w a multiple of 4 from 16 to 256.
        width: number of channels of the first layer; each further layer has twice as many.
        slope: slope of leaky_relu below 0; other activations ignore it.
        bias: "all", "none", or "ends": only layers without normalization have a bias: D's first layer and the last
            layers of G and D.
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
        """Return the logits of images."""
        logits: Tensor = self.layers(x)
        return logits
