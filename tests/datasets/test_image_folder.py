import io
import logging
import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as F

from gantrain.datasets import image_files, images
from gantrain.datasets.image_folder import image_folder
from gantrain.errors import ConfigError, DataError

RNG = np.random.default_rng(0)
COLORS = RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)
GRAY = RNG.integers(0, 256, (16, 16), dtype=np.uint8)
WHITE = 255


def load(root: Path | None, cache: Path, *, image_size: int = 16, channels: int = 3, max_bad_fraction: float = 0.0):
    dataset = image_folder(
        root=None if root is None else str(root),
        labels="auto",
        image_size=image_size,
        channels=channels,
        cache_dir=str(cache),
        max_bad_fraction=max_bad_fraction,
    )
    dataset.prepare()
    return dataset


def only(folder: Path, image: Image.Image, name: str, *, channels: int = 3, **options: object) -> np.ndarray:
    """Save one image in a new folder, and load the folder."""
    folder.mkdir()
    image.save(folder / name, **options)
    return load(folder, folder.parent / "cache", channels=channels).images[0].numpy()


def png(pixels: np.ndarray = COLORS) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_rgb_is_kept_exactly(tmp_path: Path):
    np.testing.assert_array_equal(only(tmp_path / "a", Image.fromarray(COLORS), "x.png"), COLORS.transpose(2, 0, 1))


def test_gray_becomes_three_equal_channels(tmp_path: Path):
    np.testing.assert_array_equal(only(tmp_path / "a", Image.fromarray(GRAY), "x.png"), np.stack([GRAY] * 3))


def test_color_becomes_luma(tmp_path: Path):
    found = only(tmp_path / "a", Image.fromarray(COLORS), "x.png", channels=1)
    luma = COLORS @ np.array([0.299, 0.587, 0.114])
    assert found.shape == (1, 16, 16)
    np.testing.assert_allclose(found[0], luma, atol=1)


def test_palette_becomes_rgb(tmp_path: Path):
    image = Image.fromarray(GRAY % 8).convert("L")
    image.putpalette([value for i in range(8) for value in (i * 30, 255 - i * 30, i)])
    index = (GRAY % 8).astype(int)
    np.testing.assert_array_equal(only(tmp_path / "a", image, "x.png"), np.stack([index * 30, 255 - index * 30, index]))


def test_transparency_is_composited_over_white(tmp_path: Path):
    alpha = RNG.integers(0, 256, (16, 16, 1), dtype=np.uint8)
    found = only(tmp_path / "a", Image.fromarray(np.concatenate([COLORS, alpha], 2)), "x.png")
    share = alpha / 255
    np.testing.assert_allclose(found, (COLORS * share + WHITE * (1 - share)).transpose(2, 0, 1), atol=1)


def test_transparent_palette_entry_is_white(tmp_path: Path):
    image = Image.fromarray(GRAY % 2)
    image.putpalette([10, 20, 30, 40, 50, 60])
    found = only(tmp_path / "a", image, "x.png", transparency=0)
    expected = np.where((GRAY % 2)[None] == 0, WHITE, np.array([40, 50, 60])[:, None, None])
    np.testing.assert_array_equal(found, expected)


def test_cmyk_becomes_rgb(tmp_path: Path):
    found = only(tmp_path / "a", Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "x.jpg")
    np.testing.assert_allclose(found[:, 8, 8], [0, 255, 255], atol=4)


def test_sixteen_bits_are_scaled_down(tmp_path: Path):
    deep = np.linspace(0, 65535, 256).reshape(16, 16).astype(np.uint16)
    found = only(tmp_path / "a", Image.fromarray(deep), "x.png", channels=1)
    np.testing.assert_array_equal(found[0], np.arange(256).reshape(16, 16))


def test_one_bit_becomes_black_and_white(tmp_path: Path):
    found = only(tmp_path / "a", Image.fromarray(GRAY > 127), "x.png", channels=1)
    np.testing.assert_array_equal(found[0], np.where(GRAY > 127, 255, 0))


@pytest.mark.parametrize(("orientation", "turns"), [(3, 2), (6, -1), (8, 1)])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, turns: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = only(tmp_path / "a", Image.fromarray(COLORS), "x.png", exif=exif)
    np.testing.assert_array_equal(found, np.rot90(COLORS, turns).transpose(2, 0, 1))


def test_webp_and_uppercase_suffixes_are_read(tmp_path: Path):
    found = only(tmp_path / "a", Image.fromarray(COLORS), "X.WEBP", lossless=True)
    np.testing.assert_array_equal(found, COLORS.transpose(2, 0, 1))


