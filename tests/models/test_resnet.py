"""The residual networks of SNGAN and WGAN-GP."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gantrain.models.layers import couples_samples, has_batch_norm
from gantrain.models.resnet import Discriminator, Generator
from gantrain.models.spectral_norm import has_spectral_norm, original_weight
from gantrain.regularizers.input_gradient import input_gradient

G_OPTIONS: dict[str, Any] = {"width": 64, "multipliers": None, "upsample": "nearest", "init": "default"}
D_OPTIONS: dict[str, Any] = {
    **{"width": 64, "multipliers": None, "num_halvings": None, "norm": "spectral"},
    **{"pooling": "sum", "head_bias": True, "init": "default"},
}


def generator(size: int = 16, *, num_channels: int = 3, z_dim: int = 5, **options: Any) -> Any:
    return Generator((num_channels, size, size), z_dim, **G_OPTIONS | {"width": 1} | options)


def discriminator(size: int = 16, *, num_channels: int = 3, **options: Any) -> Any:
    return Discriminator((num_channels, size, size), **D_OPTIONS | {"width": 1} | options)


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("size", "G", "D"),
    [
        (32, 4_276_739, 1_053_825),
        (48, 4_878_083, 10_141_441),
        (64, 12_220_675, 10_141_441),
        (128, 32_150_787, 29_017_857),
    ],
)
@pytest.mark.parametrize("head_bias", [True, False])
def test_parameter_counts_are_those_of_the_published_networks(size: int, G: int, D: int, head_bias: bool) -> None:
    """Without spectral norm, which adds no parameters and whose power iteration is slow on the meta device."""
    with torch.device("meta"):
        found = (
            generator(size, z_dim=128, width=64),
            discriminator(size, width=64, head_bias=head_bias, norm="none"),
        )
    assert [num_parameters(network) for network in found] == [G, D if head_bias else D - 1]


def test_parameter_count_of_the_generator_of_wgan_gp() -> None:
    with torch.device("meta"):
        assert num_parameters(generator(32, z_dim=128, width=32)) == 1_204_483


@pytest.mark.parametrize(("size", "num_channels"), [(16, 1), (28, 1), (36, 3), (64, 3)])
def test_samples_have_the_shape_of_the_data_and_one_logit_each(size: int, num_channels: int) -> None:
    torch.manual_seed(0)
    images = generator(size, num_channels=num_channels)(torch.randn(3, 5))
    assert images.shape == (3, num_channels, size, size)
    assert images.abs().max() <= 1
    assert discriminator(size, num_channels=num_channels)(images).shape == (3,)


def test_generator_equals_the_formula() -> None:
    torch.manual_seed(0)
    G = generator(16, width=2).double()
    z = torch.randn(4, 5, dtype=torch.float64)

    def normalize(x: Tensor) -> Tensor:
        return (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), keepdim=True, correction=0) + 1e-5).sqrt()

    def conv(x: Tensor, layer: Any) -> Tensor:
        return F.conv2d(x, layer.weight, layer.bias, padding=layer.weight.shape[2] // 2)

    x = (z @ G.body.linear.weight.T + G.body.linear.bias).reshape(4, 8, 4, 4)
    for block in G.body.blocks:
        larger = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        residual = normalize(x).clamp(min=0).repeat_interleave(2, 2).repeat_interleave(2, 3)
        residual = conv(normalize(conv(residual, block.conv1)).clamp(min=0), block.conv2)
        x = residual + conv(larger, block.shortcut)
    torch.testing.assert_close(G(z), torch.tanh(conv(normalize(x).clamp(min=0), G.body.output[2])))


@pytest.mark.parametrize("pooling", ["sum", "mean"])
def test_discriminator_equals_the_formula(pooling: str) -> None:
    torch.manual_seed(0)
    D = discriminator(16, width=2, pooling=pooling, norm="none").double()
    x = torch.randn(3, 3, 16, 16, dtype=torch.float64)

    def conv(x: Tensor, layer: Any) -> Tensor:
        return F.conv2d(x, layer.weight, layer.bias, padding=layer.weight.shape[2] // 2)

    def halve(x: Tensor) -> Tensor:
        return x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean((3, 5))

    h = x
    for i, block in enumerate(D.body.blocks):
        residual = conv(conv(h.clamp(min=0) if i else h, block.conv1).clamp(min=0), block.conv2)
        h = halve(residual) + halve(conv(h, block.shortcut)) if i < 2 else residual + h
    features = getattr(h.clamp(min=0), pooling)((2, 3))
    torch.testing.assert_close(D(x), features @ D.head[0].weight[0] + D.head[0].bias)


def test_spectral_norm_is_on_every_layer_of_d_and_only_there() -> None:
    D = discriminator()
    layers = [layer for layer in D.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert len(layers) == 2 * 4 + 2 + 1
    for layer in layers:
        assert original_weight(layer) is not layer.weight
    assert not has_spectral_norm(discriminator(norm="none"))
    assert not has_spectral_norm(generator())


def test_only_the_generator_couples_samples() -> None:
    assert has_batch_norm(generator())
    assert not couples_samples(discriminator())


def test_penalties_on_the_gradient_of_d_can_be_differentiated() -> None:
    torch.manual_seed(0)
    D = discriminator(16).double()
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    penalty = input_gradient(D, x).square().sum()
    penalty.backward()
    (weight,) = [original_weight(D.body.blocks[0].conv2)]
    expected = torch.autograd.grad(
        torch.autograd.grad(D(y := x.clone().requires_grad_()).sum(), y, create_graph=True)[0].square().sum(), weight
    )[0]
    torch.testing.assert_close(weight.grad, expected)


@pytest.mark.parametrize("init", ["glorot", "dcgan", "xavier", "kaiming", "orthogonal", "default"])
def test_every_init_gives_networks_that_compute(init: str) -> None:
    torch.manual_seed(0)
    images = generator(init=init)(torch.randn(2, 5))
    assert discriminator(init=init)(images).isfinite().all()
