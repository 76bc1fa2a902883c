"""Images that gantrain did not make: how they are read, and which are refused."""

import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gantrain.datasets.cache import fingerprint
from gantrain.errors import ConfigError, DataError
from gantrain.evaluation.given_images import given_images
from gantrain.evaluation.given_scores import blocks_of

DRAW = np.random.default_rng(0)
GRAY = DRAW.integers(0, 256, (5, 6, 4), dtype=np.uint8)
RGB = DRAW.integers(0, 256, (5, 6, 4, 3), dtype=np.uint8)


def write(folder: Path, images: np.ndarray, suffix: str = ".png") -> Path:
    """Write the images below a folder, in an order of names that is that of the array."""
    for i, pixels in enumerate(images):
        path = folder / f"{'ab'[i > 2]}/{i}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, lossless=True)
    return folder


def read(path: Path, option: str = "images") -> np.ndarray:
    with given_images(option, str(path), num_workers=1) as images:
        pixels = images.gather(torch.arange(images.num_images)).numpy()
        assert images.fingerprint == fingerprint(pixels, None)
        assert images.labels is None
        return pixels


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_images_of_a_folder_are_in_the_order_of_their_names_at_their_native_size(tmp_path: Path, suffix: str) -> None:
    np.testing.assert_array_equal(read(write(tmp_path / "x", RGB, suffix)), RGB.transpose(0, 3, 1, 2))


def test_gray_images_stay_gray_only_if_all_are(tmp_path: Path) -> None:
    folder = write(tmp_path / "x", GRAY)
    np.testing.assert_array_equal(read(folder), GRAY[:, None])
    Image.fromarray(RGB[0]).save(folder / "c.png")
    mixed = read(folder)
    np.testing.assert_array_equal(mixed[:5], GRAY[:, None].repeat(3, 1))
    np.testing.assert_array_equal(mixed[5], RGB[0].transpose(2, 0, 1))


def test_turned_jpegs_have_the_size_of_the_upright_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.fromarray(RGB[0]).save(tmp_path / "a.jpg", exif=exif)
    Image.fromarray(RGB[0].transpose(1, 0, 2)).save(tmp_path / "b.jpg")
    assert read(tmp_path).shape == (2, 3, 4, 6)


@pytest.mark.parametrize("name", ["images", "arr_0"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_uint8_with_or_without_channels(tmp_path: Path, name: str, save: object) -> None:
    for array, expected in (
        (GRAY, GRAY[:, None]),
        (GRAY[..., None], GRAY[:, None]),
        (RGB, RGB.transpose(0, 3, 1, 2)),
    ):
        save(tmp_path / "x.npz", **{name: array, "labels": np.arange(5)})
        np.testing.assert_array_equal(read(tmp_path / "x.npz"), expected)


def as_bytes(blocks: list[torch.Tensor]) -> torch.Tensor:
    return ((torch.cat(blocks) + 1) * 127.5).round().byte()


def test_blocks_are_the_images_in_order(tmp_path: Path) -> None:
    pixels = DRAW.integers(0, 256, (150, 2, 2), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", pixels)
    with given_images("images", str(tmp_path / "x.npz"), num_workers=1) as images:
        for num in (150, 1000):
            blocks = list(blocks_of(images, num))
            assert [len(block) for block in blocks] == [64, 64, 22]
            assert torch.equal(as_bytes(blocks), torch.from_numpy(pixels[:, None]))


def test_blocks_of_fewer_images_are_always_the_same_random_part(tmp_path: Path) -> None:
    pixels = np.arange(150, dtype=np.uint8).reshape(150, 1, 1).repeat(2, 1).repeat(2, 2)
    np.savez(tmp_path / "x.npz", pixels)
    with given_images("images", str(tmp_path / "x.npz"), num_workers=1) as images:
        blocks = list(blocks_of(images, 70))
        assert [len(block) for block in blocks] == [64, 6]
        chosen = as_bytes(blocks)[:, 0, 0, 0].tolist()
        assert len(set(chosen)) == 70
        assert max(chosen) > 100  # not the first ones, which may all be of one class
        assert torch.equal(as_bytes(list(blocks_of(images, 70))), as_bytes(blocks))


def test_the_odd_size_is_named_with_the_remedy(tmp_path: Path) -> None:
    folder = write(tmp_path / "x", GRAY)
    Image.fromarray(GRAY[0, :5]).save(folder / "a/0.png")
    with pytest.raises(
        DataError, match=r"images=.*x: a/0\.png has 4x5 pixels, but 4 of 5 images have 4x6.*resize them"
    ):
        read(folder)
    with pytest.raises(DataError, match=r"or let dataset=image_folder dataset\.root=\.\.\. resize them"):
        read(folder, "real")


@pytest.mark.parametrize("content", [b"no image", b""])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    folder = write(tmp_path / "x", GRAY)
    (folder / "b/4.png").write_bytes(content)
    with pytest.raises(DataError, match=r"images=.*x: b/4\.png .*; replace or remove it"):
        read(folder)
    whole = BytesIO()
    Image.fromarray(RGB[0].repeat(50, 0).repeat(50, 1)).save(whole, "png")
    (folder / "b/4.png").unlink()
    (tmp_path / "y").mkdir()
    (tmp_path / "y/cut.png").write_bytes(whole.getvalue()[:-200])  # its header is intact
    with pytest.raises(DataError, match=r"images=.*y: cut\.png cannot be decoded"):
        read(tmp_path / "y")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": GRAY}, "has the arrays x, but must have one named images or arr_0"),
        ({}, r"has the arrays \(none\), but must have"),
        ({"images": GRAY.astype(np.float32)}, r"is float32 \[5, 6, 4\], but images are uint8 \[n, h, w, c\]"),
        ({"images": RGB.transpose(0, 3, 1, 2)}, r"is uint8 \[5, 3, 6, 4\], but images are uint8 \[n, h, w, c\]"),
        ({"images": GRAY[0]}, r"is uint8 \[6, 4\], but"),
        ({"images": GRAY[:0]}, r"is uint8 \[0, 6, 4\], but"),
        ({"images": np.asfortranarray(RGB)}, r"in Fortran order, but images are"),
        ({"images": np.array([GRAY], dtype=object)}, r"is object "),
    ],
)
def test_arrays_that_are_no_images_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=message):
        read(tmp_path / "x.npz")


def test_broken_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with pytest.raises(DataError, match=r"images=.*x\.npz: there is no such file; name a folder, a zip or an \.npz"):
        read(path)
    path.write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"images=.*x\.npz cannot be read \(File is not a zip file\); replace it"):
        read(path)
    np.savez(path, images=GRAY)
    with zipfile.ZipFile(path) as archive:
        content = archive.read("images.npy")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", content[:-1])
    with pytest.raises(DataError, match="the array is shorter than its header says"):
        read(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("images.npy", content)
    with pytest.raises(DataError, match="is neither stored nor deflated"):
        read(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"images=.* is empty; put images there \(PNG"):
        read(tmp_path / "empty")


def test_a_small_disk_is_refused_before_anything_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "x.npz", images=GRAY)
    monkeypatch.setattr("gantrain.files.free_bytes", lambda path: 100)
    with pytest.raises(ConfigError, match=r"images=.*x\.npz, decoded, needs 120 B, but .* has only 100 B free"):
        read(tmp_path / "x.npz")