@pytest.mark.parametrize("shape", [(40, 60), (61, 37), (9, 16), (16, 16)])
def test_resize_and_center_crop_equal_torchvision(tmp_path: Path, shape: tuple[int, int]):
    pixels = RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)
    found = only(tmp_path / "a", Image.fromarray(pixels), "x.png")
    expected = F.center_crop(F.resize(Image.fromarray(pixels), 16), 16)
    np.testing.assert_array_equal(found, np.asarray(expected).transpose(2, 0, 1))


def write_tree(root: Path, names: tuple[str, ...]) -> None:
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(np.full((4, 4, 3), i * 10, np.uint8)))


def zip_tree(root: Path, target: Path, prefix: str = "") -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(root.rglob("*")):
            archive.write(path, prefix + str(path.relative_to(root)))


TREE = ("cat/1.png", "cat/deep/2.PNG", "dog/3.png", "bird/4.png")


@pytest.mark.parametrize("prefix", [None, "", "photos/"])
def test_first_folders_are_labels(tmp_path: Path, prefix: str | None):
    root = tmp_path / "photos"
    write_tree(root, TREE)
    write_tree(root, (".hidden/5.png", "__MACOSX/cat/6.png", "cat/._7.png"))
    if prefix is not None:
        zip_tree(root, tmp_path / "photos.zip", prefix)
        root = tmp_path / "photos.zip"
    dataset = load(root, tmp_path / "cache", image_size=4)
    assert dataset.labels.tolist() == [0, 1, 1, 2]  # bird, cat, cat, dog
    assert dataset.images[:, 0, 0, 0].tolist() == [30, 0, 10, 20]
    assert (dataset.name, dataset.num_classes) == ("image_folder", 3)
    assert torch.equal(load(root, tmp_path / "cache", image_size=4).labels, dataset.labels)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks Linux for the open files")
def test_a_zip_is_open_until_it_is_decoded(tmp_path: Path):
    write_tree(tmp_path / "photos", TREE)
    path = tmp_path / "photos.zip"
    zip_tree(tmp_path / "photos", path)

    def is_open() -> bool:
        return str(path) in [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]

    options = {"labels": "auto", "image_size": 4, "channels": 3, "max_bad_fraction": 0.0}
    dataset = image_folder(root=str(path), cache_dir=str(tmp_path / "cache"), **options)
    assert (dataset.num_images, dataset.num_classes, is_open()) == (4, 3, True)
    dataset.prepare()
    assert not is_open()


@pytest.mark.parametrize("names", [("1.png", "2.png"), ("a/1.png", "a/2.png"), ("a/1.png", "b/2.png", "3.png")])
def test_without_class_folders_there_are_no_labels(tmp_path: Path, names: tuple[str, ...]):
    write_tree(tmp_path / "photos", names)
    dataset = load(tmp_path / "photos", tmp_path / "cache")
    assert (dataset.labels, dataset.num_classes, dataset.num_images) == (None, None, len(names))


def test_links_are_followed_without_cycles(tmp_path: Path):
    write_tree(tmp_path / "real", ("1.png",))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/link").symlink_to(tmp_path / "real")
    (tmp_path / "real/back").symlink_to(tmp_path / "photos")
    assert load(tmp_path / "photos", tmp_path / "cache").num_images == 1


