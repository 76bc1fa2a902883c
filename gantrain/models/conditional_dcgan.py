"""The convolutional networks of gantrain.models.dcgan, conditioned on labels by concatenation."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from gantrain.losses.base import Logits
from gantrain.models import dcgan, layers
from gantrain.models.layers import ActivationName, BiasName, InitName, NormOption
from gantrain.models.spectral_norm import spectral_norm


class Generator(nn.Module):
    """Map latents z [n, z_dim] and labels y [n] to images [n, c, h, w] in [-1, 1].

    Source: Mirza 2014, section 3.2, on the networks of Radford 2016; Odena 2017, section 3, has the same generator.

    Args:
        image_shape: (c, h, w) with h = w a multiple of 4 from 16 to 256.
        num_classes: labels lie in [0, num_classes).
        embedding_dim: dimension of the label embeddings, which are concatenated to z.
        width, norm, ...: as in dcgan.Generator.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        z_dim: int,
        *,
        num_classes: int,
        embedding_dim: int,
        width: int,
        norm: NormOption,
        activation: ActivationName,
        slope: float,
        bias: BiasName,
        init: InitName,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.embedding = layers.label_embedding(num_classes, embedding_dim)
        self.network = dcgan.Generator(
            image_shape,
            z_dim + embedding_dim,
            width=width,
            norm=norm,
            activation=activation,
            slope=slope,
            bias=bias,
            init=init,
        )

    def forward(self, z: Float[Tensor, "n z_dim"], y: Int64[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
        """Return the images of latents and labels."""
        images: Tensor = self.network(torch.cat([z, self.embedding(y)], dim=1))
        return images


class Discriminator(nn.Module):
    """Map images [n, c, h, w] and labels y [n] to logits [n].

    Each element of a label's embedding becomes a constant channel that is concatenated to the image. Repeating the
    embedding over all pixels (Reed 2016, section 4.1) is the convolutional form of Mirza's concatenation, so the number
    of weights does not depend on the image size. Denton 2015 (LAPGAN) learns an image-sized channel per class instead.

    Source: Mirza 2014, section 3.2, on the networks of Radford 2016.

    Args:
        image_shape: (c, h, w) with h = w a multiple of 4 from 16 to 256.
        num_classes: labels lie in [0, num_classes).
        embedding_dim: dimension of the label embeddings: number of constant channels.
        width, norm, ...: as in dcgan.Discriminator; norm=spectral also normalizes the embedding.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        *,
        num_classes: int,
        embedding_dim: int,
        width: int,
        norm: NormOption,
        activation: ActivationName,
        slope: float,
        bias: BiasName,
        init: InitName,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.embedding = layers.label_embedding(num_classes, embedding_dim)
        dcgan.base_and_halvings(image_shape)  # raises for vectors, which have no channels
        self.network = dcgan.Discriminator(
            (image_shape[0] + embedding_dim, *image_shape[1:]),
            width=width,
            norm=norm,
            activation=activation,
            slope=slope,
            bias=bias,
            init=init,
        )
        if norm == "spectral":
            spectral_norm(self.embedding)

    def forward(self, x: Float[Tensor, "n c h w"], y: Int64[Tensor, " n"]) -> Logits:
        """Return the logits of images with their labels."""
        n, _, h, w = x.shape
        maps = self.embedding(y)[:, :, None, None].expand(n, -1, h, w)
        logits: Tensor = self.network(torch.cat([x, maps], dim=1))
        return logits
