import re
from copy import deepcopy
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from oracles import load, oracle_files
from torch import Tensor, nn

from gantrain.models import acgan, conditional_dcgan, conditional_mlp, dcgan, mlp
from gantrain.models.layers import InitName, initialize
from gantrain.models.spectral_norm import (
    SpectralNorm,
    has_spectral_norm,
    iterate_spectral_norms,
    original_weight,
    spectral_norm,
)

FILES = oracle_files("spectral_norm*.npz")
DCGAN: dict[str, Any] = {"width": 4, "activation": "leaky_relu", "slope": 0.2, "bias": "ends", "init": "dcgan"}
MLP: dict[str, Any] = {"width": 8, "multipliers": [1, 2], "activation": "relu", "slope": 0.0, "init": "default"}


def networks(norm: str) -> dict[str, nn.Module]:
    shape, labels = (1, 16, 16), {"num_classes": 3, "embedding_dim": 5}
    return {
        "dcgan.Generator": dcgan.Generator(shape, 6, norm=norm, **DCGAN),
        "dcgan.Discriminator": dcgan.Discriminator(shape, norm=norm, **DCGAN),
        "mlp.Generator": mlp.Generator(shape, 6, norm=norm, output="tanh", **MLP),
        "mlp.Discriminator": mlp.Discriminator(shape, norm=norm, dropout=0.0, **MLP),
        "conditional_dcgan.Discriminator": conditional_dcgan.Discriminator(shape, norm=norm, **labels, **DCGAN),
        "conditional_mlp.Discriminator": conditional_mlp.Discriminator(shape, norm=norm, dropout=0.0, **labels, **MLP),
        "acgan.Discriminator": acgan.Discriminator(shape, num_classes=3, norm=norm, **DCGAN),
    }


NAMES = sorted(networks("none"))


def weight_layers(module: nn.Module) -> list[Any]:
    kinds = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.Embedding)
    return [layer for layer in module.modules() if isinstance(layer, kinds)]


def as_matrix(layer: nn.Module, weight: Tensor) -> Tensor:
    """Reshape a weight to a matrix: [out, all other dimensions]."""
    if isinstance(layer, nn.ConvTranspose2d):
        weight = weight.permute(1, 0, 2, 3)
    return weight.reshape(weight.shape[0], -1)


def norm_of(layer: Any) -> SpectralNorm:
    (norm,) = layer.parametrizations["weight"]
    return norm


def normalized(weight: Tensor, u: Tensor) -> Any:
    """Make a layer with this weight, whose power iteration starts from u."""
    if weight.dim() == 2:
        layer: Any = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    else:
        layer = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2:], bias=False)
    layer.weight = nn.Parameter(weight.clone())
    spectral_norm(layer)
    norm_of(layer).u.copy_(u)
    return layer


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_sigma_u_and_v_match_the_golden_ones_after_each_iteration(path: Path) -> None:
    golden = load(path)
    layer = normalized(golden["conv.weight"], golden["conv.u_initial"])
    norm = norm_of(layer)
    counts = sorted(int(m[1]) for name in golden if (m := re.fullmatch(r"out\.sigma_after_(\d+)_iterations", name)))
    assert counts
    for i in range(1, counts[-1] + 1):
        iterate_spectral_norms(layer)
        if i in counts:
            found = {"sigma": norm.sigma(original_weight(layer)), "u": norm.u, "v": norm.v}
            for name, value in found.items():
                expected = golden[f"out.{name}_after_{i}_iterations"]
                torch.testing.assert_close(value.detach(), expected, atol=2e-7 * expected.abs().max().item(), rtol=0)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_normalized_weight_and_its_gradient_match_the_golden_ones(path: Path) -> None:
    golden = load(path)
    layer = normalized(golden["conv.weight"], golden["conv.u_initial"])
    iterate_spectral_norms(layer)
    expected = golden["out.normalised_weight_after_1_iteration"]
    torch.testing.assert_close(layer.weight.detach(), expected, atol=2e-7 * expected.abs().max().item(), rtol=0)
    (layer.weight * golden["in.covector"]).sum().backward()
    expected = golden["out.weight_gradient_after_1_iteration"]
    gradient = original_weight(layer).grad
    torch.testing.assert_close(gradient, expected, atol=2e-7 * expected.abs().max().item(), rtol=0)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_linear_layer_matches_the_golden_output(path: Path) -> None:
    golden = load(path)
    layer = normalized(golden["linear.weight"], golden["linear.u_initial"])
    layer.bias = nn.Parameter(golden["linear.bias"])
    iterate_spectral_norms(layer)
    for value, name in ((layer(golden["in.linear.x"]), "out.linear.y"), (norm_of(layer).u, "out.linear.u_after")):
        torch.testing.assert_close(value.detach(), golden[name], atol=2e-7 * golden[name].abs().max().item(), rtol=0)


