"""Small convolutional networks for labelled images: G with the one-hot label beside z, D with a projection."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import one_hot

from gantrain.losses.base import Logits
from gantrain.models import layers
from gantrain.models.conditional_resnet import ProjectionHead
from gantrain.models.dcgan import Projection, base_and_halvings, check_channels
from gantrain.models.layers import ActivationName, InitName, NormOption
from gantrain.models.spectral_norm import spectral_norm


class Generator(nn.Module):
    """Map latents z [n, z_dim] and labels y [n] to images [n, c, h, w] in [-1, 1].

    z and the one-hot label are mapped to the base by a linear layer. Transposed convolutions double the size, and a
    3x3 convolution at full size makes the image.

    Source: Mirza 2014, section 3.2 (label beside z); otherwise Radford 2016, but for the last layer.

    Args:
        image_shape: (c, h, w) with h = w a multiple of 4 from 16 to 256.
        num_classes: labels lie in [0, num_classes).
        width: number of channels at full size.
        multipliers: numbers of channels from the base to full size, divided by width; None: each size has twice as many
            as the next.
        slope: slope of leaky_relu below 0; other activations ignore it.

    Raises:
        ValueError: an option is out of range, or does not fit the image size.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        z_dim: int,
        *,
        num_classes: int,
        width: int,
        multipliers: Sequence[int] | None,
        norm: NormOption,
        activation: ActivationName,
        slope: float,
        init: InitName,
    ):
        super().__init__()
        layers.check_num_classes(num_classes)
        layers.check_width(width)
        check_channels(image_shape)
        base, halvings = base_and_halvings(image_shape)
        self.num_classes = num_classes
        doubling = [2**i for i in reversed(range(halvings + 1))]
        channels = [width * multiplier for multiplier in (doubling if multipliers is None else multipliers)]
        if len(channels) != halvings + 1 or min(channels) < 1:
            raise ValueError(
                f"multipliers={multipliers}: images of {image_shape[1]} px need {halvings + 1} numbers of at least 1, "
                f"for example {doubling}, which null stands for."
            )
        bias = norm in ("none", "spectral")
        stack: list[nn.Module] = [
            Projection(z_dim + num_classes, channels[0], base, bias=bias),
            *layers.norm(norm, channels[0], dims=2),
            layers.activation(activation, slope),
        ]
        for num_in, num_out in pairwise(channels):
            stack += [
                nn.ConvTranspose2d(num_in, num_out, 4, stride=2, padding=1, bias=bias),
                *layers.norm(norm, num_out, dims=2),
                layers.activation(activation, slope),
            ]
        self.layers = nn.Sequential(*stack, nn.Conv2d(channels[-1], image_shape[0], 3, padding=1), nn.Tanh())
        layers.initialize(self, init)
        if norm == "spectral":
            spectral_norm(self)

    def forward(self, z: Float[Tensor, "n z_dim"], y: Int64[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
        """Return the images of latents and labels."""
        images: Tensor = self.layers(torch.cat([z, one_hot(y, self.num_classes).to(z.dtype)], dim=1))
        return images


class Discriminator(nn.Module):
    """Map images [n, c, h, w] and labels y [n] to logits [n], by a projection of the label on the features.

    3x3 convolutions of stride 2 halve the image down to the base and once more; all features of the last one are
    projected.

    Source: Miyato and Koyama 2018, equation 3 (projection).

    Args:
        image_shape: (c, h, w) with h = w a multiple of 4 from 16 to 256.
        num_classes: labels lie in [0, num_classes).
        width: number of channels of the first layer; each further layer has twice as many.
        slope: slope of leaky_relu below 0; other activations ignore it.
        embedding_std: standard deviation of the label embeddings at the start. With 1, their products with the features
            are far larger than the rest of the logit, and random.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        *,
        num_classes: int,
        width: int,
        norm: NormOption,
        activation: ActivationName,
        slope: float,
        embedding_std: float,
        init: InitName,
    ):
        super().__init__()
        layers.check_width(width)
        if not embedding_std >= 0:
            raise ValueError(f"embedding_std={embedding_std}: must be at least 0 (0.03 is usual for 28 px).")
        base, halvings = base_and_halvings(image_shape)
        self.num_classes = num_classes
        channels = [image_shape[0], *(width * 2**i for i in range(halvings + 1))]
        stack: list[nn.Module] = []
        for i, (num_in, num_out) in enumerate(pairwise(channels)):
            stack += [
                nn.Conv2d(num_in, num_out, 3, stride=2, padding=1),
                *(layers.norm(norm, num_out, dims=2) if i else []),
                layers.activation(activation, slope),
            ]
        self.layers = nn.Sequential(*stack, nn.Flatten())
        self.projection = ProjectionHead(channels[-1] * ((base + 1) // 2) ** 2, num_classes=num_classes)
        layers.initialize(self, init)
        nn.init.normal_(self.projection.embedding.weight, std=embedding_std)
        if norm == "spectral":
            spectral_norm(self)

    def forward(self, x: Float[Tensor, "n c h w"], y: Int64[Tensor, " n"]) -> Logits:
        """Return the logits of images with their labels."""
        logits: Tensor = self.projection(self.layers(x), y)
        return logits
