"""Spectral normalization: weights are divided by an estimate of their largest singular value."""

from typing import TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.utils import parametrize

from gantrain.losses.base import Scalar
from gantrain.models.precision import full_precision

EPS = 1e-12
"""Lower bound of the norms by which the vectors of the power iteration are divided."""

NUM_FIRST_ITERATIONS = 15
"""Steps of the power iteration before the first update, so that new networks are normalized; as in torch."""

_LAYERS = (nn.Linear, nn.modules.conv._ConvNd, nn.Embedding)
_Module = TypeVar("_Module", bound=nn.Module)


class SpectralNorm(nn.Module):
    """The parametrization W -> W / sigma, where sigma = u^T W v estimates W's largest singular value.

    A weight is reshaped to a matrix [num_out, num_rest]. Transposed convolutions have their output channels in
    dimension 1 of the weight, other layers in dimension 0. An embedding is the matrix [num_classes, embedding_dim].

    u [num_out] and v [num_rest] are the vectors of the power iteration. They are buffers, so that checkpoints contain
    them, and have no gradient. Only `iterate` changes them, in place.

    Source: Miyato 2018, equations 6 to 8 and appendix A, Algorithm 1.
    """

    u: Tensor
    v: Tensor

    def __init__(self, weight: Float[Tensor, "*shape"], *, out_dim: int):
        super().__init__()
        self.out_dim = out_dim
        matrix = self.matrix(weight)
        self.register_buffer("u", normalize(torch.randn(len(matrix)).to(matrix), dim=0, eps=EPS))
        self.register_buffer("v", torch.zeros_like(matrix[0]))
        for _ in range(NUM_FIRST_ITERATIONS):
            self.iterate(weight)

    def matrix(self, weight: Float[Tensor, "*shape"]) -> Float[Tensor, "num_out num_rest"]:
        """Return the weight as a matrix."""
        return weight.transpose(0, self.out_dim).flatten(1)

    @torch.no_grad()
    def iterate(self, weight: Float[Tensor, "*shape"]) -> None:
        """Make one step of the power iteration: v = W^T u, then u = W v, each normalized to length 1."""
        matrix = self.matrix(weight)
        self.v.copy_(normalize(matrix.mT @ self.u, dim=0, eps=EPS))
        self.u.copy_(normalize(matrix @ self.v, dim=0, eps=EPS))

    def sigma(self, weight: Float[Tensor, "*shape"]) -> Scalar:
        """Return u^T W v, differentiable with respect to W."""
        # Autocast would round sigma to 8 bits of mantissa, and this error would scale the whole weight.
        with full_precision(weight.device):
            sigma: Tensor = self.u @ (self.matrix(weight) @ self.v)
        return sigma

    def forward(self, weight: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the normalized weight."""
        return weight / self.sigma(weight)


def spectral_norm(module: _Module) -> _Module:
    """Normalize all linear layers, convolutions and embeddings in the module, or the module itself; return the module.

    Then `layer.weight` is the normalized weight, and `layer.parametrizations.weight.original` is the trained parameter.
    That is the same Parameter object as before, so existing optimizers remain valid. layers.initialize can be called
    before or after. The initial u is drawn from torch's default generator.
    """
    for layer in list(module.modules()):
        if isinstance(layer, _LAYERS) and not parametrize.is_parametrized(layer, "weight"):
            out_dim = 1 if getattr(layer, "transposed", False) else 0
            norm = SpectralNorm(layer.weight.detach(), out_dim=out_dim)
            parametrize.register_parametrization(layer, "weight", norm)
    return module


def iterate_spectral_norms(module: nn.Module) -> None:
    """Make one step of the power iteration for every spectrally normalized weight in the module.

    Call this once at the start of each update of the module's weights, so that all forward passes of the update use the
    same u and v.
    """
    for original, norm in _norms(module):
        norm.iterate(original)


def has_spectral_norm(module: nn.Module) -> bool:
    """Return whether any weight of the module is spectrally normalized."""
    return bool(_norms(module))


def original_weight(layer: nn.Module) -> object:
    """Return the trained weight: `layer.weight` before spectral normalization; None if the layer has no weight."""
    if parametrize.is_parametrized(layer, "weight"):
        weights = cast(nn.ModuleDict, layer.parametrizations)["weight"]
        return weights.original
    return getattr(layer, "weight", None)


def _norms(module: nn.Module) -> list[tuple[Tensor, SpectralNorm]]:
    return [
        (weight.original, norm)
        for weight in module.modules()
        if isinstance(weight, parametrize.ParametrizationList)
        for norm in weight
        if isinstance(norm, SpectralNorm)
    ]