def test_gradient_matches_finite_differences_with_u_and_v_fixed() -> None:
    torch.manual_seed(0)
    weight = torch.randn(3, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    norm = SpectralNorm(weight.detach(), out_dim=1)
    assert torch.autograd.gradcheck(norm, weight)
    assert torch.autograd.gradgradcheck(norm, weight)


@pytest.mark.parametrize("name", NAMES)
def test_largest_singular_value_of_every_weight_converges_to_1(name: str) -> None:
    torch.manual_seed(0)
    network = networks("spectral")[name].double()
    for _ in range(500):
        iterate_spectral_norms(network)
    found = weight_layers(network)
    assert len(found) >= 3
    for layer in found:
        largest = torch.linalg.svdvals(as_matrix(layer, layer.weight.detach()))[0]
        torch.testing.assert_close(largest, torch.ones_like(largest), atol=1e-6, rtol=0)


def test_a_new_network_is_nearly_normalized_before_its_first_update() -> None:
    torch.manual_seed(0)
    for network in networks("spectral").values():
        for layer in weight_layers(network):
            largest = torch.linalg.svdvals(as_matrix(layer, layer.weight.detach()))[0]
            assert 0.999 < largest < 1.2  # u^T W v is never above the largest singular value


@pytest.mark.parametrize("name", NAMES)
def test_spectral_norm_adds_neither_parameters_nor_other_norms(name: str) -> None:
    torch.manual_seed(0)
    plain = networks("none")[name]
    torch.manual_seed(0)
    network = networks("spectral")[name]
    assert not any(isinstance(m, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm) for m in network.modules())
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in plain.parameters())
    assert sorted(p.shape for p in network.parameters()) == sorted(p.shape for p in plain.parameters())
    assert has_spectral_norm(network)
    assert not has_spectral_norm(plain)
    assert len(list(network.buffers())) == 2 * len(weight_layers(network))


def test_original_weights_are_initialized_as_in_the_plain_network() -> None:
    torch.manual_seed(0)
    plain = dcgan.Discriminator((1, 16, 16), norm="none", **DCGAN)
    torch.manual_seed(0)
    network = dcgan.Discriminator((1, 16, 16), norm="spectral", **DCGAN)
    for layer, same in zip(weight_layers(network), weight_layers(plain), strict=True):
        torch.testing.assert_close(original_weight(layer), same.weight, atol=0, rtol=0)


@pytest.mark.parametrize("init", get_args(InitName))
def test_initialize_sets_the_original_weight_and_updates_u_and_v(init: InitName) -> None:
    torch.manual_seed(0)
    network = spectral_norm(nn.Sequential(nn.Conv2d(3, 40, 4), nn.ReLU(), nn.Linear(50, 60)))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(0.5)
    initialize(network, init)
    if init == "default":
        assert all((p == 0.5).all() for p in network.parameters())
        return
    for layer in (network[0], network[2]):
        original = original_weight(layer)
        assert isinstance(original, nn.Parameter)
        assert not (original == 0.5).any()
        assert init != "dcgan" or abs(original.std() - 0.02) < 0.002
        assert not layer.bias.any()
        assert torch.linalg.svdvals(as_matrix(layer, layer.weight.detach()))[0] < 1.2


