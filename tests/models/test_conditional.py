"""Conditional networks, and the discriminator of AC-GAN."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gantrain.models import acgan, conditional_dcgan, conditional_mlp, dcgan, mlp
from gantrain.models.interface import split_output, takes_labels

DCGAN: dict[str, Any] = {
    "width": 4,
    "norm": "none",
    "activation": "leaky_relu",
    "slope": 0.2,
    "bias": "none",
    "init": "dcgan",
}
MLP: dict[str, Any] = {
    "width": 8,
    "multipliers": [1, 2],
    "activation": "leaky_relu",
    "slope": 0.2,
    "norm": "none",
    "init": "default",
}
LABELS: dict[str, int] = {"num_classes": 5, "embedding_dim": 3}
KINDS = ["mlp", "dcgan"]


def generator(kind: str, shape: tuple[int, ...] = (1, 16, 16), **options: Any) -> nn.Module:
    if kind == "mlp":
        return conditional_mlp.Generator(shape, 7, **LABELS | MLP | {"output": "tanh"} | options)
    return conditional_dcgan.Generator(shape, 7, **LABELS | DCGAN | options)


def discriminator(kind: str, shape: tuple[int, ...] = (1, 16, 16), **options: Any) -> nn.Module:
    if kind == "mlp":
        return conditional_mlp.Discriminator(shape, **LABELS | MLP | {"dropout": 0.0} | options)
    return conditional_dcgan.Discriminator(shape, **LABELS | DCGAN | options)


def acgan_discriminator(shape: tuple[int, ...] = (1, 16, 16), **options: Any) -> nn.Module:
    return acgan.Discriminator(shape, **{"num_classes": 5} | DCGAN | options)


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 28, 28)])
def test_networks_give_samples_of_every_class_and_one_logit_per_sample(kind: str, shape: tuple[int, ...]) -> None:
    y = torch.arange(5)
    samples = generator(kind, shape)(torch.randn(5, 7), y)
    assert samples.shape == (5, *shape)
    assert samples.abs().max() <= 1
    assert discriminator(kind, shape)(samples, y).shape == (5,)


def test_vectors_can_have_labels() -> None:
    y = torch.arange(5)
    samples = generator("mlp", (2,))(torch.randn(5, 7), y)
    assert discriminator("mlp", (2,))(samples, y).shape == (5,)


@pytest.mark.parametrize("kind", KINDS)
def test_networks_equal_plain_networks_on_inputs_concatenated_with_the_embedding(kind: str) -> None:
    torch.manual_seed(0)
    G, D = generator(kind).double(), discriminator(kind).double()
    z, x = torch.randn(4, 7, dtype=torch.float64), torch.randn(4, 1, 16, 16, dtype=torch.float64)
    y = torch.tensor([0, 4, 2, 2])

    codes = torch.stack([G.embedding.weight[i] for i in y.tolist()])
    torch.testing.assert_close(G(z, y), G.network(torch.hstack([z, codes])))

    codes = torch.stack([D.embedding.weight[i] for i in y.tolist()])
    if kind == "mlp":
        beside = torch.hstack([x.reshape(4, 256), codes])
    else:
        beside = torch.cat([x, codes.repeat_interleave(256, dim=1).reshape(4, 3, 16, 16)], dim=1)
    torch.testing.assert_close(D(x, y), D.network(beside))


@pytest.mark.parametrize("kind", KINDS)
def test_label_affects_only_its_own_sample(kind: str) -> None:
    torch.manual_seed(0)
    G, D = generator(kind, init="xavier").double(), discriminator(kind, init="xavier").double()
    for network, x in ((G, torch.randn(3, 7)), (D, torch.randn(3, 1, 16, 16))):
        first = network(x.double(), torch.tensor([0, 1, 2]))
        second = network(x.double(), torch.tensor([0, 3, 2]))
        torch.testing.assert_close(first[[0, 2]], second[[0, 2]])
        assert (first[1] - second[1]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_only_embeddings_of_classes_in_the_batch_get_gradients(kind: str) -> None:
    torch.manual_seed(0)
    y = torch.tensor([0, 1, 1, 3])
    for network, x in ((generator(kind), torch.randn(4, 7)), (discriminator(kind), torch.randn(4, 1, 16, 16))):
        network(x, y).square().sum().backward()
        gradient = network.embedding.weight.grad
        assert isinstance(gradient, Tensor)
        assert gradient.any(dim=1).tolist() == [True, True, False, True, False]


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_are_initialized_with_standard_deviation_1(kind: str) -> None:
    torch.manual_seed(0)
    for make in (generator, discriminator):
        weight = make(kind, num_classes=100, embedding_dim=100, init="dcgan").embedding.weight.detach()
        torch.testing.assert_close(weight.std().item(), 1.0, atol=0.04, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_add_an_embedding_and_a_wider_input_layer(kind: str) -> None:
    shape = (1, 16, 16)
    plain_G = dcgan.Generator(shape, 7, **DCGAN) if kind == "dcgan" else mlp.Generator(shape, 7, output="tanh", **MLP)
    plain_D = dcgan.Discriminator(shape, **DCGAN) if kind == "dcgan" else mlp.Discriminator(shape, dropout=0.0, **MLP)
    units_G, units_D = (8 * 4 * 4, 4 * 4 * 4) if kind == "dcgan" else (8, 8)  # weights per additional input
    assert num_parameters(generator(kind)) == num_parameters(plain_G) + 5 * 3 + 3 * units_G
    assert num_parameters(discriminator(kind)) == num_parameters(plain_D) + 5 * 3 + 3 * units_D


def test_parameter_counts_of_the_first_conditional_gan_on_32_px() -> None:
    """cGAN of PyTorch-GAN (36d3c77) has 1,757,412 and 1,055,845; its G lacks the first BatchNorm, of width 128."""
    options = MLP | {"num_classes": 10, "embedding_dim": 10}
    G = conditional_mlp.Generator(
        (1, 32, 32), 100, **options | {"width": 128, "multipliers": [1, 2, 4, 8], "norm": "batch", "output": "tanh"}
    )
    D = conditional_mlp.Discriminator((1, 32, 32), **options | {"width": 512, "multipliers": [1, 1, 1], "dropout": 0.4})
    assert num_parameters(G) == 1_757_412 + 2 * 128
    assert num_parameters(D) == 1_055_845


def test_parameter_counts_of_the_convolutional_networks_on_28_px() -> None:
    options = DCGAN | {"width": 64, "norm": "batch"}
    G = conditional_dcgan.Generator((1, 28, 28), 100, num_classes=10, embedding_dim=10, **options)
    D = conditional_dcgan.Discriminator((1, 28, 28), num_classes=10, embedding_dim=10, **options)
    classifying = acgan.Discriminator((1, 28, 28), num_classes=10, **options)
    hidden = 128 * 64 * 16  # the convolution between 64 and 128 channels
    assert num_parameters(G) == 100 + 110 * 128 * 49 + 2 * 128 + hidden + 2 * 64 + 64 * 16
    assert num_parameters(D) == 100 + 11 * 64 * 16 + hidden + 2 * 128 + 128 * 49
    assert num_parameters(classifying) == 64 * 16 + hidden + 2 * 128 + 11 * 128 * 49


def test_takes_labels_recognizes_conditional_networks() -> None:
    assert all(takes_labels(make(kind)) for make in (generator, discriminator) for kind in KINDS)
    D = acgan_discriminator()
    assert not takes_labels(D)
    assert D.num_aux_classes == 5


def test_acgan_returns_logits_and_class_logits_of_the_same_features() -> None:
    torch.manual_seed(0)
    D = acgan_discriminator(norm="batch", bias="ends").double()
    x = torch.randn(6, 1, 16, 16, dtype=torch.float64)
    logits, aux = split_output(D(x))
    assert logits.shape == (6,)
    assert {name: value.shape for name, value in aux.items()} == {"class_logits": (6, 5)}

    plain = dcgan.Discriminator((1, 16, 16), **DCGAN | {"norm": "batch", "bias": "ends"}).double()
    shared = zip(plain.parameters(), [*D.trunk.parameters(), *D.head.parameters()], strict=True)
    for parameter, same in shared:
        parameter.data.copy_(same)
    torch.testing.assert_close(logits, plain(x))
    *features, _, _ = plain.layers
    flat = nn.Sequential(*features)(x).flatten(1)
    (head, _) = D.class_head
    torch.testing.assert_close(aux["class_logits"], flat @ head.weight.flatten(1).T + head.bias)


@pytest.mark.parametrize(("options", "message"), [({"num_classes": 0}, "num_classes=0"), ({"width": 0}, "width=0")])
def test_acgan_refuses_zero_classes_and_zero_width(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        acgan_discriminator(**options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("options", "message"),
    [({"num_classes": 0}, r"num_classes=0: .*at least one class"), ({"embedding_dim": 0}, r"embedding_dim=0: .*10")],
)
def test_zero_classes_and_zero_embedding_dim_are_refused(kind: str, options: dict[str, int], message: str) -> None:
    for make in (generator, discriminator):
        with pytest.raises(ValueError, match=message):
            make(kind, **options)


def test_convolutional_networks_refuse_vectors() -> None:
    for make in (generator, discriminator):
        with pytest.raises(ValueError, match=r"square images.*\(2,\).*network=mlp"):
            make("dcgan", (2,))
    with pytest.raises(ValueError, match=r"square images.*\(2,\)"):
        acgan_discriminator((2,))
