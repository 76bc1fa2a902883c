"""Spectral normalization: every weight divided by an estimate of its largest singular value."""

from typing import TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.utils import parametrize

from gantrain.losses.base import Scalar

EPS = 1e-12
"""Smallest norm that a vector of the power iteration is divided by."""

NUM_FIRST_ITERATIONS = 15
"""Before the first update, so that a new network is normalized as well; torch takes the same number."""

_LAYERS = (nn.Linear, nn.modules.conv._ConvNd, nn.Embedding)
_Module = TypeVar("_Module", bound=nn.Module)


class SpectralNorm(nn.Module):
    """The parametrization W -> W / sigma, where sigma = u^T W v estimates W's largest singular value.

    A weight is seen as a matrix [num_out, everything else]. A transposed convolution stores its output channels in
    dimension 1, every other layer in dimension 0. An embedding is the matrix [num_classes, embedding_dim].

    u [num_out] and v are the vectors of the power iteration. They are buffers, so that a resumed run has the same, and
    constants in the gradient; `iterate` alone changes them, in place.

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
        """Return the weight as the matrix whose singular value is estimated."""
        return weight.transpose(0, self.out_dim).flatten(1)

    @torch.no_grad()
    def iterate(self, weight: Float[Tensor, "*shape"]) -> None:
        """Make one step of the power iteration: v = W^T u, then u = W v, each scaled to length 1."""
        matrix = self.matrix(weight)
        self.v.copy_(normalize(matrix.mT @ self.u, dim=0, eps=EPS))
        self.u.copy_(normalize(matrix @ self.v, dim=0, eps=EPS))

    def sigma(self, weight: Float[Tensor, "*shape"]) -> Scalar:
        """Return u^T W v, differentiable in W."""
        # Autocast would round the products to 8 bits of mantissa, and every weight would be scaled by that error.
        with torch.autocast(weight.device.type, enabled=False):
            sigma: Tensor = self.u @ (self.matrix(weight) @ self.v)
        return sigma

    def forward(self, weight: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the normalized weight."""
        return weight / self.sigma(weight)


def spectral_norm(module: _Module) -> _Module:
    """Normalize every linear layer, convolution and embedding in the module, itself included; return the module.

    `layer.weight` is the normalized weight from then on, and the parameter that is trained is
    `layer.parametrizations.weight.original`. It is the same Parameter as before: counts and optimizers do not change.
    Call it after layers.initialize, or initialize afterwards; u is drawn from torch's global generator.
    """
    for layer in list(module.modules()):
        if isinstance(layer, _LAYERS) and not parametrize.is_parametrized(layer, "weight"):
            out_dim = 1 if getattr(layer, "transposed", False) else 0
            norm = SpectralNorm(layer.weight.detach(), out_dim=out_dim)
            parametrize.register_parametrization(layer, "weight", norm)
    return module


def iterate_spectral_norms(module: nn.Module) -> None:
    """Make one step of the power iteration for every normalized weight in the module; without any, do nothing.

    Call it once at the start of each update of the module's weights: all forward passes of the update share u and v.
    """
    for original, norm in _norms(module):
        norm.iterate(original)


def has_spectral_norm(module: nn.Module) -> bool:
    """Tell whether any weight of the module is spectrally normalized."""
    return bool(_norms(module))


def original_weight(layer: nn.Module) -> object:
    """Return the weight that is trained: `layer.weight` before any normalization; None where there is none."""
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
