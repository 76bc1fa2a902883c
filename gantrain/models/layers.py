"""Activations, normalizations and initializations that the networks share."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

import gantrain.seeding as seeding
from gantrain.models.spectral_norm import NUM_FIRST_ITERATIONS, iterate_spectral_norms, original_weight

ActivationName = Literal["relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "linear"]
NormOption = Literal["batch", "instance", "layer", "spectral", "none"]
"""The `norm` of a network: normalization layers of this kind; or "spectral": spectral_norm of all its weights."""

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
    "layer": partial(nn.GroupNorm, 1),  # over channels and pixels of each sample, as Gulrajani 2017 recommends
}

_NORMS_1D: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}


def activation(name: ActivationName, slope: float = 0.0) -> nn.Module:
    """Make an activation; `slope` is the slope of leaky_relu below 0."""
    return nn.LeakyReLU(slope) if name == "leaky_relu" else _ACTIVATIONS[name]()


def norm(name: NormOption, num_features: int, *, dims: Literal[1, 2]) -> list[nn.Module]:
    """Make a normalization layer, as a list that is empty for "none" and "spectral".

    Args:
        dims: 2 for images, 1 for vectors.

    Raises:
        ValueError: instance normalization of vectors, which would set all features to 0.
    """
    if name in ("none", "spectral"):
        return []
    kinds = _NORMS if dims == 2 else _NORMS_1D
    if name not in kinds:
        raise ValueError(f"norm={name}: is not defined for vectors; choose one of {[*kinds, 'spectral', 'none']}.")
    return [kinds[name](num_features)]


class Dropout(nn.Dropout):
    """Dropout with a mask that depends neither on the number of processes nor on the number of micro-batches."""

    def forward(self, x: Float[Tensor, "n *shape"]) -> Float[Tensor, "n *shape"]:
        """Drop elements with probability p in training mode."""
        if not self.training or seeding.shard.num_shards == 1:
            return super().forward(x)
        return x * seeding.own_rows(lambda shape: nn.functional.dropout(x.new_ones(shape), self.p), x.shape)


def check_width(width: int) -> None:
    """Check that a width is at least 1.

    Raises:
        ValueError: it is below.
    """
    if width < 1:
        raise ValueError(f"width={width}: a layer needs at least one channel (64 to 768 are usual).")


def check_num_classes(num_classes: int) -> None:
    """Check that there is at least one class.

    Raises:
        ValueError: there is none.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes}: a network with labels needs at least one class (MNIST has 10).")


def label_embedding(num_classes: int, embedding_dim: int) -> nn.Embedding:
    """Make an embedding of labels, whose weights are N(0, 1) at the start, unless the network initializes them.

    Raises:
        ValueError: num_classes or embedding_dim is below 1.
    """
    check_num_classes(num_classes)
    if embedding_dim < 1:
        raise ValueError(f"embedding_dim={embedding_dim}: an embedding needs at least one dimension (10 is usual).")
    return nn.Embedding(num_classes, embedding_dim)


def has_batch_norm(module: nn.Module) -> bool:
    """Return whether the module contains a BatchNorm layer."""
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in module.modules())


def couples_samples(module: nn.Module) -> bool:
    """Return whether the output for a sample depends on the other samples of the batch.

    It does with BatchNorm, and with any module that has the attribute `couples_samples = True` (packing, minibatch
    standard deviation). Then D processes real and generated samples in separate forward passes.
    """
    return has_batch_norm(module) or couples_samples_in_evaluation(module)


def couples_samples_in_evaluation(module: nn.Module) -> bool:
    """Return whether samples of a batch influence each other even in evaluation mode, unlike with BatchNorm."""
    return any(getattr(m, "couples_samples", False) is True for m in module.modules())


_WEIGHTS: dict[str, Callable[[torch.Tensor], Any]] = {
    "dcgan": partial(nn.init.normal_, mean=0.0, std=0.02),
    "xavier": nn.init.xavier_uniform_,
    "kaiming": nn.init.kaiming_normal_,
    "orthogonal": nn.init.orthogonal_,
}


def initialize(module: nn.Module, init: InitName) -> None:
    """Initialize every layer of the module in place; "default" keeps torch's initialization.

    "dcgan": weights N(0, 0.02), scales of normalization layers N(1, 0.02), biases 0 (Radford 2016, section 3; scales as
    in the released code). Others: weights by the rule of this name, scales 1, biases 0. For a spectrally normalized
    layer, the weight before normalization is initialized.
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
        iterate_spectral_norms(module)  # u and v belonged to the previous weights
