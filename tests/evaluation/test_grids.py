import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.utils import make_grid

from gantrain.evaluation import grids


def test_grid_is_exact_to_the_pixel() -> None:
    images = torch.linspace(-1, 1, 6 * 3 * 5 * 4).reshape(6, 3, 5, 4)
    picture = grids.grid(images)
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
    assert difference.max() <= 1  # float32 may round halves the other way
    assert (difference > 0).mean() < 0.01


@pytest.mark.parametrize("columns", [1, 3, 8])
@pytest.mark.parametrize("shape", [(1, 1, 300, 260), (5, 3, 9, 300), (6, 1, 300, 300)])
def test_grid_equals_that_of_torchvision(shape: tuple[int, ...], columns: int) -> None:
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8)
    expected = make_grid(pixels, nrow=columns, padding=2, pad_value=255).permute(1, 2, 0)
    np.testing.assert_array_equal(grids.tile(pixels.numpy(), columns), expected.numpy())


def test_grid_does_not_rescale_the_contrast() -> None:
    dim = grids.grid(torch.full((4, 1, 8, 8), -0.5))
    assert set(np.unique(dim)) == {64, 255}
    clipped = grids.grid(torch.tensor([-3.0, 3.0]).reshape(2, 1, 1, 1).expand(2, 1, 8, 8))
    assert set(np.unique(clipped)) == {0, 255}


def test_grid_does_not_enlarge_large_images() -> None:
    assert grids.grid(torch.zeros(4, 3, 128, 128)).shape == (2 * 130 + 2, 2 * 130 + 2, 3)
    assert grids.grid(torch.zeros(1, 1, 28, 28)).shape[1] >= 256


@pytest.mark.parametrize(("n", "columns"), [(1, 1), (2, 2), (4, 2), (7, 3), (12, 4), (16, 4), (32, 8), (64, 8)])
def test_grids_are_nearly_square(n: int, columns: int) -> None:
    assert grids.num_columns(n) == columns


def write_frames(folder: Path, num: int, width: int = 300) -> list[Path]:
    paths = []
    for i in range(num):
        frame = np.zeros((20, width, 3), np.uint8)
        frame[:, : i % width + 1] = 255
        paths.append(folder / f"step_{i:08d}.png")
        grids.save_png(paths[-1], frame)
    return paths


def test_animation_shows_every_frame_and_holds_the_last(tmp_path: Path) -> None:
    frames = write_frames(tmp_path, 5)
    grids.animation(tmp_path / "a.gif", frames)
    with Image.open(tmp_path / "a.gif") as gif:
        assert (gif.n_frames, gif.size) == (5, (300, 20))  # type: ignore[attr-defined]
        durations = []
        for i, path in enumerate(frames):
            gif.seek(i)
            durations.append(gif.info["duration"])
            np.testing.assert_array_equal(np.asarray(gif.convert("RGB")), np.asarray(Image.open(path)))
    assert durations == [100] * 4 + [2000]


def test_size_and_frames_of_an_animation_are_limited(tmp_path: Path) -> None:
    frames = write_frames(tmp_path, 23, width=1024)
    grids.animation(tmp_path / "a.gif", frames, max_frames=10)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.size == (512, 10)
        assert gif.n_frames <= 10  # type: ignore[attr-defined]


def test_evenly_keeps_the_ends() -> None:
    chosen = grids.evenly(1001, 200)
    assert (len(chosen), chosen[0], chosen[-1]) == (200, 0, 1000)
    assert {b - a for a, b in pairwise(chosen)} <= {5, 6}
    assert grids.evenly(3, 200) == [0, 1, 2]


def test_failed_write_leaves_the_old_image(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    grids.save_png(path, np.zeros((4, 4, 3), np.uint8))
    before = path.read_bytes()
    with pytest.raises(TypeError):
        grids.save_png(path, np.zeros((4, 4, 7), np.uint8))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
