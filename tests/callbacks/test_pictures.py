import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import norm

from gantrain import pictures


def test_grid_is_exact_to_the_pixel() -> None:
    images = torch.linspace(-1, 1, 6 * 3 * 5 * 4).reshape(6, 3, 5, 4)
    picture = pictures.grid(images)
    columns, rows = 3, 2
    factor = math.ceil(256 / (columns * 4))
    height, width = 5 * factor, 4 * factor
    expected = np.full((rows * (height + 2) + 2, columns * (width + 2) + 2, 3), 255, np.uint8)
    for i, image in enumerate(images.double().numpy()):
        tile = np.kron(np.round((image + 1) * 127.5), np.ones((factor, factor))).transpose(1, 2, 0)
        top, left = 2 + i // columns * (height + 2), 2 + i % columns * (width + 2)
        expected[top : top + height, left : left + width] = tile
    difference = np.abs(picture.astype(int) - expected)
    assert picture.shape == expected.shape
    assert difference.max() <= 1  # where float32 rounds a half the other way
    assert (difference > 0).mean() < 0.01


def test_grid_does_not_scale_by_what_it_holds() -> None:
    dim = pictures.grid(torch.full((4, 1, 8, 8), -0.5))
    assert set(np.unique(dim)) == {64, 255}
    clipped = pictures.grid(torch.tensor([-3.0, 3.0]).reshape(2, 1, 1, 1).expand(2, 1, 8, 8))
    assert set(np.unique(clipped)) == {0, 255}


def test_grid_leaves_large_images_as_they_are() -> None:
    assert pictures.grid(torch.zeros(4, 3, 128, 128)).shape == (2 * 130 + 2, 2 * 130 + 2, 3)
    assert pictures.grid(torch.zeros(1, 1, 28, 28)).shape[1] >= 256


@pytest.mark.parametrize(("n", "columns"), [(1, 1), (2, 2), (4, 2), (7, 3), (12, 4), (16, 4), (32, 8), (64, 8)])
def test_columns_are_near_square(n: int, columns: int) -> None:
    assert pictures.num_columns(n) == columns


def test_kernel_density_of_a_normal_sample() -> None:
    sample = torch.from_numpy(norm.ppf((np.arange(20_000) + 0.5) / 20_000, 3, 1)).float()
    x = torch.linspace(-2, 8, 401)
    density = pictures.kernel_density(sample, x)
    torch.testing.assert_close(density, torch.from_numpy(norm.pdf(x.numpy(), 3, 1)).float(), atol=0.01, rtol=0)
    assert torch.trapezoid(density, x).item() == pytest.approx(1, abs=1e-3)


def test_kernel_density_of_one_value_is_a_finite_spike() -> None:
    x = torch.linspace(-1, 1, 2001)
    density = pictures.kernel_density(torch.zeros(100), x)
    assert torch.trapezoid(density, x).item() == pytest.approx(1, abs=1e-3)
    assert x[density.argmax()].item() == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_distributions_are_drawn_on_axes_of_the_real_sample(d: int) -> None:
    real = torch.randn(300, d)

    def critic(points: torch.Tensor) -> torch.Tensor:
        return points[:, 0]

    alone = pictures.distribution(real, None, critic, title="step 1")
    near = pictures.distribution(real, real + 0.3, critic, title="step 1")
    far = pictures.distribution(real, real + 1000, critic, title="step 1")
    assert alone.shape == near.shape == far.shape
    assert alone.dtype == np.uint8
    assert (near != alone).any()
    assert (near != far).any()


def test_many_coordinates_are_cut_to_twelve() -> None:
    picture = pictures.distribution(torch.randn(20, 13), None, None, title="step 1")
    assert picture.shape == (4 * 340, 3 * 460, 3)


