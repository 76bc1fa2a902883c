"""The small networks for labels, against their definition in plain PyTorch."""

from typing import Any

import pytest
import torch
from composing import composed
from torch.nn.functional import conv2d, conv_transpose2d, leaky_relu, one_hot, relu

from gantrain.models.projection_cnn import Discriminator, Generator
from gantrain.regularizers.input_gradient import mean_squared_gradient_norm

G_OPTIONS: dict[str, Any] = {
    "width": 3,
    "multipliers": None,
    "norm": "none",
    "activation": "relu",
    "slope": 0.2,
    "init": "default",
}
D_OPTIONS: dict[str, Any] = {
    "width": 3,
    "embedding_std": 0.5,
    "norm": "none",
    "activation": "leaky_relu",
    "slope": 0.2,
    "init": "default",
}


def generator(shape: tuple[int, ...] = (1, 28, 28), **options: Any) -> Generator:
    torch.manual_seed(0)
    return Generator(shape, 5, num_classes=4, **G_OPTIONS | options).double()


def discriminator(shape: tuple[int, ...] = (1, 28, 28), **options: Any) -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(shape, num_classes=4, **D_OPTIONS | options).double()


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 16, 16), (1, 32, 32)])
@pytest.mark.parametrize("norm", ["batch", "none", "spectral"])
def test_networks_give_samples_of_every_class_and_one_logit_per_sample(shape: tuple[int, ...], norm: str) -> None:
    y = torch.arange(4)
    x = generator(shape, norm=norm)(torch.randn(4, 5).double(), y)
    assert x.shape == (4, *shape)
    assert x.abs().max() <= 1
    assert discriminator(shape, norm=norm)(x, y).shape == (4,)


def test_generator_equals_its_formula() -> None:
    G, z, y = generator(multipliers=[7, 2, 1]), torch.randn(6, 5).double(), torch.tensor([0, 3, 1, 1, 2, 0])
    first, *middle, last, _ = (layer for layer in G.layers if not isinstance(layer, torch.nn.ReLU))
    x = torch.einsum("ni,icyx->ncyx", torch.cat([z, one_hot(y, 4)], 1), first.weight)
    x = relu(x + first.bias[:, None, None])
    assert x.shape == (6, 21, 7, 7)
    for layer in middle:
        x = relu(conv_transpose2d(x, layer.weight, layer.bias, stride=2, padding=1))
    torch.testing.assert_close(G(z, y), torch.tanh(conv2d(x, last.weight, last.bias, padding=1)))


def test_discriminator_equals_its_formula() -> None:
    D, x, y = discriminator(), torch.randn(6, 1, 28, 28).double(), torch.tensor([0, 3, 1, 1, 2, 0])
    features = x
    for layer in (layer for layer in D.layers if isinstance(layer, torch.nn.Conv2d)):
        features = leaky_relu(conv2d(features, layer.weight, layer.bias, stride=2, padding=1), 0.2)
    assert features.shape == (6, 12, 4, 4)
    weights = D.projection.linear.weight + D.projection.embedding.weight[y]
    expected = (features.flatten(1) * weights).sum(1) + D.projection.linear.bias
    torch.testing.assert_close(D(x, y), expected)


def test_gradient_of_a_penalty_equals_finite_differences() -> None:
    D, x, y = discriminator(), torch.randn(2, 1, 28, 28).double(), torch.tensor([1, 2])
    weight = D.layers[0].weight
    (exact,) = torch.autograd.grad(mean_squared_gradient_norm(D, x, y), weight)
    direction = torch.randn_like(weight)

    def penalty(step: float) -> torch.Tensor:
        with torch.no_grad():
            weight.add_(direction, alpha=step)
        value = mean_squared_gradient_norm(D, x, y).detach()
        with torch.no_grad():
            weight.add_(direction, alpha=-step)
        return value

    # The penalty is a polynomial in the weights as long as no activation changes its sign.
    numeric = (penalty(1e-6) - penalty(-1e-6)) / 2e-6
    torch.testing.assert_close((exact * direction).sum(), numeric, rtol=1e-6, atol=0)


@pytest.mark.parametrize("init", ["default", "dcgan", "orthogonal"])
def test_embeddings_start_with_their_standard_deviation_whatever_the_init(init: str) -> None:
    D = discriminator(width=8, embedding_std=0.25, init=init)
    torch.testing.assert_close(D.projection.embedding.weight.std().item(), 0.25, rtol=0.05, atol=0)


def test_data_without_labels_are_refused() -> None:
    config = composed("experiment=digits")
    assert config.model["generator"]["_target_"] == "gantrain.models.projection_cnn.Generator"
    with pytest.raises(ValueError, match="num_classes=0: a network with labels needs at least one class"):
        Generator((1, 28, 28), 5, num_classes=0, **G_OPTIONS)
    with pytest.raises(ValueError, match=r"images of 28 px need 3 numbers of at least 1, for example \[4, 2, 1\]"):
        generator(multipliers=[2, 1])
    with pytest.raises(ValueError, match=r"try dataset\.image_size=32"):
        discriminator((1, 30, 30))
