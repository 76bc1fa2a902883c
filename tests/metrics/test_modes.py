import math

import pytest
import torch
from torch import Tensor

from gantrain.datasets.toys import gaussian, gaussians_25, swiss_roll
from gantrain.metrics.modes import Modes

MIXTURE = gaussians_25(spacing=2.0, std=0.05, scale=1.0)


def measure(points: Tensor) -> dict[str, float]:
    return Modes(num_samples=len(points), radius_stds=3.0)(lambda n: points[:n], MIXTURE)


def test_a_sample_within_three_stds_covers_its_mode() -> None:
    assert MIXTURE.modes is not None
    near, far = MIXTURE.modes[:7] + torch.tensor([0.149, 0]), MIXTURE.modes[7:] + torch.tensor([0.151, 0])
    assert measure(torch.cat([near, far])) == pytest.approx({"modes_covered": 7, "high_quality": 7 / 25})


def test_samples_at_the_boundary_are_judged_by_their_exact_distance() -> None:
    """Of these samples, within 1e-4 of the boundary, matrix products in float32 misjudge more than 1 %."""
    assert MIXTURE.modes is not None
    angles = 2 * math.pi * torch.rand(40_000, generator=torch.Generator().manual_seed(0))
    offsets = 0.15 * torch.linspace(1 - 1e-4, 1 + 1e-4, 40_000)[:, None] * torch.stack([angles.cos(), angles.sin()], 1)
    points = MIXTURE.modes[torch.arange(40_000) % 25] + offsets
    distances = [math.dist(point, MIXTURE.modes[i % 25].tolist()) for i, point in enumerate(points.tolist())]
    expected = sum(distance <= 3 * 0.05 for distance in distances) / 40_000
    assert measure(points)["high_quality"] == pytest.approx(expected, abs=1e-9)


def test_a_mode_is_counted_once() -> None:
    assert MIXTURE.modes is not None
    assert measure(MIXTURE.modes[3].expand(40, 2)) == {"modes_covered": 1, "high_quality": 1}
    assert measure(torch.full((40, 2), 1.0)) == {"modes_covered": 0, "high_quality": 0}
    assert measure(torch.full((40, 2), torch.nan)) == {"modes_covered": 0, "high_quality": 0}


def test_real_samples_cover_all_modes() -> None:
    numbers = measure(MIXTURE.sample(2500, torch.Generator().manual_seed(0)))
    assert numbers["modes_covered"] == 25
    # In two dimensions a Gaussian has 1 - exp(-9 / 2) = 0.989 of its mass within 3 deviations.
    assert numbers["high_quality"] == pytest.approx(0.9889, abs=0.008)


@pytest.mark.parametrize("dataset", [gaussian(mean=0.0, std=1.0), swiss_roll(std=0.25, scale=7.5)])
def test_data_without_modes_is_an_error(dataset: object) -> None:
    with pytest.raises(ValueError, match="no separate modes"):
        Modes(num_samples=10, radius_stds=3.0).check(dataset)  # type: ignore[arg-type]


def test_options_must_be_positive() -> None:
    with pytest.raises(ValueError, match="radius_stds=0"):
        Modes(num_samples=10, radius_stds=0.0)
