"""The plain convolutional networks of SNGAN."""

import pytest
import torch
from torch import nn

from gantrain.models.sngan_cnn import Discriminator, Generator
from gantrain.models.spectral_norm import has_spectral_norm, original_weight


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("z_dim", "G"), [(100, 3_584_003), (128, 3_813_379)])
def test_parameter_counts_are_those_of_the_published_networks(z_dim: int, G: int) -> None:
    with torch.device("meta"):
        assert num_parameters(Generator((3, 32, 32), z_dim, width=64, init="default")) == G
        assert num_parameters(Discriminator((3, 32, 32), width=64, slope=0.1, init="default")) == 5_860_865


@pytest.mark.parametrize(("size", "num_channels"), [(16, 1), (28, 1), (36, 3), (64, 3)])
def test_samples_have_the_shape_of_the_data_and_one_logit_each(size: int, num_channels: int) -> None:
    torch.manual_seed(0)
    images = Generator((num_channels, size, size), 5, width=1, init="dcgan")(torch.randn(3, 5))
    assert images.shape == (3, num_channels, size, size)
    assert Discriminator((num_channels, size, size), width=1, slope=0.1, init="dcgan")(images).shape == (3,)


def test_every_layer_of_d_has_spectral_norm_and_no_layer_of_g() -> None:
    torch.manual_seed(0)
    D = Discriminator((3, 16, 16), width=2, slope=0.1, init="dcgan")
    layers = [layer for layer in D.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert len(layers) == 1 + 2 * 2 + 1
    for layer in layers:
        assert original_weight(layer) is not layer.weight
        assert torch.linalg.svdvals(layer.weight.detach().flatten(1))[0] < 1.2
    assert {m.negative_slope for m in D.modules() if isinstance(m, nn.LeakyReLU)} == {0.1}
    assert not has_spectral_norm(Generator((3, 16, 16), 5, width=1, init="dcgan"))


def test_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match=r"network=sngan_cnn needs square images, but the data has shape \(2,\)"):
        Generator((2,), 5, width=1, init="dcgan")
    with pytest.raises(ValueError, match="network=sngan_cnn needs images with a side of 16 to 256"):
        Discriminator((3, 30, 30), width=1, slope=0.1, init="dcgan")
