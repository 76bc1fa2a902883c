import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from gantrain.evaluation import plots


def test_kernel_density_of_a_normal_sample() -> None:
    sample = torch.from_numpy(norm.ppf((np.arange(20_000) + 0.5) / 20_000, 3, 1)).float()
    x = torch.linspace(-2, 8, 401)
    density = plots.kernel_density(sample, x)
    torch.testing.assert_close(density, torch.from_numpy(norm.pdf(x.numpy(), 3, 1)).float(), atol=0.01, rtol=0)
    assert torch.trapezoid(density, x).item() == pytest.approx(1, abs=1e-3)


def test_kernel_density_of_one_value_is_a_finite_spike() -> None:
    x = torch.linspace(-1, 1, 2001)
    density = plots.kernel_density(torch.zeros(100), x)
    assert torch.trapezoid(density, x).item() == pytest.approx(1, abs=1e-3)
    assert x[density.argmax()].item() == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_distributions_are_drawn_on_axes_of_the_real_sample(d: int) -> None:
    real = torch.randn(300, d)

    def critic(points: torch.Tensor) -> torch.Tensor:
        return points[:, 0]

    alone = plots.distribution(real, None, critic, title="step 1")
    near = plots.distribution(real, real + 0.3, critic, title="step 1")
    far = plots.distribution(real, real + 1000, critic, title="step 1")
    assert alone.shape == near.shape == far.shape
    assert alone.dtype == np.uint8
    assert (near != alone).any()
    assert (near != far).any()


def test_at_most_twelve_coordinates_are_drawn() -> None:
    picture = plots.distribution(torch.randn(20, 13), None, None, title="step 1")
    assert picture.shape == (4 * 340, 3 * 460, 3)


def test_scatter_accepts_a_constant_critic_and_nan_samples() -> None:
    real = torch.randn(50, 2)
    plots.scatter(real, torch.full((50, 2), math.nan), lambda points: torch.zeros(len(points)), title="t")
    plots.distribution(real[:, :1], torch.full((50, 1), math.nan), None, title="t")


def test_density_does_not_depend_on_earlier_plots() -> None:
    real, early, late = torch.randn(500, 1) + 3, torch.randn(500, 1), torch.randn(500, 1) + 2.5
    first = plots.distribution(real, late, None, title="late")
    plots.distribution(real, early, None, title="early")
    again = plots.distribution(real, late, None, title="late")
    anew = plots.distribution(real.clone(), late, None, title="late")
    np.testing.assert_array_equal(again, first)
    np.testing.assert_array_equal(anew, first)
    assert (plots.distribution(real, early, None, title="late") != first).any()


def test_a_log_axis_needs_positive_values_over_two_decades() -> None:
    assert plots.spans_decades(np.array([0.01, 1.1]))
    assert not plots.spans_decades(np.array([0.01, 0.9]))
    assert not plots.spans_decades(np.array([-1.0, 1000.0]))
