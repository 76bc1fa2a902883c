import math
from copy import deepcopy
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from gantrain.models.layers import (
    ActivationName,
    InitName,
    NormOption,
    activation,
    check_width,
    couples_samples,
    has_batch_norm,
    initialize,
    label_embedding,
    norm,
)

LAYER_NORMS = [name for name in get_args(NormOption) if name != "spectral"]


class Nested(nn.Module):
    """Layers at several depths, none of them at the top."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(16, 32, 4), nn.Sequential(nn.BatchNorm2d(32), nn.ReLU(), nn.ConvTranspose2d(32, 16, 4))
        )
        self.others = nn.ModuleList([nn.Linear(100, 200), nn.GroupNorm(1, 300), nn.InstanceNorm2d(300, affine=True)])


def matrices(module: nn.Module) -> list[Tensor]:
    return [parameter.detach() for parameter in module.parameters() if parameter.dim() > 1]


def scales(module: nn.Module) -> list[Tensor]:
    norms = (nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d)
    return [m.weight.detach() for m in module.modules() if isinstance(m, norms)]


def biases(module: nn.Module) -> list[Tensor]:
    return [parameter.detach() for name, parameter in module.named_parameters() if name.endswith("bias")]


def assert_moments(x: Tensor, *, mean: float, std: float) -> None:
    """Check mean and standard deviation within 5 standard errors of a normal sample."""
    n = x.numel()
    torch.testing.assert_close(x.mean().item(), mean, atol=5 * std / math.sqrt(n), rtol=0)
    torch.testing.assert_close(x.std().item(), std, atol=5 * std / math.sqrt(2 * n), rtol=0)


def initialized(init: InitName) -> nn.Module:
    torch.manual_seed(0)
    module = Nested()
    for bias in biases(module):
        bias.fill_(0.5)
    initialize(module, init)
    return module


def test_dcgan_weights_of_every_layer_are_normal_of_std_0_02() -> None:
    module = initialized("dcgan")
    assert len(matrices(module)) == 3
    for weight in matrices(module):
        assert_moments(weight, mean=0.0, std=0.02)


def test_dcgan_scales_of_normalizations_are_drawn_around_1() -> None:
    module = initialized("dcgan")
    assert len(scales(module)) == 3
    for scale in scales(module):
        assert_moments(scale, mean=1.0, std=0.02)


def test_xavier_weights_are_uniform_in_the_bound_of_fan_in_and_fan_out() -> None:
    conv, transposed, full = matrices(initialized("xavier"))
    for weight, fans in ((conv, (16 + 32) * 16), (transposed, (32 + 16) * 16), (full, 300)):
        bound = math.sqrt(6 / fans)
        assert 0.98 * bound < weight.abs().max() <= bound
        torch.testing.assert_close(weight.std().item(), bound / math.sqrt(3), atol=0, rtol=0.05)


def test_kaiming_weights_keep_the_variance_of_rectified_inputs() -> None:
    conv, _, full = matrices(initialized("kaiming"))
    assert_moments(conv, mean=0.0, std=math.sqrt(2 / (16 * 16)))
    assert_moments(full, mean=0.0, std=math.sqrt(2 / 100))


def test_orthogonal_weights_have_orthonormal_rows_or_columns() -> None:
    for weight in matrices(initialized("orthogonal")):
        rows = weight.flatten(1)
        gram = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
        torch.testing.assert_close(gram, torch.eye(len(gram)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("init", ["xavier", "kaiming", "orthogonal"])
def test_other_inits_set_scales_of_normalizations_to_1(init: InitName) -> None:
    for scale in scales(initialized(init)):
        torch.testing.assert_close(scale, torch.ones_like(scale))


@pytest.mark.parametrize("init", ["dcgan", "xavier", "kaiming", "orthogonal"])
def test_every_bias_starts_at_0(init: InitName) -> None:
    module = initialized(init)
    assert len(biases(module)) == 6
    for bias in biases(module):
        torch.testing.assert_close(bias, torch.zeros_like(bias))


@pytest.mark.parametrize("init", sorted({*get_args(InitName)} - {"default"}))
def test_every_weight_is_initialized_at_any_depth(init: InitName) -> None:
    module = Nested()
    before = [weight.clone() for weight in matrices(module)]
    initialize(module, init)
    assert not any(torch.equal(a, b) for a, b in zip(before, matrices(module), strict=True))


def test_default_init_keeps_the_weights_of_torch() -> None:
    module = Nested()
    before = deepcopy(module.state_dict())
    initialize(module, "default")
    torch.testing.assert_close(module.state_dict(), before, atol=0, rtol=0)


@pytest.mark.parametrize("name", get_args(ActivationName))
def test_activations_equal_those_of_torch(name: ActivationName) -> None:
    x = torch.linspace(-3, 3, 13)
    expected = {"leaky_relu": lambda x: nn.functional.leaky_relu(x, 0.3), "linear": lambda x: x, "tanh": torch.tanh}
    torch.testing.assert_close(
        activation(name, 0.3)(x), expected.get(name, getattr(nn.functional, name, torch.tanh))(x)
    )


@pytest.mark.parametrize("name", LAYER_NORMS)
def test_image_norms_normalize_over_their_dimensions(name: NormOption) -> None:
    torch.manual_seed(0)
    x = 3 + 2 * torch.randn(6, 4, 5, 5)
    dims = {"batch": (0, 2, 3), "instance": (2, 3), "layer": (1, 2, 3)}
    normalized = nn.Sequential(*norm(name, 4, dims=2))(x)
    if name == "none":
        torch.testing.assert_close(normalized, x)
        return
    mean, variance = x.mean(dims[name], keepdim=True), x.var(dims[name], correction=0, keepdim=True)
    torch.testing.assert_close(normalized, (x - mean) / variance.sqrt(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "dim"), [("batch", 0), ("layer", 1)])
def test_vector_norms_normalize_over_their_dimension(name: NormOption, dim: int) -> None:
    torch.manual_seed(0)
    x = 3 + 2 * torch.randn(6, 40)
    (layer,) = norm(name, 40, dims=1)
    expected = (x - x.mean(dim, keepdim=True)) / x.var(dim, correction=0, keepdim=True).sqrt()
    torch.testing.assert_close(layer(x), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", sorted({*LAYER_NORMS} - {"none"}))
def test_every_norm_has_a_learned_scale_and_shift(name: NormOption) -> None:
    (layer,) = norm(name, 4, dims=2)
    assert sorted(tuple(parameter.shape) for parameter in layer.parameters()) == [(4,), (4,)]


def test_instance_normalization_of_vectors_is_refused() -> None:
    with pytest.raises(ValueError, match=r"norm=instance: .*batch.*layer.*none"):
        norm("instance", 4, dims=1)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.BatchNorm1d(2), True),
        (nn.BatchNorm2d(2), True),
        (nn.SyncBatchNorm(2), True),
        (nn.InstanceNorm2d(2), False),
        (nn.GroupNorm(1, 2), False),
        (nn.LayerNorm(2), False),
        (nn.Linear(2, 2), False),
    ],
)
def test_batch_norm_is_found_at_any_depth(layer: nn.Module, expected: bool) -> None:
    assert has_batch_norm(layer) is expected
    assert has_batch_norm(nn.Sequential(nn.ReLU(), nn.Sequential(layer))) is expected


class Coupled(nn.Module):
    couples_samples = True


def test_couples_samples_finds_batch_norm_and_modules_that_declare_it() -> None:
    found = {module: couples_samples(module) for module in (nn.BatchNorm2d(2), Coupled(), nn.Linear(2, 2))}
    assert list(found.values()) == [True, True, False]
    for module, expected in found.items():
        assert couples_samples(nn.Sequential(nn.ReLU(), nn.Sequential(module))) is expected
    assert not has_batch_norm(Coupled())


def test_spectral_norm_adds_no_layer() -> None:
    assert norm("spectral", 4, dims=1) == norm("spectral", 4, dims=2) == []


@pytest.mark.parametrize(
    ("num_classes", "embedding_dim", "message"), [(0, 3, r"num_classes=0: "), (3, 0, r"embedding_dim=0: .*10 is usual")]
)
def test_an_empty_label_embedding_is_refused(num_classes: int, embedding_dim: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        label_embedding(num_classes, embedding_dim)


def test_a_width_below_1_is_refused() -> None:
    check_width(1)
    with pytest.raises(ValueError, match=r"width=0: .* at least one channel"):
        check_width(0)
