import re
from pathlib import Path

import pytest
import torch
from oracles import load, oracle_files
from scipy.stats import wasserstein_distance
from torch import Tensor

from gantrain.evaluation.features import pyramid
from gantrain.evaluation.features.pyramid import DESCRIPTOR, PATCHES, Pyramid, laplacian_pyramid, patches_at
from gantrain.metrics import blocks
from gantrain.metrics.base import Statistics
from gantrain.metrics.sliced_wasserstein import SlicedWasserstein, sliced_wasserstein

FILES = oracle_files("metrics_sliced_wasserstein*.npz")


def num_levels(golden: dict[str, Tensor]) -> int:
    return sum(re.fullmatch(r"out\.swd_level\d+_times_1000", name) is not None for name in golden)


def golden_patches(golden: dict[str, Tensor], kind: str) -> list[Tensor]:
    """Cut the patches of each level, [n, descriptor]."""
    images = golden[f"in.{kind}_pixels"]
    levels = []
    for i, level in enumerate(laplacian_pyramid(images.double(), num_levels(golden))):
        columns, rows = (golden[f"in.patch_centre_{axis}_{kind}_level{i}"].long() for axis in ("column", "row"))
        patches = patches_at(level, columns.view(len(images), -1), rows.view(len(images), -1))
        levels.append(patches.flatten(0, 1).flatten(1))
    return levels


def normalized(patches: Tensor) -> Tensor:
    channels = patches.view(len(patches), 3, -1)
    centered = channels - channels.mean((0, 2), keepdim=True)
    return (centered / centered.square().mean((0, 2), keepdim=True).sqrt()).flatten(1)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_distances_match_the_golden_ones(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = load(path)
    monkeypatch.setattr(blocks, "ROWS", 7)
    fake, real = golden_patches(golden, "fake"), golden_patches(golden, "real")
    for i in range(num_levels(golden)):
        directions = golden[f"in.directions_unnormalised_level{i}"].transpose(0, 1).flatten(1)
        found = 1000 * sliced_wasserstein(fake[i], real[i], directions)
        assert found == pytest.approx(golden[f"out.swd_level{i}_times_1000"].item(), rel=1e-6)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_pyramid_and_patches_match_the_golden_ones(path: Path) -> None:
    golden = load(path)
    for name in golden:
        if match := re.fullmatch(r"out\.pyramid_(real|fake)_level(\d+)_image0", name):
            levels = laplacian_pyramid(golden[f"in.{match[1]}_pixels"].double(), num_levels(golden))
            torch.testing.assert_close(levels[int(match[2])][0], golden[name], rtol=1e-6, atol=1e-5)
        if match := re.fullmatch(r"out\.descriptors_(real|fake)_level(\d+)_first(\d+)", name):
            patches = normalized(golden_patches(golden, match[1])[int(match[2])])[: int(match[3])]
            torch.testing.assert_close(patches, golden[name], rtol=1e-6, atol=1e-6)


def pictures(n: int, size: int, seed: int, channels: int = 3) -> Tensor:
    return torch.randint(256, (n, channels, size, size), generator=torch.Generator().manual_seed(seed)).byte()


def measure(fake: Tensor, real: Tensor, num_directions: int = 64) -> dict[str, float]:
    metric = SlicedWasserstein(num_samples=10, num_real=None, num_directions=num_directions)
    extract = Pyramid()
    sets = [Statistics(len(x), features=extract(x).features) for x in (fake, real)]
    return metric.compute(*sets)


def test_equal_sets_have_distance_zero_and_different_ones_have_not() -> None:
    x = pictures(20, 64, 0)
    assert measure(x, x.flip(0)) == pytest.approx(
        {f"sliced_wasserstein{suffix}": 0 for suffix in ("", "_level0", "_level1", "_level2")}, abs=1e-9
    )
    x, y = pictures(200, 32, 0), pictures(200, 32, 1)
    same, blurred = measure(y, x), measure(pyramid.blur(y.float()).byte(), x)
    assert same["sliced_wasserstein"] == pytest.approx((sum(same.values()) - same["sliced_wasserstein"]) / 2)
    assert blurred["sliced_wasserstein_level0"] > 1.5 * same["sliced_wasserstein_level0"]


def test_one_direction_is_the_distance_in_one_dimension() -> None:
    x, y = (torch.randn(50, DESCRIPTOR, generator=torch.Generator().manual_seed(seed)).double() for seed in (0, 1))

    direction = torch.zeros(DESCRIPTOR, 1).double()
    direction[0] = 5
    expected = wasserstein_distance(normalized(x)[:, 0].numpy(), normalized(y)[:, 0].numpy())
    assert sliced_wasserstein(x, y, direction) == pytest.approx(expected, rel=1e-12)


def test_grey_images_count_as_rgb() -> None:
    x, y = pictures(10, 28, 0, channels=1), pictures(10, 28, 1, channels=1)
    assert measure(x, y)["sliced_wasserstein"] > 0
    assert list(measure(x, y)) == ["sliced_wasserstein", "sliced_wasserstein_level0"]
    assert Pyramid()(x).features.shape == (10, PATCHES * DESCRIPTOR)


def test_the_smaller_number_of_images_is_compared() -> None:
    x, y = pictures(20, 32, 0), pictures(30, 32, 1)
    assert measure(x, y) == measure(x, y[:20])


def test_constant_images_have_no_nan() -> None:
    gray = torch.full((4, 3, 32, 32), 128, dtype=torch.uint8)
    assert measure(gray, gray)["sliced_wasserstein"] == 0
    assert measure(gray, pictures(4, 32, 0))["sliced_wasserstein"] > 0


def test_features_of_another_extractor_and_empty_sets_are_errors() -> None:
    metric = SlicedWasserstein(num_samples=10, num_real=None, num_directions=4)
    other = Statistics(2, features=torch.zeros(2, 2048))
    with pytest.raises(ValueError, match="2048 numbers are not those of the extractor pyramid"):
        metric.compute(other, other)
    empty = Statistics(0, features=torch.zeros(0, PATCHES * DESCRIPTOR))
    with pytest.raises(ValueError, match="there are 0 generated images"):
        metric.compute(empty, empty)
    with pytest.raises(ValueError, match="num_directions=0"):
        SlicedWasserstein(num_samples=10, num_real=None, num_directions=0)