def test_only_iterate_spectral_norms_changes_u_and_v() -> None:
    torch.manual_seed(0)
    D = dcgan.Discriminator((1, 16, 16), norm="spectral", **DCGAN).double()
    before = {name: buffer.clone() for name, buffer in D.named_buffers()}
    pointers = {name: buffer.data_ptr() for name, buffer in D.named_buffers()}
    for _ in range(3):
        D(torch.randn(2, 1, 16, 16, dtype=torch.float64)).sum().backward()
    torch.testing.assert_close(dict(D.named_buffers()), before, atol=0, rtol=0)

    layer = weight_layers(D)[1]
    W, u = as_matrix(layer, original_weight(layer).detach()), norm_of(layer).u.clone()
    iterate_spectral_norms(D)
    v = W.T @ u / (W.T @ u).norm()
    torch.testing.assert_close(norm_of(layer).v, v)
    torch.testing.assert_close(norm_of(layer).u, W @ v / (W @ v).norm())
    assert {
        name: buffer.data_ptr() for name, buffer in D.named_buffers()
    } == pointers  # a captured graph needs fixed addresses


def test_iterating_a_network_without_spectral_norm_changes_nothing() -> None:
    D = networks("none")["dcgan.Discriminator"]
    before = deepcopy(D.state_dict())
    iterate_spectral_norms(D)
    torch.testing.assert_close(D.state_dict(), before, atol=0, rtol=0)


@pytest.mark.parametrize("name", ["dcgan.Generator", "dcgan.Discriminator", "mlp.Discriminator"])
def test_state_dict_restores_outputs_and_later_iterations(name: str) -> None:
    torch.manual_seed(0)
    network, other = networks("spectral")[name], networks("spectral")[name]
    x = torch.randn(4, *((6,) if name.endswith("Generator") else (1, 16, 16)))
    iterate_spectral_norms(network)
    other.load_state_dict(network.state_dict())
    for _ in range(2):
        torch.testing.assert_close(other(x), network(x), atol=0, rtol=0)
        iterate_spectral_norms(network)
        iterate_spectral_norms(other)


def test_a_deep_copy_is_the_same_function_and_shares_nothing() -> None:
    torch.manual_seed(0)
    G = networks("spectral")["dcgan.Generator"]
    copy = deepcopy(G)
    z = torch.randn(4, 6)
    expected = G(z).detach()
    torch.testing.assert_close(copy(z), expected, atol=0, rtol=0)
    with torch.no_grad():
        for parameter in G.parameters():
            parameter.mul_(torch.rand_like(parameter))
    iterate_spectral_norms(G)
    assert not torch.allclose(G(z), expected)
    torch.testing.assert_close(copy(z), expected, atol=0, rtol=0)


def test_optimizer_trains_the_original_weight() -> None:
    torch.manual_seed(0)
    D = networks("spectral")["dcgan.Discriminator"]
    optimizer = torch.optim.SGD(D.parameters(), lr=0.1)
    x = torch.randn(8, 1, 16, 16)
    before = D(x).mean().item()
    for _ in range(5):
        iterate_spectral_norms(D)
        optimizer.zero_grad()
        (-D(x).mean()).backward()
        optimizer.step()
    assert D(x).mean().item() > before + 0.01


def test_initial_u_and_v_depend_only_on_the_global_seed() -> None:
    def buffers(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        return list(networks("spectral")["mlp.Discriminator"].buffers())

    torch.testing.assert_close(buffers(0), buffers(0), atol=0, rtol=0)
    assert not torch.equal(buffers(0)[0], buffers(1)[0])


def test_autocast_does_not_round_sigma() -> None:
    torch.manual_seed(0)
    layer: Any = spectral_norm(nn.Linear(64, 64))
    expected = layer.weight
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer.weight, expected, atol=0, rtol=0)
        assert layer(torch.randn(2, 64)).dtype == torch.bfloat16


def test_normalizing_twice_is_normalizing_once() -> None:
    layer: Any = spectral_norm(spectral_norm(nn.Linear(3, 4)))
    assert len(layer.parametrizations["weight"]) == 1
