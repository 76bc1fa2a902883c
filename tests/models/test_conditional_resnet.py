"""Residual networks with labels: projection discriminator, SAGAN, WGAN-GP with a classifier."""

from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import assert_golden, load, load_layer, oracle_files
from torch import nn

from gantrain.models.conditional_resnet import ClassifyingDiscriminator, Discriminator, Generator, ProjectionHead
from gantrain.models.interface import takes_labels
from gantrain.models.resnet import DiscriminatorBody
from gantrain.models.spectral_norm import (
    has_spectral_norm,
    iterate_spectral_norms,
    original_weight,
    spectral_norm,
)
from gantrain.regularizers.input_gradient import input_gradient

G_OPTIONS: dict[str, Any] = {
    **{"num_classes": 5, "width": 1, "multipliers": None, "upsample": "nearest", "attention": []},
    **{"norm": "batch", "init": "default"},
}
D_OPTIONS: dict[str, Any] = {
    **{"num_classes": 5, "width": 1, "multipliers": None, "num_halvings": None, "attention": []},
    "hidden": "before",
    **{"norm": "spectral", "pooling": "sum", "init": "default"},
}
GOLDEN = oracle_files("projection_discriminator*.npz")


def generator(size: int = 16, *, z_dim: int = 5, **options: Any) -> Any:
    return Generator((3, size, size), z_dim, **G_OPTIONS | options)


def discriminator(size: int = 16, **options: Any) -> Any:
    return Discriminator((3, size, size), **D_OPTIONS | options)


def classifying(size: int = 16, **options: Any) -> Any:
    usual = {name: value for name, value in D_OPTIONS.items() if name not in ("attention", "hidden")}
    return ClassifyingDiscriminator((3, size, size), **usual | options)


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("size", "options", "G_options", "D_options", "counts"),
    [
        (32, {"num_classes": 10}, {}, {}, (4_304_387, 1_055_105)),  # cGAN-PD
        (32, {"num_classes": 10, "attention": [2]}, {"norm": "spectral"}, {}, (4_386_308, 1_075_586)),  # SAGAN
        (128, {"num_classes": 1000, "attention": [2]}, {"attention": [3]}, {"width": 8}, (42_078_852, 582_818)),
        (128, {"num_classes": 1000, "attention": [2]}, {"attention": [3]}, {}, (42_078_852, 30_062_338)),
    ],
)
def test_parameter_counts_are_those_of_the_published_networks(
    size: int, options: Any, G_options: Any, D_options: Any, counts: tuple[int, int]
) -> None:
    with torch.device("meta"):
        G = generator(size, z_dim=128, **{"width": 64} | options | G_options)
        D = discriminator(size, **{"width": 64, "norm": "none"} | options | D_options)
    assert (num_parameters(G), num_parameters(D)) == counts


def test_parameter_counts_of_wgan_gp_with_10_classes() -> None:
    with torch.device("meta"):
        assert num_parameters(generator(32, z_dim=128, width=32, num_classes=10)) == 1_218_307
        assert num_parameters(classifying(32, width=64, num_classes=10, norm="none")) == 1_055_115


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_projection_discriminator_matches_the_golden_one(path: Path) -> None:
    golden = load(path)
    x, y = golden["in.image"], golden["in.label"]
    blocks = sorted(int(name.split(".")[1][5:]) for name in golden if name.endswith("conv1.weight"))
    channels = [len(golden[f"d.block{i}.conv2.weight"]) for i in blocks]
    # The first blocks halve the size; the others have no convolution in the shortcut.
    num_halvings = sum(f"d.block{i}.conv_skip.weight" in golden for i in blocks)
    D = discriminator(num_classes=len(golden["d.embedding.weight"]), width=channels[-1], multipliers=[1])
    options: dict[str, Any] = {"num_halvings": num_halvings, "pooling": "sum", "attention": [], "hidden": "before"}
    D.body = DiscriminatorBody(x.shape[1], channels, **options)
    spectral_norm(D.double())
    for i, block in zip(blocks, D.body.blocks, strict=True):
        for own, name in (("conv1", "conv1"), ("conv2", "conv2"), ("shortcut", "conv_skip")):
            load_layer(getattr(block, own), golden, f"d.block{i}.{name}")
    load_layer(D.projection.linear, golden, "d.linear")
    load_layer(D.projection.embedding, golden, "d.embedding")
    iterate_spectral_norms(D)  # the published code makes one step of the power iteration at each training call
    assert_golden(D(x, y), golden["out.logit_train_call1"])
    iterate_spectral_norms(D)
    assert_golden(D(x, y), golden["out.logit_train_call2"])
    assert_golden(D.eval()(x, y), golden["out.logit_eval_after_call2"])


