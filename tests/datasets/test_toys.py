import math

import pytest
import torch
from torch.testing import assert_close

from gantrain.datasets.base import Distribution
from gantrain.datasets.toys import gaussian, gaussians_8, gaussians_25, swiss_roll
from gantrain.errors import ConfigError

NUM = 200_000
ALL = {
    "gaussian": lambda: gaussian(mean=3.0, std=1.0),
    "gaussians_8": lambda: gaussians_8(radius=2.0, std=0.02, scale=1.414),
    "gaussians_25": lambda: gaussians_25(spacing=2.0, std=0.05, scale=2.828),
    "swiss_roll": lambda: swiss_roll(std=0.25, scale=7.5),
}


def draw(dataset: Distribution, n: int = NUM, seed: int = 0) -> torch.Tensor:
    return dataset.sample(n, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ALL)
def test_samples_have_the_stated_mean_and_std(name: str):
    dataset = ALL[name]()
    x = draw(dataset)
    assert dataset.name == name
    assert (x.shape, x.dtype) == ((NUM, *dataset.image_shape), torch.float32)
    assert_close(x.mean(0), torch.tensor(dataset.mean), atol=0.01, rtol=0)
    assert_close(x.std(0), torch.tensor(dataset.std), atol=0.01, rtol=0)


@pytest.mark.parametrize("name", ALL)
def test_samples_depend_only_on_the_random_generator(name: str):
    dataset = ALL[name]()
    assert torch.equal(draw(dataset, 50), draw(dataset, 50))
    assert not torch.equal(draw(dataset, 50), draw(dataset, 50, seed=1))


def test_different_parameters_have_different_fingerprints():
    datasets = [*(make() for make in ALL.values()), gaussian(mean=3.0, std=2.0)]
    assert len({dataset.fingerprint for dataset in datasets}) == 5


def test_swiss_roll_moments_equal_numerical_integration():
    t = torch.linspace(1.5 * math.pi, 4.5 * math.pi, 1_000_001, dtype=torch.float64)
    curve = torch.stack([t * t.cos(), t * t.sin()], 1) / 7.5
    dataset = swiss_roll(std=0.25, scale=7.5)
    assert_close(torch.tensor(dataset.mean).double(), curve.mean(0), atol=1e-5, rtol=0)
    std = (curve.var(0) + (0.25 / 7.5) ** 2).sqrt()
    assert_close(torch.tensor(dataset.std).double(), std, atol=1e-5, rtol=0)


def test_swiss_roll_without_noise_lies_on_the_curve():
    x = draw(swiss_roll(std=0.0, scale=1.0), 1000).double()
    t = x.norm(dim=1)
    assert 1.5 * math.pi <= t.min() < 1.6 * math.pi
    assert 4.4 * math.pi < t.max() <= 4.5 * math.pi + 1e-5
    assert_close(x, torch.stack([t * t.cos(), t * t.sin()], 1), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("name", "num_modes", "std"), [("gaussians_8", 8, 0.02 / 1.414), ("gaussians_25", 25, 0.05 / 2.828)]
)
def test_every_mode_is_equally_likely(name: str, num_modes: int, std: float):
    dataset = ALL[name]()
    assert dataset.modes.shape == (num_modes, 2)
    assert dataset.mode_std == pytest.approx(std)
    x = draw(dataset)
    distance, nearest = torch.cdist(x, dataset.modes).min(1)
    share = nearest.bincount(minlength=num_modes) / NUM
    assert_close(share, torch.full((num_modes,), 1 / num_modes), atol=0.004, rtol=0)
    # The distance to the center is Rayleigh distributed: its mean square is twice the variance.
    assert_close(distance.square().mean().sqrt().item(), std * math.sqrt(2), rtol=0.01, atol=0)


def test_centers_of_the_mixtures():
    eight, grid = ALL["gaussians_8"]().modes, ALL["gaussians_25"]().modes
    assert_close(eight.norm(dim=1), torch.full((8,), 2 / 1.414))
    assert_close(torch.pdist(eight).min().item(), 4 / 1.414 * math.sin(math.pi / 8), atol=1e-5, rtol=0)
    assert sorted(grid.unique().tolist()) == pytest.approx([v * 2 / 2.828 for v in range(-2, 3)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gaussian(mean=0.0, std=0.0), r"dataset\.std=0\.0 must be a finite number above 0"),
        (lambda: gaussian(mean=0.0, std=math.nan), r"dataset\.std=nan"),
        (lambda: gaussian(mean=math.inf, std=1.0), r"dataset\.mean=inf must be a finite number"),
        (lambda: gaussians_8(radius=-1.0, std=0.1, scale=1.0), r"dataset\.radius=-1\.0"),
        (lambda: gaussians_25(spacing=1.0, std=-0.1, scale=1.0), r"dataset\.std=-0\.1 must be .* at least 0"),
        (lambda: swiss_roll(std=0.1, scale=0.0), r"dataset\.scale=0\.0 must be a finite number above 0"),
    ],
)
def test_invalid_parameters_are_errors(make, message: str):
    with pytest.raises(ConfigError, match=message):
        make()