def test_a_scatter_survives_a_constant_critic_and_samples_that_are_no_numbers() -> None:
    real = torch.randn(50, 2)
    pictures.scatter(real, torch.full((50, 2), math.nan), lambda points: torch.zeros(len(points)), title="t")
    pictures.distribution(real[:, :1], torch.full((50, 1), math.nan), None, title="t")


def test_a_density_is_the_same_whatever_was_drawn_before() -> None:
    real, early, late = torch.randn(500, 1) + 3, torch.randn(500, 1), torch.randn(500, 1) + 2.5
    first = pictures.distribution(real, late, None, title="late")
    pictures.distribution(real, early, None, title="early")
    again = pictures.distribution(real, late, None, title="late")
    anew = pictures.distribution(real.clone(), late, None, title="late")
    np.testing.assert_array_equal(again, first)
    np.testing.assert_array_equal(anew, first)
    assert (pictures.distribution(real, early, None, title="late") != first).any()


def test_moving_average_keeps_a_line_and_its_length() -> None:
    line = np.arange(50.0)
    np.testing.assert_allclose(pictures.moving_average(line, 5)[2:-2], line[2:-2])
    np.testing.assert_allclose(pictures.moving_average(np.ones(50), 8), np.ones(50))


def test_a_log_axis_needs_positive_values_over_two_decades() -> None:
    assert pictures.spans_decades(np.array([0.01, 1.1]))
    assert not pictures.spans_decades(np.array([0.01, 0.9]))
    assert not pictures.spans_decades(np.array([-1.0, 1000.0]))


def test_curves_have_a_panel_for_each_kind_of_number() -> None:
    rows = [{"step": float(i), "images": i, "loss/generator": 1.0, "metric/mean_0": 0.1 * i} for i in range(10)]
    two = pictures.curves(rows)
    one = pictures.curves([{"step": row["step"], "loss/generator": row["loss/generator"]} for row in rows])
    assert two is not None
    assert one is not None
    assert two.shape[1] == 2 * one.shape[1]
    assert pictures.curves([{"step": 1.0, "images": 16.0}, {"step": 2.0, "images": 32.0}]) is None


def write_frames(folder: Path, num: int, width: int = 300) -> list[Path]:
    paths = []
    for i in range(num):
        frame = np.zeros((20, width, 3), np.uint8)
        frame[:, : i % width + 1] = 255
        paths.append(folder / f"step_{i:08d}.png")
        pictures.save_png(paths[-1], frame)
    return paths


def test_animation_shows_every_frame_and_holds_the_last(tmp_path: Path) -> None:
    frames = write_frames(tmp_path, 5)
    pictures.animation(tmp_path / "a.gif", frames)
    with Image.open(tmp_path / "a.gif") as gif:
        assert (gif.n_frames, gif.size) == (5, (300, 20))  # type: ignore[attr-defined]
        durations = []
        for i, path in enumerate(frames):
            gif.seek(i)
            durations.append(gif.info["duration"])
            np.testing.assert_array_equal(np.asarray(gif.convert("RGB")), np.asarray(Image.open(path)))
    assert durations == [100] * 4 + [2000]


def test_animation_is_bounded(tmp_path: Path) -> None:
    frames = write_frames(tmp_path, 23, width=1024)
    pictures.animation(tmp_path / "a.gif", frames, max_frames=10)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.size == (512, 10)
        assert gif.n_frames <= 10  # type: ignore[attr-defined]


def test_evenly_keeps_the_ends() -> None:
    chosen = pictures.evenly(1001, 200)
    assert (len(chosen), chosen[0], chosen[-1]) == (200, 0, 1000)
    assert {b - a for a, b in pairwise(chosen)} <= {5, 6}
    assert pictures.evenly(3, 200) == [0, 1, 2]


def test_a_failing_write_leaves_the_old_picture_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    pictures.save_png(path, np.zeros((4, 4, 3), np.uint8))
    before = path.read_bytes()
    with pytest.raises(TypeError):
        pictures.save_png(path, np.zeros((4, 4, 7), np.uint8))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
