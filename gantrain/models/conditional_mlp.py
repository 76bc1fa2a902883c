"""The fully connected networks of gantrain.models.mlp, conditioned on labels by concatenation."""

from collections.abc import Sequence
from math import prod

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from gantrain.losses.base import Logits
from gantrain.models import layers, mlp
from gantrain.models.layers import ActivationName, InitName, NormOption
from gantrain.models.spectral_norm import spectral_norm


class Generator(nn.Module):
    """Map latents z [n, z_dim] and labels y [n] to samples [n, *image_shape].

    Source: Mirza 2014, sections 3.2 and 4.1, with a learned embedding where the paper has a hidden layer over the
    one-hot label.

    Args:
        num_classes: labels lie in [0, num_classes).
        embedding_dim: dimension of the label embeddings, which are concatenated to z.
        width, multipliers, ...: as in mlp.Generator.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        z_dim: int,
        *,
        num_classes: int,
        embedding_dim: int,
        width: int,
        multipliers: Sequence[float],
        activation: ActivationName,
        slope: float,
        norm: NormOption,
        init: InitName,
        output: ActivationName,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.embedding = layers.label_embedding(num_classes, embedding_dim)
        self.network = mlp.Generator(
            image_shape,
            z_dim + embedding_dim,
            width=width,
            multipliers=multipliers,
            activation=activation,
            slope=slope,
            norm=norm,
            init=init,
            output=output,
        )

    def forward(self, z: Float[Tensor, "n z_dim"], y: Int64[Tensor, " n"]) -> Float[Tensor, "n *image_shape"]:
        """Return the samples of latents and labels."""
        samples: Tensor = self.network(torch.cat([z, self.embedding(y)], dim=1))
        return samples


class Discriminator(nn.Module):
    """Map samples [n, *image_shape] and labels y [n] to logits [n].

    Source: Mirza 2014, sections 3.2 and 4.1, with a learned embedding where the paper has a hidden layer over the
    one-hot label.

    Args:
        num_classes: labels lie in [0, num_classes).
        embedding_dim: dimension of the label embeddings, which are concatenated to the flattened samples.
        width, multipliers, ...: as in mlp.Discriminator; norm=spectral also normalizes the embedding.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        *,
        num_classes: int,
        embedding_dim: int,
        width: int,
        multipliers: Sequence[float],
        activation: ActivationName,
        slope: float,
        norm: NormOption,
        init: InitName,
        dropout: float,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.embedding = layers.label_embedding(num_classes, embedding_dim)
        self.network = mlp.Discriminator(
            (prod(image_shape) + embedding_dim,),
            width=width,
            multipliers=multipliers,
            activation=activation,
            slope=slope,
            norm=norm,
            init=init,
            dropout=dropout,
        )
        if norm == "spectral":
            spectral_norm(self.embedding)

    def forward(self, x: Float[Tensor, "n *image_shape"], y: Int64[Tensor, " n"]) -> Logits:
        """Return the logits of samples with their labels."""
        logits: Tensor = self.network(torch.cat([x.flatten(1), self.embedding(y)], dim=1))
        return logits
