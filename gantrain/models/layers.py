"""The choices that the architectures share: activation, normalization, initialization."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gantrain import seeding
from gantrain.models.spectral_norm import NUM_FIRST_ITERATIONS, iterate_spectral_norms, original_weight

ActivationName = Literal["relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "linear"]
NormName = Literal["batch", "instance", "layer", "none"]
"""A normalization that follows a layer."""

NormOption = Literal["batch", "instance", "layer", "spectral", "none"]
"""The `norm` of a network: one of those, or "spectral": spectral_norm of all its weights instead."""

BiasName = Literal["none", "ends", "all"]
InitName = Literal["dcgan", "xavier", "kaiming", "orthogonal", "default"]

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "linear": nn.Identity,
}

_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "instance": partial(nn.InstanceNorm2d, affine=True),
    "layer": partial(nn.GroupNorm, 1),  # over channels and positions of one sample, as Gulrajani 2017 advises
}

_NORMS_1D: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}


def activation(name: ActivationName, slope: float = 0.0) -> nn.Module:
    """Make an activation; `slope` is that of leaky_relu below 0."""
    return nn.LeakyReLU(slope) if name == "leaky_relu" else _ACTIVATIONS[name]()


def norm(name: NormOption, num_features: int, *, dims: Literal[1, 2]) -> list[nn.Module]:
    """Make the normalization that follows a layer, as a list that is empty for "none" and "spectral".

    Raises:
        ValueError: instance normalization of vectors, which would leave nothing of them.
    """
    if name in ("none", "spectral"):
        return []
    kinds = _NORMS if dims == 2 else _NORMS_1D
    if name not in kinds:
        raise ValueError(f"norm={name}: vectors can be normalized by one of {[*kinds, 'spectral', 'none']}.")
    return [kinds[name](num_features)]


class Dropout(nn.Dropout):
    """Dropout whose mask depends neither on the number of processes nor on that of micro-batches."""

    def forward(self, x: Float[Tensor, "n *shape"]) -> Float[Tensor, "n *shape"]:
        """Drop numbers while training."""
        if not self.training or seeding.shard.num_parts == 1:
            return super().forward(x)
        return x * seeding.own_rows(lambda shape: nn.functional.dropout(x.new_ones(shape), self.p), x.shape)


def check_width(width: int) -> None:
    """Refuse a width that leaves a layer without units.

    Raises:
        ValueError: width is below 1.
    """
    if width < 1:
        raise ValueError(f"width={width}: a layer needs at least one channel (64 is usual).")


def check_num_classes(num_classes: int) -> None:
    """Refuse to condition on labels where there are none.

    Raises:
        ValueError: num_classes is below 1.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes}: a network with labels needs at least one class (MNIST has 10).")


def label_embedding(num_classes: int, embedding_dim: int) -> nn.Embedding:
    """Make a table of learned vectors, one for each class, that starts as N(0, 1) whatever the network's init.

    Raises:
        ValueError: there would be no vectors, or vectors without numbers.
    """
    check_num_classes(num_classes)
    if embedding_dim < 1:
        raise ValueError(f"embedding_dim={embedding_dim}: a label needs at least one number (10 is usual).")
    return nn.Embedding(num_classes, embedding_dim)


def has_batch_norm(module: nn.Module) -> bool:
    """Tell whether any layer of the module is a BatchNorm."""
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in module.modules())


def couples_samples(module: nn.Module) -> bool:
    """Tell whether the samples of a batch influence each other's output.

    BatchNorm makes them, and so does any module with the attribute `couples_samples = True` (packing, minibatch
    standard deviation). Real and generated samples then pass through D apart; nothing else follows from it.
    """
    return has_batch_norm(module) or any(getattr(m, "couples_samples", False) is True for m in module.modules())


_WEIGHTS: dict[str, Callable[[torch.Tensor], Any]] = {
    "dcgan": partial(nn.init.normal_, mean=0.0, std=0.02),
    "xavier": nn.init.xavier_uniform_,
    "kaiming": nn.init.kaiming_normal_,
    "orthogonal": nn.init.orthogonal_,
}


def initialize(module: nn.Module, init: InitName) -> None:
    """Initialize every layer of the module in place; "default" leaves torch's own.

    "dcgan": weights N(0, 0.02), the scale of normalizations N(1, 0.02), every bias 0 (Radford 2016, section 3; the
    scale after the released code). The others: the named rule for weights, scale 1, bias 0. Of a spectrally normalized
    layer it is the weight before normalization.
    """
    if init == "default":
        return
    for layer in module.modules():
        weight, bias = original_weight(layer), getattr(layer, "bias", None)
        if isinstance(weight, nn.Parameter):
            if weight.dim() > 1:
                _WEIGHTS[init](weight)
            elif init == "dcgan":
                nn.init.normal_(weight, 1.0, 0.02)
            else:
                nn.init.ones_(weight)
        if isinstance(bias, nn.Parameter):
            nn.init.zeros_(bias)
    for _ in range(NUM_FIRST_ITERATIONS):
        iterate_spectral_norms(module)  # u and v were those of the weights before