@pytest.mark.parametrize("path", oracle_files("attention_cbn_projection*.npz"), ids=lambda path: path.stem)
def test_projection_matches_the_golden_one(path: Path) -> None:
    golden = load(path)
    num_classes, num_features = golden["projection.embedding.weight"].shape
    head = ProjectionHead(num_features, num_classes=num_classes).double()
    load_layer(head.linear, golden, "projection.linear")
    load_layer(head.embedding, golden, "projection.embedding")
    features = golden["in.projection.features"].clamp(min=0).sum((2, 3))
    assert_golden(head(features, golden["in.label"]), golden["out.projection_logit"])


@pytest.mark.parametrize("attention", [[], [1], [2, 1]])
@pytest.mark.parametrize("size", [16, 28])
def test_samples_have_the_shape_of_the_data_and_one_logit_each(size: int, attention: list[int]) -> None:
    torch.manual_seed(0)
    y = torch.tensor([0, 4, 2])
    images = generator(size, attention=attention, norm="spectral")(torch.randn(3, 5), y)
    assert images.shape == (3, 3, size, size)
    assert images.abs().max() <= 1
    assert discriminator(size, attention=attention)(images, y).shape == (3,)
    logits, aux = classifying(size)(images)
    assert (logits.shape, aux["class_logits"].shape) == ((3,), (3, 5))


def test_labels_change_the_samples_only_after_training_and_the_logits_always() -> None:
    torch.manual_seed(0)
    G, D = generator().eval(), discriminator()
    z, first, second = torch.randn(2, 5), torch.tensor([0, 1]), torch.tensor([0, 3])
    torch.testing.assert_close(G(z, first), G(z, second), atol=0, rtol=0)
    for block in G.body.blocks:
        nn.init.normal_(block.norm2.beta)
    one, other = G(z, first), G(z, second)
    assert torch.equal(one[0], other[0])
    assert not torch.allclose(one[1], other[1])
    x = torch.randn(2, 3, 16, 16)
    change = D(x, second) - D(x, first)
    assert change[0] == 0
    weights = D.projection.embedding.weight
    torch.testing.assert_close(change[1], (weights[3] - weights[1]) @ D.body(x)[1])


def test_attention_follows_the_block_of_its_number() -> None:
    torch.manual_seed(0)
    inputs = {
        generator(32, attention=[2], multipliers=[4, 3, 2, 1]): torch.randn(2, 5),
        discriminator(64, attention=[2]): torch.randn(2, 3, 64, 64),
    }
    for network, x in inputs.items():
        order: list[Any] = []
        for module in (*network.body.blocks, network.body.attention["2"]):
            module.register_forward_hook(lambda module, *_, order=order: order.append(module))
        network(x, torch.tensor([0, 1]))
        assert order[2] is network.body.attention["2"]
    with pytest.raises(ValueError, match=r"attention=\[2, 4\]: the network has 3 blocks; choose numbers from 1 to 3"):
        generator(32, attention=[2, 4])
    with pytest.raises(ValueError, match=r"attention=\[0\]: the network has 4 blocks"):
        discriminator(attention=[0])


def test_spectral_norm_is_on_every_weight_but_the_tables_of_batch_norm() -> None:
    G, D = generator(norm="spectral", attention=[1]), discriminator(attention=[1])
    for network, num in ((G, 1 + 2 * 3 + 4 + 1), (D, 4 * 2 + 2 + 4 + 2)):
        layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.Embedding)]
        assert len(layers) == num
        assert all(original_weight(layer) is not layer.weight for layer in layers)
    assert not has_spectral_norm(generator())
    assert takes_labels(G)
    assert takes_labels(D)
    assert not takes_labels(classifying())


def test_penalties_on_the_gradient_of_d_can_be_differentiated() -> None:
    torch.manual_seed(0)
    D = discriminator(attention=[1]).double()
    D.body.attention["1"].gamma.data.fill_(0.5)
    x, y = torch.randn(2, 3, 16, 16, dtype=torch.float64), torch.tensor([0, 1])
    input_gradient(D, x, y).square().sum().backward()
    weight: Any = original_weight(D.body.blocks[0].conv2)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(D(leaf, y).sum(), leaf, create_graph=True)
    torch.testing.assert_close(weight.grad, torch.autograd.grad(gradient.square().sum(), weight)[0])
