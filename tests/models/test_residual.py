"""Residual blocks, their initialization, and the layouts of residual networks."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import assert_golden, load, load_layer, oracle_files
from torch import Tensor, nn

from gantrain.models.residual import (
    DownBlock,
    UpBlock,
    discriminator_layout,
    generator_layout,
    initialize,
)
from gantrain.models.spectral_norm import iterate_spectral_norms, original_weight, spectral_norm

BLOCKS = oracle_files("sngan_blocks*.npz")
each_file = pytest.mark.parametrize("path", BLOCKS, ids=lambda path: path.stem)
LAYERS = {"norm1": "bn1", "norm2": "bn2", "conv1": "conv1", "conv2": "conv2", "shortcut": "conv_skip"}


def load_block(block: nn.Module, golden: dict[str, Tensor], prefix: str) -> None:
    for own, name in LAYERS.items():
        if hasattr(block, own):
            load_layer(getattr(block, own), golden, f"{prefix}.{name}")


def up_block(golden: dict[str, Tensor], upsample: Any) -> UpBlock:
    num_out, num_in = golden["g_up.conv1.weight"].shape[:2]
    block = UpBlock(num_in, num_out, norm=nn.BatchNorm2d, upsample=upsample).double()
    load_block(block, golden, "g_up")
    return block


def down_block(golden: dict[str, Tensor], name: str) -> DownBlock:
    num_hidden, num_in = golden[f"{name}.conv1.weight"].shape[:2]
    halves = golden[f"out.{name}_train_call1"].shape[2] < golden[f"in.{name}.x"].shape[2]
    block = DownBlock(
        *(num_in, len(golden[f"{name}.conv2.weight"])),
        num_hidden=num_hidden,
        downsample=halves,
        first=name == "d_first",
    )
    spectral_norm(block.double())
    load_block(block, golden, name)
    return block


@each_file
def test_up_block_matches_the_golden_one(path: Path) -> None:
    golden = load(path)
    block = up_block(golden, "nearest")
    x = golden["in.g_up.x"]
    assert_golden(block(x), golden["out.g_up_nearest_train"])
    assert_golden(block.norm1.running_mean, golden["out.g_up.bn1.running_mean_after"])
    assert_golden(block.norm1.running_var, golden["out.g_up.bn1.running_var_after"])
    assert_golden(block.eval()(x)[:1], golden["out.g_up_nearest_eval_after_that_step"])
    assert_golden(up_block(golden, "bilinear")(x), golden["out.g_up_bilinear_train"])


@each_file
@pytest.mark.parametrize("name", ["d_first", "d_down", "d_flat"])
def test_down_block_with_spectral_norm_matches_the_golden_one(path: Path, name: str) -> None:
    golden = load(path)
    block = down_block(golden, name)
    x = golden[f"in.{name}.x"]
    kept = x.clone()
    iterate_spectral_norms(block)  # the published code makes one step of the power iteration at each training call
    assert_golden(block(x), golden[f"out.{name}_train_call1"])
    assert torch.equal(x, kept)
    for own, golden_name in LAYERS.items():
        if (expected := golden.get(f"out.{name}.{golden_name}.sigma_call1")) is not None:
            layer: Any = getattr(block, own)
            norm = layer.parametrizations["weight"][0]
            assert_golden(norm.sigma(original_weight(layer)), expected)
            assert_golden(norm.u, golden[f"out.{name}.{golden_name}.sn_u_after_call1"])
    if f"out.{name}_train_call2" in golden:
        iterate_spectral_norms(block)
        assert_golden(block(x), golden[f"out.{name}_train_call2"])
        assert_golden(block.eval()(x)[:1], golden[f"out.{name}_eval_after_call2"])


def test_the_shortcut_is_the_identity_only_if_the_shape_stays() -> None:
    def shortcut(num_out: int, *, downsample: bool) -> nn.Module:
        return DownBlock(3, num_out, num_hidden=3, downsample=downsample, first=False).shortcut

    assert isinstance(shortcut(3, downsample=False), nn.Identity)
    assert isinstance(shortcut(3, downsample=True), nn.Conv2d)
    assert isinstance(shortcut(4, downsample=False), nn.Conv2d)


def test_glorot_bounds_have_a_gain_of_sqrt_2_for_the_convolutions_after_a_relu() -> None:
    torch.manual_seed(0)
    block = DownBlock(30, 40, num_hidden=30, downsample=True, first=False)
    others = nn.ModuleDict({"linear": nn.Linear(50, 60), "embedding": nn.Embedding(70, 80), "norm": nn.BatchNorm2d(9)})
    module = spectral_norm(nn.ModuleList([block, others]))
    for parameter in module.parameters():
        parameter.data.fill_(0.5)
    initialize(module, "glorot")
    expected = {
        block.conv1: math.sqrt(2) * math.sqrt(6 / (9 * 60)),
        block.conv2: math.sqrt(2) * math.sqrt(6 / (9 * 70)),
        block.shortcut: math.sqrt(6 / 70),
        others["linear"]: math.sqrt(6 / 110),
        others["embedding"]: math.sqrt(6 / 150),
    }
    for layer, bound in expected.items():
        weight: Any = original_weight(layer)
        assert 0.98 * bound < weight.abs().max() <= bound
        torch.testing.assert_close(weight.std().item(), bound / math.sqrt(3), atol=0, rtol=0.05)
        assert getattr(layer, "bias", None) is None or not layer.bias.any()
        # The power iteration belongs to the new weight.
        assert torch.linalg.svdvals(layer.weight.detach().flatten(1))[0] < 1.2
    assert (others["norm"].weight == 0.5).all()  # 1-D weights stay


@pytest.mark.parametrize(
    ("size", "base", "channels"),
    [
        (16, 4, [256] * 3),
        (28, 7, [256] * 3),
        (32, 4, [256] * 4),
        (36, 9, [256, 128, 64]),
        (48, 6, [512, 256, 128, 64]),
        (64, 4, [1024, 512, 256, 128, 64]),
        (128, 4, [1024, 1024, 512, 256, 128, 64]),
        (256, 4, [1024, 1024, 1024, 512, 256, 128, 64]),
    ],
)
def test_layout_of_the_generator(size: int, base: int, channels: list[int]) -> None:
    assert generator_layout((3, size, size), width=64, multipliers=None) == (base, channels)


@pytest.mark.parametrize(
    ("size", "channels", "num_halvings"),
    [
        (16, [128] * 4, 2),
        (28, [128] * 4, 2),
        (32, [128] * 4, 2),
        (36, [64, 128, 256], 2),
        (48, [64, 128, 256, 512, 1024], 4),
        (64, [64, 128, 256, 512, 1024], 5),
        (128, [64, 128, 256, 512, 1024, 1024], 5),
        (256, [64, 128, 256, 512, 1024, 1024, 1024], 6),
    ],
)
def test_layout_of_the_discriminator(size: int, channels: list[int], num_halvings: int) -> None:
    found = discriminator_layout((3, size, size), width=64, multipliers=None, num_halvings=None)
    assert found == (channels, num_halvings)


def test_layouts_can_be_chosen() -> None:
    assert generator_layout((3, 64, 64), width=2, multipliers=[3, 2, 1]) == (16, [6, 4, 2])
    chosen: dict[str, Any] = {"width": 2, "multipliers": [1, 5]}
    assert discriminator_layout((3, 64, 64), num_halvings=1, **chosen) == ([2, 10], 1)
    assert discriminator_layout((3, 64, 64), num_halvings=None, **chosen) == ([2, 10], 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_shape": (2,)}, r"a ResNet needs square images, but the data has shape \(2,\); .*network=mlp"),
        ({"image_shape": (3, 30, 30)}, r"a multiple of 4, but it is 30; try dataset\.image_size=32"),
        ({"image_shape": (2, 32, 32)}, r"1 or 3 channels, but they have 2"),
        ({"width": 0}, "width=0: a layer needs at least one channel"),
        ({"multipliers": [4]}, r"multipliers=\[4\]: must be at least 2 whole numbers from 1"),
        ({"multipliers": [4, 0]}, r"multipliers=\[4, 0\]: must be at least 2 whole numbers from 1"),
        ({"image_shape": (3, 28, 28), "multipliers": [4] * 4}, r"3 doublings make .* of 8, but it is 28; use 3 mult"),
    ],
)
def test_impossible_layouts_of_the_generator_are_refused(options: dict[str, Any], message: str) -> None:
    usual: dict[str, Any] = {"image_shape": (3, 32, 32), "width": 64, "multipliers": None}
    with pytest.raises(ValueError, match=message):
        generator_layout(**usual | options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_shape": (2,)}, r"a ResNet needs square images, but the data has shape \(2,\)"),
        ({"multipliers": []}, r"multipliers=\[\]: must be at least 1 whole numbers from 1"),
        ({"num_halvings": 5}, r"num_halvings=5: 4 blocks can halve 32 pixels 0 to 4 times"),
        ({"num_halvings": 7, "multipliers": [1] * 8}, r"num_halvings=7: 8 blocks can halve 32 pixels 0 to 5 times"),
    ],
)
def test_impossible_layouts_of_the_discriminator_are_refused(options: dict[str, Any], message: str) -> None:
    usual: dict[str, Any] = {"image_shape": (3, 32, 32), "width": 64, "multipliers": None, "num_halvings": None}
    with pytest.raises(ValueError, match=message):
        discriminator_layout(**usual | options)
