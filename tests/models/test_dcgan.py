import math
from itertools import pairwise
from typing import Any, get_args

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor, nn

from gantrain.models.dcgan import Discriminator, Generator, Projection, base_and_halvings
from gantrain.models.layers import ActivationName, BiasName, InitName, NormOption

OPTIONS: dict[str, Any] = {
    "width": 2,
    "norm": "batch",
    "activation": "leaky_relu",
    "slope": 0.2,
    "bias": "none",
    "init": "dcgan",
}
LAYER_NORMS = [name for name in get_args(NormOption) if name != "spectral"]
SIZES = range(16, 257, 4)


def generator(image_shape: tuple[int, ...] = (3, 64, 64), z_dim: int = 5, **options: Any) -> Generator:
    return Generator(image_shape, z_dim, **OPTIONS | options)


def discriminator(image_shape: tuple[int, ...] = (3, 64, 64), **options: Any) -> Discriminator:
    return Discriminator(image_shape, **OPTIONS | options)


def convolutions(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_every_multiple_of_4_gives_images_in_range_and_one_logit_per_image(size: int, channels: int) -> None:
    shape = (channels, size, size)
    images = generator(shape, width=1)(10 * torch.randn(2, 5))
    assert images.shape == (2, *shape)
    assert images.abs().max() <= 1
    logits = discriminator(shape, width=1)(images)
    assert logits.shape == (2,)


@pytest.mark.parametrize("size", SIZES)
def test_base_is_what_remains_of_halving_down_to_at_least_4_pixels(size: int) -> None:
    base, halvings = base_and_halvings((1, size, size))
    assert base * 2**halvings == size
    assert halvings >= 2
    assert base >= 4
    assert base % 2 == 1 or base < 8


@pytest.mark.parametrize(("size", "expected"), [(16, (4, 2)), (28, (7, 2)), (32, (4, 3)), (64, (4, 4)), (256, (4, 6))])
def test_the_base_of_usual_sizes(size: int, expected: tuple[int, int]) -> None:
    assert base_and_halvings((3, size, size)) == expected


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 12, 12), r"16 to 256 pixels.* multiple of 4.* it is 12; try dataset.image_size=16"),
        ((3, 8, 8), r"it is 8; try dataset.image_size=16"),
        ((1, 30, 30), r"it is 30; try dataset.image_size=(28|32)"),
        ((1, 29, 29), r"it is 29; try dataset.image_size=28"),
        ((1, 260, 260), r"it is 260; try dataset.image_size=256"),
        ((1, 512, 512), r"it is 512; try dataset.image_size=256"),
        ((3, 32, 28), r"square images.*\(3, 32, 28\).*dataset.image_size.*network=mlp"),
        ((2,), r"square images.*\(2,\).*network=mlp"),
    ],
)
def test_other_shapes_are_refused_with_a_remedy(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generator(shape)
    with pytest.raises(ValueError, match=message):
        discriminator(shape)


@pytest.mark.parametrize("channels", [2, 4])
def test_the_generator_makes_gray_or_rgb_images_and_the_discriminator_takes_packs(channels: int) -> None:
    with pytest.raises(ValueError, match=f"1 or 3 channels, but they have {channels}; use network=mlp"):
        generator((channels, 32, 32))
    assert discriminator((channels, 32, 32))(torch.zeros(3, channels, 32, 32)).shape == (3,)


def test_a_width_below_1_is_refused() -> None:
    with pytest.raises(ValueError, match="width=0"):
        generator(width=0)
    with pytest.raises(ValueError, match="width=0"):
        discriminator(width=0)


def test_generator_equals_that_of_the_paper() -> None:
    torch.manual_seed(0)
    reference = nn.Sequential(
        nn.ConvTranspose2d(100, 32, 4, stride=1, padding=0, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 8, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 4, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.ConvTranspose2d(4, 3, 4, stride=2, padding=1, bias=False),
        nn.Tanh(),
    ).double()
    G = generator((3, 64, 64), 100, width=4, activation="relu").double()
    copy_parameters(reference, G)
    z = torch.randn(3, 100, dtype=torch.float64)
    torch.testing.assert_close(G(z), reference(z[:, :, None, None]))


def test_discriminator_equals_that_of_the_paper() -> None:
    torch.manual_seed(0)
    reference = nn.Sequential(
        nn.Conv2d(3, 4, 4, stride=2, padding=1, bias=False),
        nn.LeakyReLU(0.2),
        nn.Conv2d(4, 8, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.LeakyReLU(0.2),
        nn.Conv2d(8, 16, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.LeakyReLU(0.2),
        nn.Conv2d(16, 32, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.LeakyReLU(0.2),
        nn.Conv2d(32, 1, 4, stride=1, padding=0, bias=False),
    ).double()
    D = discriminator((3, 64, 64), width=4).double()
    copy_parameters(reference, D)
    x = torch.rand(3, 3, 64, 64, dtype=torch.float64) * 2 - 1
    torch.testing.assert_close(D(x), reference(x)[:, 0, 0, 0])


def copy_parameters(source: nn.Module, target: nn.Module) -> None:
    for parameter, value in zip(target.parameters(), source.parameters(), strict=True):
        assert parameter.shape == value.shape
        parameter.data.copy_(value)


@pytest.mark.parametrize("bias", [True, False])
def test_projection_equals_a_transposed_convolution_of_one_pixel(bias: bool) -> None:
    torch.manual_seed(0)
    projection = Projection(5, 6, 4, bias=bias).double()
    reference = nn.ConvTranspose2d(5, 6, 4, bias=bias).double()
    reference.load_state_dict(projection.state_dict())
    z = torch.randn(3, 5, dtype=torch.float64)
    z_reference = z.clone().requires_grad_()
    z.requires_grad_()

    images, expected = projection(z), reference(z_reference[:, :, None, None])
    torch.testing.assert_close(images, expected)

    upstream = torch.randn_like(expected)
    images.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(z.grad, z_reference.grad)
    for parameter, same in zip(projection.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, same.grad)


@pytest.mark.parametrize("norm", LAYER_NORMS)
def test_norms_follow_every_hidden_layer_but_the_discriminators_first(norm: NormOption) -> None:
    kind = {"batch": nn.BatchNorm2d, "instance": nn.InstanceNorm2d, "layer": nn.GroupNorm, "none": type(None)}[norm]
    for module, expected in ((generator(norm=norm), 4), (discriminator(norm=norm), 3)):
        norms = (nn.BatchNorm2d, nn.InstanceNorm2d, nn.GroupNorm)
        assert [type(m) for m in module.modules() if isinstance(m, norms)] == [kind] * expected * (norm != "none")
        for first, second in pairwise(module.layers):
            if isinstance(second, norms):
                assert isinstance(first, nn.Conv2d | nn.ConvTranspose2d)


@pytest.mark.parametrize("norm", LAYER_NORMS)
def test_only_batch_norm_couples_the_samples_of_a_batch(norm: NormOption) -> None:
    torch.manual_seed(0)
    D = discriminator((1, 16, 16), norm=norm, width=4, init="default").double()
    x, other = torch.randn(2, 3, 1, 16, 16, dtype=torch.float64)
    swapped = torch.cat([x[:1], other[1:]])
    together = not torch.allclose(D(x)[0], D(swapped)[0], atol=1e-12)
    assert together is (norm == "batch")


@pytest.mark.parametrize(
    ("bias", "generators", "discriminators"),
    [
        ("none", [False] * 5, [False] * 5),
        ("ends", [False] * 4 + [True], [True, False, False, False, True]),
        ("all", [True] * 5, [True] * 5),
    ],
)
def test_bias_option_sets_which_layers_have_a_bias(
    bias: BiasName, generators: list[bool], discriminators: list[bool]
) -> None:
    assert [m.bias is not None for m in convolutions(generator(bias=bias))] == generators
    assert [m.bias is not None for m in convolutions(discriminator(bias=bias))] == discriminators


@pytest.mark.parametrize("name", get_args(ActivationName))
def test_the_activation_follows_every_hidden_layer(name: ActivationName) -> None:
    kinds = {
        "relu": nn.ReLU,
        "leaky_relu": nn.LeakyReLU,
        "elu": nn.ELU,
        "gelu": nn.GELU,
        "silu": nn.SiLU,
        "tanh": nn.Tanh,
        "linear": nn.Identity,
    }
    G, D = generator(activation=name), discriminator(activation=name)
    assert sum(isinstance(m, kinds[name]) for m in G.layers[:-1]) == 4
    assert sum(isinstance(m, kinds[name]) for m in D.layers) == 4
    assert isinstance(G.layers[-1], nn.Tanh)
    assert {m.negative_slope for m in D.modules() if isinstance(m, nn.LeakyReLU)} <= {0.2}


def test_slope_sets_the_slope_of_leaky_relu() -> None:
    D = discriminator(slope=0.05)
    assert [m.negative_slope for m in D.modules() if isinstance(m, nn.LeakyReLU)] == [0.05] * 4


def test_channels_double_from_the_image_to_the_base() -> None:
    G, D = generator((3, 128, 128), 7, width=3), discriminator((3, 128, 128), width=3)
    assert [m.in_channels for m in convolutions(G)] == [7, 48, 24, 12, 6, 3]
    assert [m.out_channels for m in convolutions(D)] == [3, 6, 12, 24, 48, 1]


def test_layers_are_initialized_as_in_the_paper() -> None:
    torch.manual_seed(0)
    for module in (generator((3, 64, 64), 100, width=32), discriminator((3, 64, 64), width=32)):
        assert len(convolutions(module)) == 5
        for layer in convolutions(module):
            assert_around(layer.weight, mean=0.0, std=0.02)
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                assert_around(layer.weight, mean=1.0, std=0.02)
                torch.testing.assert_close(layer.bias.data, torch.zeros_like(layer.bias))


def assert_around(weight: Tensor, *, mean: float, std: float) -> None:
    n = weight.numel()
    torch.testing.assert_close(weight.mean().item(), mean, atol=5 * std / math.sqrt(n), rtol=0)
    torch.testing.assert_close(weight.std().item(), std, atol=5 * std / math.sqrt(2 * n), rtol=0)


@pytest.mark.parametrize("init", get_args(InitName))
def test_every_init_gives_networks_that_compute(init: InitName) -> None:
    images = generator(init=init, bias="all")(torch.randn(2, 5))
    assert discriminator(init=init, bias="all")(images).isfinite().all()


def test_latents_and_images_of_other_shapes_are_refused() -> None:
    with pytest.raises(TypeCheckError):
        generator()(torch.randn(2, 5, 1, 1))
    with pytest.raises(TypeCheckError):
        discriminator()(torch.randn(3, 64, 64))
