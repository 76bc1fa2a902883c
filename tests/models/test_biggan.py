"""BigGAN: hierarchical latents and a shared embedding."""

from typing import Any

import pytest
import torch
from torch import nn

from gantrain.models import conditional_resnet
from gantrain.models.biggan import Generator
from gantrain.models.spectral_norm import original_weight

G_OPTIONS: dict[str, Any] = {
    **{"num_classes": 5, "shared_dim": 3, "width": 1, "multipliers": None, "upsample": "nearest"},
    **{"attention": [], "norm": "spectral", "init": "orthogonal"},
}
D_OPTIONS: dict[str, Any] = {
    **{"num_classes": 10, "multipliers": None, "num_halvings": None, "hidden": "after"},
    **{"norm": "none", "pooling": "sum", "init": "default"},
}


def generator(size: int = 16, *, z_dim: int = 6, **options: Any) -> Any:
    return Generator((3, size, size), z_dim, **G_OPTIONS | options)


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("size", "width", "num_classes", "z_dim", "block", "G", "D"),
    [
        (32, 96, 10, 80, 2, 9_416_196, 2_415_170),  # StudioGAN, CIFAR-10
        (64, 32, 10, 100, 3, 8_374_660, 4_894_306),
        (64, 64, 1000, 100, 3, 31_866_116, 20_571_842),
        (128, 64, 1000, 120, 4, 31_978_628, 39_448_258),
        (128, 96, 1000, 120, 4, 70_433_988, 87_982_370),
    ],
)
def test_parameter_counts_are_those_of_the_published_networks(
    size: int, width: int, num_classes: int, z_dim: int, block: int, G: int, D: int
) -> None:
    """At 64 px the released G has other channels than StudioGAN's, which gantrain takes by default."""
    common: dict[str, Any] = {"num_classes": num_classes, "width": width, "norm": "none"}
    options = common | {"attention": [block], "norm": "batch", "shared_dim": 128, "init": "default"}
    options["multipliers"] = [16, 16, 8, 4, 2] if size == 64 else None
    with torch.device("meta"):
        assert num_parameters(generator(size, z_dim=z_dim, **options)) == G
        made = conditional_resnet.Discriminator((3, size, size), **D_OPTIONS | common | {"attention": [1]})
        assert num_parameters(made) == D


def test_parameter_counts_of_the_released_networks_for_cifar10() -> None:
    """64 channels without hierarchical z and attention; and D of 96 channels, with attention after every block."""
    with torch.device("meta"):
        options: dict[str, Any] = {name: G_OPTIONS[name] for name in ("multipliers", "upsample", "attention")}
        plain = {"num_classes": 10, "width": 64, "norm": "batch", "init": "default"}
        assert num_parameters(conditional_resnet.Generator((3, 32, 32), 128, **options | plain)) == 4_304_387
        wide: dict[str, Any] = D_OPTIONS | {"multipliers": [4] * 4, "num_halvings": 2}
        for width, attention, count in ((64, [], 4_207_361), (96, [1, 2, 3, 4], 10_194_053)):
            D = conditional_resnet.Discriminator((3, 32, 32), **wide, width=width, attention=attention)
            assert num_parameters(D) == count


@pytest.mark.parametrize("size", [16, 28, 64])
@pytest.mark.parametrize("z_dim", [10, 23])
def test_samples_have_the_shape_of_the_data(size: int, z_dim: int) -> None:
    torch.manual_seed(0)
    images = generator(size, z_dim=z_dim, attention=[1])(torch.randn(2, z_dim), torch.tensor([0, 4]))
    assert images.shape == (2, 3, size, size)
    assert images.abs().max() <= 1


def test_each_block_gets_its_chunk_of_z_and_the_embedding_of_the_label() -> None:
    torch.manual_seed(0)
    G = generator(32, z_dim=11)  # chunks of 2 for three blocks, and 5 for the first layer
    seen: list[Any] = []
    G.body.linear.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0]))
    for block in G.body.blocks:
        for norm in (block.norm1, block.norm2):
            norm.register_forward_hook(lambda _, inputs, output: seen.append(inputs[1]))
    z, y = torch.randn(4, 11), torch.tensor([0, 4, 2, 2])
    G(z, y)
    shared = G.embedding.weight[y]
    expected = [z[:, :5]]
    for start in (5, 7, 9):
        expected += [torch.hstack([shared, z[:, start : start + 2]])] * 2
    torch.testing.assert_close(seen, expected)


def test_spectral_norm_is_on_every_weight_but_the_shared_embedding() -> None:
    G = generator(attention=[1])
    layers = [m for m in G.body.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == 1 + 2 * (3 + 4) + 4 + 1
    assert all(original_weight(layer) is not layer.weight for layer in layers)
    assert original_weight(G.embedding) is G.embedding.weight


def test_z_with_fewer_dimensions_than_chunks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"z_dim=3: BigGAN splits z in 4 chunks for images of 32 px; .* example 80"):
        generator(32, z_dim=3)
