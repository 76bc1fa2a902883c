import itertools
import math

import pytest
import torch

from gantrain.datasets.base import ImageDataset
from gantrain.datasets.toys import gaussian, gaussians_25
from gantrain.metrics.wasserstein import Wasserstein, wasserstein


def rows(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("d", [1, 2, 3])
def test_distance_matches_the_best_of_all_permutations(d: int) -> None:
    x, y = rows(6, d, 0), rows(6, d, 1)
    costs = (x[:, None].double() - y.double()).norm(dim=2)
    best = min(costs[range(6), order].mean().item() for order in itertools.permutations(range(6)))
    assert wasserstein(x, y) == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_a_shift_costs_its_length(d: int) -> None:
    x, shift = rows(200, d, 0).double(), rows(1, d, 1).double()
    assert wasserstein(x[torch.randperm(200)], x + shift) == pytest.approx(shift.norm().item(), rel=1e-9)
    assert wasserstein(x, x.flip(0)) == 0


def test_distance_of_a_perfect_and_of_a_collapsed_generator() -> None:
    data = gaussians_25(spacing=2.0, std=0.05, scale=1.0)
    metric = Wasserstein(num_samples=500)
    found = metric(lambda n: data.sample(n, torch.Generator().manual_seed(3)), data)
    two_real = (data.sample(500, torch.Generator().manual_seed(seed)) for seed in (4, 5))
    assert found["wasserstein"] == pytest.approx(wasserstein(*two_real), rel=0.35)
    assert metric(lambda n: data.sample(n, torch.Generator().manual_seed(3)), data) == found
    collapsed = metric(lambda n: torch.zeros(n, 2), data)
    # The mean distance of the grid from its center.
    expected = sum(math.hypot(i, j) for i in (-4, -2, 0, 2, 4) for j in (-4, -2, 0, 2, 4)) / 25
    assert collapsed["wasserstein"] == pytest.approx(expected, rel=0.05)


def test_distance_of_gaussians_in_one_dimension() -> None:
    data = gaussian(mean=3.0, std=1.0)
    found = Wasserstein(num_samples=20_000)(lambda n: 2 * rows(n, 1, 0) + 3, data)
    # Equal means: |2 - 1| E|N(0, 1)|.
    assert found["wasserstein"] == pytest.approx(math.sqrt(2 / math.pi), rel=0.03)


def test_nan_gives_nan() -> None:
    data = gaussian(mean=0.0, std=1.0)
    found = Wasserstein(num_samples=10)(lambda n: torch.full((n, 1), torch.nan), data)
    assert math.isnan(found["wasserstein"])


def test_images_and_no_samples_are_errors() -> None:
    images = ImageDataset("pictures", torch.zeros(2, 1, 4, 4, dtype=torch.uint8), None, None, "f")
    with pytest.raises(ValueError, match=r"dataset=pictures has images.*wasserstein need vectors"):
        Wasserstein(num_samples=10).check(images)
    with pytest.raises(ValueError, match="num_samples=0"):
        Wasserstein(num_samples=0)