def bomb() -> bytes:
    """A PNG that claims 30,000 x 30,000 pixels."""
    content = bytearray(png())
    content[16:24] = struct.pack(">II", 30_000, 30_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


BROKEN = {"text": b"not an image", "empty": b"", "truncated": png()[:-200], "bomb": bomb(), "flipped": png()[:100]}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("zipped", [False, True])
def test_bad_images_are_named_or_left_out(tmp_path: Path, kind: str, zipped: bool, caplog: pytest.LogCaptureFixture):
    root = tmp_path / "photos"
    write_tree(root, TREE)
    (root / "cat/broken.png").write_bytes(BROKEN[kind])
    if zipped:
        zip_tree(root, tmp_path / "photos.zip")
        root = tmp_path / "photos.zip"
    for _ in range(2):  # the second time from the cache
        with pytest.raises(DataError, match=r"1 of 5 .*: cat/broken\.png .*dataset\.max_bad_fraction=0\.2"):
            load(root, tmp_path / "cache", image_size=4)
    dataset = load(root, tmp_path / "cache", image_size=4, max_bad_fraction=0.2)
    assert dataset.labels.tolist() == [0, 1, 1, 2]
    assert dataset.images[:, 0, 0, 0].tolist() == [30, 0, 10, 20]
    assert "cat/broken.png" in caplog.records[-1].message
    assert caplog.records[-1].levelno == logging.WARNING


def test_only_the_first_five_bad_images_are_named(tmp_path: Path):
    write_tree(tmp_path / "photos", ("z.png",))
    for i in range(7):
        (tmp_path / f"photos/{i}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"7 of 8 images .*: 0\.png .*4\.png [^;]*; and 2 more\..*=0\.88"):
        load(tmp_path / "photos", tmp_path / "cache")


def test_all_images_bad_is_an_error(tmp_path: Path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/x.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match=r"1 of 1 .*x\.jpg is not a PNG, JPEG, .* image\. None is left"):
        load(tmp_path / "photos", tmp_path / "cache", max_bad_fraction=1.0)
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("zipped", [False, True])
def test_very_large_files_are_bad_images(tmp_path: Path, zipped: bool, monkeypatch: pytest.MonkeyPatch):
    root = tmp_path / "photos"
    write_tree(root, TREE)
    if zipped:
        zip_tree(root, tmp_path / "photos.zip")
        root = tmp_path / "photos.zip"
    monkeypatch.setattr(image_files, "MAX_FILE_BYTES", 10)
    with pytest.raises(DataError, match=r"4 of 4 .*takes \d+ bytes, more than 10"):
        load(root, tmp_path / "cache")


def test_long_and_thin_images_are_bad_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 5000)
    (tmp_path / "photos").mkdir()
    Image.new("L", (1, 4000)).save(tmp_path / "photos/x.png")
    with pytest.raises(DataError, match="would be resized to 16x64000 pixels"):
        load(tmp_path / "photos", tmp_path / "cache")


def test_a_damaged_zip_member_is_a_bad_image(tmp_path: Path):
    write_tree(tmp_path / "photos", TREE)
    zip_tree(tmp_path / "photos", tmp_path / "photos.zip")
    content = bytearray((tmp_path / "photos.zip").read_bytes())
    start = content.index(b"dog/3.png") + len("dog/3.png") + 10
    content[start : start + 8] = bytes(8)
    (tmp_path / "photos.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"1 of 4 .*dog/3\.png cannot be unzipped"):
        load(tmp_path / "photos.zip", tmp_path / "cache")


def test_missing_root_option_is_an_error(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"dataset\.root is not set: .* for example dataset\.root=photos"):
        load(None, tmp_path)


def test_nonexistent_root_is_an_error(tmp_path: Path):
    with pytest.raises(DataError, match=r"nowhere does not exist; set dataset\.root"):
        load(tmp_path / "nowhere", tmp_path)


def test_an_empty_folder_is_an_error(tmp_path: Path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match=r"dataset\.root=.*photos is empty; put images there \(PNG, JPEG.*\)\.$"):
        load(tmp_path / "photos", tmp_path / "cache")


def test_a_folder_without_images_is_an_error(tmp_path: Path):
    (tmp_path / "photos/deep").mkdir(parents=True)
    for name in ("a.mp4", "deep/b.MP4", "README"):
        (tmp_path / "photos" / name).touch()
    with pytest.raises(DataError, match=r"photos holds no PNG, JPEG, .*: 2 \.mp4, 1 without a suffix; put images"):
        load(tmp_path / "photos", tmp_path / "cache")


@pytest.mark.parametrize("content", [b"", b"Rar!", b"PK\x03\x04" + bytes(50)], ids=range(3))
def test_an_unreadable_zip_is_an_error(tmp_path: Path, content: bytes):
    (tmp_path / "photos.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"photos\.zip is neither a folder nor a readable zip"):
        load(tmp_path / "photos.zip", tmp_path / "cache")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_permission_is_an_error(tmp_path: Path):
    (tmp_path / "photos").mkdir(mode=0)
    with pytest.raises(DataError, match="cannot be listed"):
        load(tmp_path / "photos", tmp_path / "cache")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 2}, r"dataset\.channels=2 must be 1 \(gray\) or 3 \(RGB\)"),
        ({"image_size": 0}, r"dataset\.image_size=0 must be a whole number of at least 1"),
        ({"max_bad_fraction": 1.5}, r"dataset\.max_bad_fraction=1\.5 must be a number from 0 to 1"),
    ],
)
def test_invalid_options_are_errors(tmp_path: Path, changes: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, tmp_path / "cache", **changes)
