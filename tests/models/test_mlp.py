from typing import Any, get_args

import pytest
import torch
from torch import nn

from gantrain.models.layers import InitName
from gantrain.models.mlp import Discriminator, Generator

OPTIONS: dict[str, Any] = {
    "width": 8,
    "multipliers": [1, 2, 0.5],
    "activation": "leaky_relu",
    "slope": 0.2,
    "norm": "none",
    "init": "default",
}


def generator(shape: tuple[int, ...] = (1, 4, 4), z_dim: int = 5, **options: Any) -> Generator:
    return Generator(shape, z_dim, **OPTIONS | {"output": "tanh"} | options)


def discriminator(shape: tuple[int, ...] = (1, 4, 4), **options: Any) -> Discriminator:
    return Discriminator(shape, **OPTIONS | {"dropout": 0.0} | options)


def linears(module: nn.Module) -> list[nn.Linear]:
    return [m for m in module.modules() if isinstance(m, nn.Linear)]


@pytest.mark.parametrize("shape", [(1,), (2,), (1, 4, 4), (3, 5, 7)])
def test_samples_may_have_any_shape(shape: tuple[int, ...]) -> None:
    samples = generator(shape)(10 * torch.randn(6, 5))
    assert samples.shape == (6, *shape)
    assert samples.abs().max() <= 1
    assert discriminator(shape)(samples).shape == (6,)


def test_multipliers_set_the_widths_of_hidden_layers() -> None:
    assert [layer.in_features for layer in linears(generator())] == [5, 8, 16, 4]
    assert [layer.out_features for layer in linears(generator())] == [8, 16, 4, 16]
    assert [layer.in_features for layer in linears(discriminator())] == [16, 8, 16, 4]
    assert [layer.out_features for layer in linears(discriminator())] == [8, 16, 4, 1]


def test_generator_equals_the_composition_of_its_layers() -> None:
    torch.manual_seed(0)
    G = generator().double()
    z = torch.randn(6, 5, dtype=torch.float64)
    x = z
    *hidden, last = linears(G)
    for layer in hidden:
        x = x @ layer.weight.T + layer.bias
        x = x.clamp(min=0) + 0.2 * x.clamp(max=0)
    x = torch.tanh(x @ last.weight.T + last.bias)
    torch.testing.assert_close(G(z), x.reshape(6, 1, 4, 4))


def test_discriminator_equals_the_composition_of_its_layers() -> None:
    torch.manual_seed(0)
    D = discriminator().double()
    images = torch.randn(6, 1, 4, 4, dtype=torch.float64)
    x = images.reshape(6, 16)
    *hidden, last = linears(D)
    for layer in hidden:
        x = x @ layer.weight.T + layer.bias
        x = x.clamp(min=0) + 0.2 * x.clamp(max=0)
    torch.testing.assert_close(D(images), x @ last.weight[0] + last.bias)


def test_a_linear_output_is_unbounded() -> None:
    torch.manual_seed(0)
    samples = generator((1,), output="linear")(100 * torch.randn(50, 5))
    assert samples.abs().max() > 1


@pytest.mark.parametrize(("norm", "kind"), [("batch", nn.BatchNorm1d), ("layer", nn.LayerNorm), ("none", type(None))])
def test_norms_follow_every_hidden_layer(norm: str, kind: type) -> None:
    for module in (generator(norm=norm), discriminator(norm=norm)):
        norms = [m for m in module.layers if isinstance(m, nn.BatchNorm1d | nn.LayerNorm)]
        assert [type(m) for m in norms] == [kind] * 3 * (norm != "none")


def test_dropout_follows_every_hidden_layer_and_is_off_in_eval_mode() -> None:
    torch.manual_seed(0)
    D = discriminator(dropout=0.5, width=64)
    assert [m.p for m in D.layers if isinstance(m, nn.Dropout)] == [0.5] * 3
    x = torch.randn(4, 1, 4, 4)
    assert not torch.equal(D(x), D(x))
    D.eval()
    torch.testing.assert_close(D(x), D(x), atol=0, rtol=0)


def test_dropout_0_adds_no_layer() -> None:
    assert not any(isinstance(m, nn.Dropout) for m in discriminator(dropout=0.0).modules())


@pytest.mark.parametrize("init", get_args(InitName))
def test_init_is_applied_to_every_layer(init: InitName) -> None:
    for module in (generator(init=init), discriminator(init=init)):
        zero = [not layer.bias.any() for layer in linears(module)]
        assert zero == [init != "default"] * 4


@pytest.mark.parametrize("dropout", [-0.1, 1.0, 1.5])
def test_invalid_dropout_is_refused(dropout: float) -> None:
    with pytest.raises(ValueError, match=rf"dropout={dropout}: .*\[0, 1\)"):
        discriminator(dropout=dropout)


@pytest.mark.parametrize(("width", "multipliers"), [(0, [1]), (8, []), (8, [1, 0]), (1, [0.1]), (-4, [1])])
def test_layers_without_units_are_refused(width: int, multipliers: list[float]) -> None:
    for make in (generator, discriminator):
        with pytest.raises(ValueError, match=f"width={width}, multipliers=.* at least 1; .* width=256"):
            make(width=width, multipliers=multipliers)


def test_instance_normalization_of_vectors_is_refused() -> None:
    with pytest.raises(ValueError, match="norm=instance"):
        generator(norm="instance")
