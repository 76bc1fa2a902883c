"""The plain convolutional networks of SNGAN for square images."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from gantrain.losses.base import Logits
from gantrain.models import dcgan, layers
from gantrain.models.layers import InitName
from gantrain.models.spectral_norm import spectral_norm


class Generator(nn.Module):
    """Map latents z [n, z_dim] to images [n, c, h, w] in [-1, 1].

    A linear layer, 4x4 transposed convolutions of stride 2, and a 3x3 convolution, with BatchNorm and ReLU between.

    Source: Miyato 2018, appendix B.4, table 3.

    Args:
        image_shape: (c, h, w) with h = w a multiple of 4 from 16 to 256.
        width: number of channels of the last hidden layer; each layer before has twice as many as the next.
    """

    def __init__(self, image_shape: Sequence[int], z_dim: int, *, width: int, init: InitName):
        super().__init__()
        layers.check_width(width)
        dcgan.check_channels(image_shape, kind="network=sngan_cnn")
        base, halvings = dcgan.base_and_halvings(image_shape, kind="network=sngan_cnn")
        channels = [width * 2**i for i in reversed(range(halvings + 1))]
        stack: list[nn.Module] = [
            nn.Linear(z_dim, channels[0] * base * base),
            nn.Unflatten(1, (channels[0], base, base)),
            nn.BatchNorm2d(channels[0]),
            nn.ReLU(),
        ]
        for num_out in channels[1:]:
            stack += [
                nn.ConvTranspose2d(2 * num_out, num_out, 4, stride=2, padding=1),
                nn.BatchNorm2d(num_out),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*stack, nn.Conv2d(width, image_shape[0], 3, padding=1), nn.Tanh())
        layers.initialize(self, init)

    def forward(self, z: Float[Tensor, "n z_dim"]) -> Float[Tensor, "n c h w"]:
        """Return the images of latents."""
        images: Tensor = self.layers(z)
        return images


class Discriminator(nn.Module):
    """Map images [n, c, h, w] to logits [n].

    A 3x3 convolution at each size, 4x4 convolutions of stride 2 between the sizes, and a linear layer, all with
    spectral normalization, and leaky ReLU between.

    Source: Miyato 2018, appendix B.4, table 3, with the channels of the released code.

    Args:
        image_shape: (c, h, w) with h = w a multiple of 4 from 16 to 256.
        width: number of channels at the size of the image; twice as many at each smaller size.
        slope: slope of the leaky ReLU below 0.
    """

    def __init__(self, image_shape: Sequence[int], *, width: int, slope: float, init: InitName):
        super().__init__()
        layers.check_width(width)
        base, halvings = dcgan.base_and_halvings(image_shape, kind="network=sngan_cnn")
        stack: list[nn.Module] = [nn.Conv2d(image_shape[0], width, 3, padding=1), nn.LeakyReLU(slope)]
        for num_in in (width * 2**i for i in range(halvings)):
            stack += [
                nn.Conv2d(num_in, 2 * num_in, 4, stride=2, padding=1),
                nn.LeakyReLU(slope),
                nn.Conv2d(2 * num_in, 2 * num_in, 3, padding=1),
                nn.LeakyReLU(slope),
            ]
        num_features = width * 2**halvings * base * base
        self.layers = nn.Sequential(*stack, nn.Flatten(1), nn.Linear(num_features, 1), nn.Flatten(0))
        layers.initialize(self, init)
        spectral_norm(self)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Logits:
        """Return the logits of images."""
        logits: Tensor = self.layers(x)
        return logits
