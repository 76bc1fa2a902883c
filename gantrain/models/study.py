"""The convolutional networks of the `study_*` experiments, which compare GANs on MNIST.

The generator is similar to that of InfoGAN (Chen 2016, table 1), and the critic to InfoGAN's discriminator without
normalization.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from gantrain.losses.base import Logits
from gantrain.models.layers import InitName, initialize


def _check_shape(image_shape: Sequence[int], *, smallest: int) -> None:
    if len(image_shape) != 3 or image_shape[1] != image_shape[2] or image_shape[1] % 4 or image_shape[1] < smallest:
        raise ValueError(
            f"the study_* networks need square images with a side that is a multiple of 4, at least {smallest}, but "
            f"the data has shape {tuple(image_shape)}; choose another dataset.image_size or network."
        )


class Generator(nn.Module):
    """Map latents z [n, z_dim] to images [n, c, h, w] in [-1, 1]: two linear layers, then two transposed convolutions.

    Args:
        width: number of channels of the last hidden layer; the convolution before has 2 width channels, and the first
            linear layer has 16 width units.
    """

    def __init__(self, image_shape: Sequence[int], z_dim: int, *, width: int, init: InitName):
        super().__init__()
        _check_shape(image_shape, smallest=8)
        channels, base = image_shape[0], image_shape[1] // 4
        num_flat = 2 * width * base * base
        self.layers = nn.Sequential(
            nn.Linear(z_dim, 16 * width),
            nn.ReLU(),
            nn.BatchNorm1d(16 * width),
            nn.Linear(16 * width, num_flat),
            nn.ReLU(),
            nn.BatchNorm1d(num_flat),
            nn.Unflatten(1, (2 * width, base, base)),
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.BatchNorm2d(width),
            nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1),
            nn.Tanh(),
        )
        initialize(self, init)

    def forward(self, z: Float[Tensor, "n z_dim"]) -> Float[Tensor, "n c h w"]:
        """Return the images of latents."""
        images: Tensor = self.layers(z)
        return images


class PoolingDiscriminator(nn.Module):
    """Map images [n, c, h, w] to logits [n]: two 5x5 convolutions with max pooling, then two linear layers.

    Args:
        width: number of channels of the first convolution; the second has 2 width.
        slope: slope of the leaky ReLU below 0.
    """

    def __init__(self, image_shape: Sequence[int], *, width: int, slope: float, init: InitName):
        super().__init__()
        _check_shape(image_shape, smallest=16)
        pooled = ((image_shape[1] - 4) // 2 - 4) // 2
        num_flat = 2 * width * pooled * pooled
        self.layers = nn.Sequential(
            nn.Conv2d(image_shape[0], width, 5),
            nn.LeakyReLU(slope),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 5),
            nn.LeakyReLU(slope),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(num_flat, num_flat),
            nn.LeakyReLU(slope),
            nn.Linear(num_flat, 1),
            nn.Flatten(0),
        )
        initialize(self, init)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Logits:
        """Return the logits of images."""
        logits: Tensor = self.layers(x)
        return logits


class StridedCritic(nn.Module):
    """Map images [n, c, h, w] to logits [n]: two 4x4 convolutions of stride 2 without padding, then two linear layers.

    Args:
        width: number of channels of the first convolution; the second has 2 width, and the first linear layer has 16
            width units.
        slope: slope of the leaky ReLU below 0.
    """

    def __init__(self, image_shape: Sequence[int], *, width: int, slope: float, init: InitName):
        super().__init__()
        _check_shape(image_shape, smallest=16)
        halved = ((image_shape[1] - 2) // 2 - 2) // 2
        self.layers = nn.Sequential(
            nn.Conv2d(image_shape[0], width, 4, stride=2),
            nn.LeakyReLU(slope),
            nn.Conv2d(width, 2 * width, 4, stride=2),
            nn.LeakyReLU(slope),
            nn.Flatten(),
            nn.Linear(2 * width * halved * halved, 16 * width),
            nn.LeakyReLU(slope),
            nn.Linear(16 * width, 1),
            nn.Flatten(0),
        )
        initialize(self, init)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Logits:
        """Return the logits of images."""
        logits: Tensor = self.layers(x)
        return logits
