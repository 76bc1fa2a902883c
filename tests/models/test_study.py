from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from torch import nn

from gantrain.models.layers import InitName
from gantrain.models.study import Generator, PoolingDiscriminator, StridedCritic


def generator(shape: tuple[int, ...] = (1, 28, 28), z_dim: int = 6, **options: Any) -> nn.Module:
    return Generator(shape, z_dim, **{"width": 2, "init": "default"} | options)


def pooling(shape: tuple[int, ...] = (1, 28, 28), **options: Any) -> nn.Module:
    return PoolingDiscriminator(shape, **{"width": 2, "slope": 0.01, "init": "default"} | options)


def strided(shape: tuple[int, ...] = (1, 28, 28), **options: Any) -> nn.Module:
    return StridedCritic(shape, **{"width": 2, "slope": 0.01, "init": "default"} | options)


def assert_same_function(module: nn.Module, reference: nn.Module, x: torch.Tensor) -> None:
    for parameter, value in zip(module.parameters(), reference.parameters(), strict=True):
        assert parameter.shape == value.shape
        parameter.data.copy_(value)
    torch.testing.assert_close(module.double()(x.double()), reference.double()(x.double()))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [16, 20, 28, 32, 64])
def test_square_images_of_any_multiple_of_4_are_supported(size: int, channels: int) -> None:
    shape = (channels, size, size)
    images = generator(shape)(10 * torch.randn(3, 6))
    assert images.shape == (3, *shape)
    assert images.abs().max() <= 1
    assert pooling(shape)(images).shape == (3,)
    assert strided(shape)(images).shape == (3,)


def test_generator_equals_that_of_the_study() -> None:
    torch.manual_seed(0)
    reference = nn.Sequential(
        nn.Linear(96, 1024),
        nn.ReLU(),
        nn.BatchNorm1d(1024),
        nn.Linear(1024, 6272),
        nn.ReLU(),
        nn.BatchNorm1d(6272),
        nn.Unflatten(1, (128, 7, 7)),
        nn.ConvTranspose2d(128, 64, kernel_size=4, stride=2, padding=1),
        nn.ReLU(),
        nn.BatchNorm2d(64),
        nn.ConvTranspose2d(64, 1, kernel_size=4, stride=2, padding=1),
        nn.Tanh(),
    )
    assert_same_function(generator(z_dim=96, width=64), reference, torch.randn(3, 96))


def test_pooling_discriminator_equals_that_of_the_study() -> None:
    torch.manual_seed(0)
    reference = nn.Sequential(
        nn.Conv2d(1, 32, kernel_size=5),
        nn.LeakyReLU(0.01),
        nn.MaxPool2d(2, stride=2),
        nn.Conv2d(32, 64, kernel_size=5),
        nn.LeakyReLU(0.01),
        nn.MaxPool2d(2, stride=2),
        nn.Flatten(),
        nn.Linear(1024, 1024),
        nn.LeakyReLU(0.01),
        nn.Linear(1024, 1),
        nn.Flatten(0),
    )
    assert_same_function(pooling(width=32), reference, torch.randn(3, 1, 28, 28))


def test_strided_critic_equals_that_of_the_study() -> None:
    torch.manual_seed(0)
    reference = nn.Sequential(
        nn.Conv2d(1, 64, kernel_size=4, stride=2),
        nn.LeakyReLU(0.01),
        nn.Conv2d(64, 128, kernel_size=4, stride=2),
        nn.LeakyReLU(0.01),
        nn.Flatten(),
        nn.Linear(3200, 1024),
        nn.LeakyReLU(0.01),
        nn.Linear(1024, 1),
        nn.Flatten(0),
    )
    assert_same_function(strided(width=64), reference, torch.randn(3, 1, 28, 28))


@pytest.mark.parametrize("make", [generator, pooling, strided])
@pytest.mark.parametrize("shape", [(2,), (1, 28, 32), (1, 30, 30), (1, 4, 4)])
def test_other_shapes_are_refused_with_a_remedy(make: Callable[..., nn.Module], shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"square images.*multiple of 4.*dataset.image_size or network"):
        make(shape)


@pytest.mark.parametrize("make", [pooling, strided])
def test_images_too_small_to_be_halved_twice_are_refused(make: Callable[..., nn.Module]) -> None:
    with pytest.raises(ValueError, match="at least 16"):
        make((1, 12, 12))


@pytest.mark.parametrize("make", [generator, pooling, strided])
@pytest.mark.parametrize("init", get_args(InitName))
def test_init_is_applied_to_every_layer(make: Callable[..., nn.Module], init: InitName) -> None:
    torch.manual_seed(0)
    biases = [p for name, p in make(init=init).named_parameters() if name.endswith("bias")]
    zero = [not bias.any() for bias in biases]
    assert all(zero) is (init != "default")
