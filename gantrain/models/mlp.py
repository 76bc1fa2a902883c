"""Fully connected networks, for vectors and small images."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from jaxtyping import Float
from torch import Tensor, nn

from gantrain.losses.base import Logits
from gantrain.models import layers
from gantrain.models.layers import ActivationName, InitName, NormOption
from gantrain.models.spectral_norm import spectral_norm


def _hidden(
    dims: Sequence[int], *, activation: ActivationName, slope: float, norm: NormOption, dropout: float
) -> list[nn.Module]:
    stack: list[nn.Module] = []
    for num_in, num_out in pairwise(dims):
        stack += [nn.Linear(num_in, num_out), *layers.norm(norm, num_out, dims=1), layers.activation(activation, slope)]
        stack += [layers.Dropout(dropout)] if dropout else []
    return stack


def _dims(width: int, multipliers: Sequence[float]) -> list[int]:
    dims = [round(width * m) for m in multipliers]
    if not dims or min(dims) < 1:
        raise ValueError(
            f"width={width}, multipliers={list(multipliers)}: width * multiplier is the size of a hidden layer and "
            "must be at least 1; for example width=256 multipliers=[1,1] for two layers of 256."
        )
    return dims


class Generator(nn.Module):
    """Map latents z [n, z_dim] to samples [n, *image_shape].

    Args:
        image_shape: (c, h, w) or (d,).
        width, multipliers: hidden layer i has width * multipliers[i] units, rounded.
        slope: slope of leaky_relu below 0; other activations ignore it.
        output: activation of the last layer: "tanh" for images in [-1, 1], "linear" for unbounded data.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        z_dim: int,
        *,
        width: int,
        multipliers: Sequence[float],
        activation: ActivationName,
        slope: float,
        norm: NormOption,
        init: InitName,
        output: ActivationName,
    ):
        super().__init__()
        dims = [z_dim, *_dims(width, multipliers)]
        self.layers = nn.Sequential(
            *_hidden(dims, activation=activation, slope=slope, norm=norm, dropout=0.0),
            nn.Linear(dims[-1], prod(image_shape)),
            layers.activation(output),
            nn.Unflatten(1, tuple(image_shape)),
        )
        layers.initialize(self, init)
        if norm == "spectral":
            spectral_norm(self)

    def forward(self, z: Float[Tensor, "n z_dim"]) -> Float[Tensor, "n *image_shape"]:
        """Return the samples of latents."""
        samples: Tensor = self.layers(z)
        return samples


class Discriminator(nn.Module):
    """Map samples [n, *image_shape] to logits [n].

    Args:
        image_shape: (c, h, w) or (d,).
        width, multipliers: hidden layer i has width * multipliers[i] units, rounded.
        slope: slope of leaky_relu below 0; other activations ignore it.
        dropout: probability that a hidden unit is dropped, in [0, 1).
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        *,
        width: int,
        multipliers: Sequence[float],
        activation: ActivationName,
        slope: float,
        norm: NormOption,
        init: InitName,
        dropout: float,
    ):
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout}: the probability of dropping a unit must be in [0, 1), such as 0.3.")
        dims = [prod(image_shape), *_dims(width, multipliers)]
        self.layers = nn.Sequential(
            nn.Flatten(),
            *_hidden(dims, activation=activation, slope=slope, norm=norm, dropout=dropout),
            nn.Linear(dims[-1], 1),
            nn.Flatten(0),
        )
        layers.initialize(self, init)
        if norm == "spectral":
            spectral_norm(self)

    def forward(self, x: Float[Tensor, "n *image_shape"]) -> Logits:
        """Return the logits of samples."""
        logits: Tensor = self.layers(x)
        return logits
