"""Arrays of images in .npz files."""

import errno
import io
import os
import pickle
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from picture_bytes import damaged, refusals

from gantrain.datasets import npz_array
from gantrain.datasets.holdout import hold_out
from gantrain.datasets.npz import npz
from gantrain.errors import ConfigError, DataError

RNG = np.random.default_rng(0)
COLORS = RNG.integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
CHANNELS_FIRST = COLORS.transpose(0, 3, 1, 2)
LABELS = [0, 1, 2, 2, 1, 0]


def load(root: Path, **changes: Any):
    options: dict[str, Any] = {"image_key": None, "label_key": None, "labels": True, "image_size": None}
    dataset = npz(root=str(root), cache_dir=str(root.parent / "cache"), **options | changes)
    dataset.prepare(num_workers=1)
    return dataset


def save(path: Path, *, compressed: bool = False, **arrays: Any) -> Path:
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return path


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images", "labels"),
        ("arr_0", "arr_1"),
        ("x_train", "y_train"),
        ("X", "y"),
        ("train_images", "train_labels"),
        ("data", "labels"),
    ],
)
def test_usual_names(tmp_path: Path, image: str, label: str, compressed: bool):
    path = save(tmp_path / "x.npz", compressed=compressed, **{label: np.array(LABELS), image: COLORS})
    dataset = load(path)
    np.testing.assert_array_equal(dataset.images, CHANNELS_FIRST)
    assert (dataset.labels.tolist(), dataset.num_classes, dataset.name) == (LABELS, 3, "npz")


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (CHANNELS_FIRST, CHANNELS_FIRST),
        (np.asfortranarray(COLORS), CHANNELS_FIRST),
        (COLORS[..., :1], CHANNELS_FIRST[:, :1]),
        (COLORS[..., 0], CHANNELS_FIRST[:, :1]),
        (COLORS[:, :, :4, 0].reshape(6, 16), CHANNELS_FIRST[:, :1, :, :4]),
        (CHANNELS_FIRST[..., :4].reshape(6, 48), CHANNELS_FIRST[..., :4]),
        (COLORS.astype(">i4"), CHANNELS_FIRST),
        (COLORS.astype(np.float32), CHANNELS_FIRST),
        (COLORS / 255, CHANNELS_FIRST),
        ((COLORS / 255).astype(np.float16), CHANNELS_FIRST),
        ((COLORS / 127.5 - 1).astype(np.float32), CHANNELS_FIRST),
        (COLORS[..., 0] > 127, np.where(CHANNELS_FIRST[:, :1] > 127, 255, 0)),
    ],
    ids=[
        "nchw",
        "fortran",
        "gray",
        "nhw",
        "flat-gray",
        "flat-rgb",
        "int32",
        "float255",
        "float1",
        "float16",
        "signed",
        "bool",
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_layouts_and_ranges(tmp_path: Path, stored: np.ndarray, expected: np.ndarray, compressed: bool):
    dataset = load(save(tmp_path / "x.npz", compressed=compressed, images=stored))
    assert dataset.labels is None
    np.testing.assert_array_equal(dataset.images, expected)


def test_resized_as_image_folder_does(tmp_path: Path):
    from PIL import Image
    from torchvision.transforms import functional as F

    dataset = load(save(tmp_path / "x.npz", images=COLORS), image_size=3)
    expected = [np.asarray(F.center_crop(F.resize(Image.fromarray(x), 3), 3)).transpose(2, 0, 1) for x in COLORS]
    np.testing.assert_array_equal(dataset.images, np.stack(expected))


def test_several_files_are_joined_in_order(tmp_path: Path):
    # As ImageNet at 32 px is published: flat, with labels from 1.
    (tmp_path / "data").mkdir()
    for i in range(3):
        part = CHANNELS_FIRST[2 * i : 2 * i + 2, :, :, :4]
        save(
            tmp_path / f"data/train_data_batch_{i}.npz",
            data=part.reshape(2, 48),
            labels=np.array(LABELS[2 * i : 2 * i + 2]) + 1,
        )
    dataset = load(tmp_path / "data")
    np.testing.assert_array_equal(dataset.images, CHANNELS_FIRST[..., :4])
    assert dataset.labels.tolist() == LABELS


def test_the_range_of_floats_is_that_of_all_files(tmp_path: Path):
    (tmp_path / "data").mkdir()
    values = COLORS / np.float32(127.5) - 1
    dark = np.minimum(values[:3], -0.5)
    save(tmp_path / "data/a.npz", images=np.abs(dark) * 0)  # alone, these zeros would be black
    save(tmp_path / "data/b.npz", images=values[3:])
    dataset = load(tmp_path / "data")
    assert dataset.images[:3].unique().tolist() == [128]  # 127.5, rounded to even
    np.testing.assert_array_equal(dataset.images[3:], CHANNELS_FIRST[3:])


def test_test_images_can_be_held_out(tmp_path: Path):
    arrays = {"x_test": COLORS[4:], "y_test": [1, 0], "x_train": COLORS[:4], "y_train": [0, 1, 1, 0]}
    dataset = load(save(tmp_path / "mnist.npz", **arrays))
    held_out = hold_out(dataset, "test").held_out
    held_out.prepare(num_workers=1)
    np.testing.assert_array_equal(dataset.images, CHANNELS_FIRST[:4])
    np.testing.assert_array_equal(held_out.images, CHANNELS_FIRST[4:])
    assert (dataset.labels.tolist(), held_out.labels.tolist()) == ([0, 1, 1, 0], [1, 0])


def test_classes_of_test_images_have_the_numbers_of_the_training_images(tmp_path: Path):
    arrays = {"x_train": COLORS[:4], "y_train": ["c", "ant", "b", "bird"]}
    arrays |= {"x_test": COLORS[4:], "y_test": ["bird", "ant"]}
    dataset = load(save(tmp_path / "x.npz", **arrays))
    held_out = hold_out(dataset, "test").held_out
    assert dataset.class_names == held_out.class_names == ("ant", "b", "bird", "c")
    assert (dataset.labels.tolist(), held_out.labels.tolist(), held_out.num_classes) == ([3, 0, 1, 2], [2, 0], 4)
    np.testing.assert_array_equal(held_out.images, CHANNELS_FIRST[4:])
    np.testing.assert_array_equal(held_out.gather(torch.tensor([1])), CHANNELS_FIRST[5:])
    assert len({dataset.fingerprint, held_out.fingerprint, held_out.whole.fingerprint}) == 3


def test_test_images_that_are_not_asked_for_may_be_of_any_kind(tmp_path: Path):
    path = save(tmp_path / "x.npz", x_train=COLORS, x_test=np.zeros((3, 2, 2, 7)))
    dataset = load(path)
    np.testing.assert_array_equal(dataset.images, CHANNELS_FIRST)
    with pytest.raises(DataError, match=r"x_test is float64 \[3, 2, 2, 7\], but images are"):
        hold_out(dataset, "test")


def test_a_folder_that_cannot_be_written_is_not_blamed_on_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    path = save(tmp_path / "x.npz", compressed=True, images=COLORS)
    with monkeypatch.context() as patched:
        patched.setattr(tempfile, "TemporaryFile", refuse)
        with pytest.raises(ConfigError, match=r"cache_dir=.* cannot be written \(Read-only file system\)"):
            load(path)
    monkeypatch.setattr(npz_array, "open_regular", refuse)
    with pytest.raises(DataError, match=r"x\.npz is not a readable \.npz \(Read-only file system\)"):
        load(path)


def test_labels_of_other_kinds_and_none(tmp_path: Path):
    path = save(
        tmp_path / "x.npz",
        images=COLORS,
        one_hot=np.eye(3, dtype=int)[LABELS],
        words=["b", "a", "b", "a", "b", "a"],
        column=np.array(LABELS)[:, None],
    )
    assert load(path).labels is None
    assert load(path, label_key="one_hot").labels.tolist() == LABELS
    assert load(path, label_key="column").labels.tolist() == LABELS
    assert load(path, label_key="words").labels.tolist() == [1, 0, 1, 0, 1, 0]
    assert load(save(tmp_path / "y.npz", images=COLORS, labels=LABELS), labels=False).labels is None


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"pixels": COLORS}, {}, r"has the arrays pixels, none of which is called like images .*dataset\.image_key"),
        ({"images": COLORS}, {"image_key": "x"}, r"has no array x, only images; set dataset\.image_key"),
        ({"images": COLORS[..., :2]}, {}, r"images is uint8 \[6, 4, 5, 2\], but images are \[n, h, w, c\]"),
        ({"images": COLORS * 300.0}, {}, r"the values of images go from 0 to 7\d+, but images have whole numbers"),
        ({"images": COLORS.astype(float) - 5}, {}, "the values of images go from -5 to"),
        ({"images": np.full((2, 4, 4), np.nan)}, {}, "the values of images go from nan to nan"),
        (
            {"images": COLORS, "labels": [0, 1]},
            {"label_key": "labels"},
            r"labels \[2\] is not one label per image \(6\)",
        ),
        ({"images": COLORS[:0]}, {}, r"images is uint8 \[0, 4, 5, 3\]"),
        ({"images": np.array([object()])}, {}, "holds object, neither numbers nor texts"),
    ],
)
def test_wrong_arrays_are_named(tmp_path: Path, arrays: dict[str, Any], options: dict[str, Any], message: str):
    save(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load(tmp_path / "x.npz", **options)


def test_nothing_is_unpickled(tmp_path: Path):
    marker = tmp_path / "ran"

    class Command:
        def __reduce__(self):
            return Path.touch, (marker,)

    save(tmp_path / "x.npz", images=np.array([Command()] * 4, object))
    with zipfile.ZipFile(tmp_path / "y.npz", "w") as archive:
        archive.writestr("images.npy", pickle.dumps(Command()))
    for name in ("x.npz", "y.npz"):
        with pytest.raises(DataError, match=name):
            load(tmp_path / name)
    assert not marker.exists()


@pytest.mark.parametrize("compressed", [False, True])
def test_broken_files_are_errors(tmp_path: Path, compressed: bool):
    path = save(tmp_path / "x.npz", compressed=compressed, images=COLORS, labels=LABELS)
    found = refusals(lambda: load(path), path, damaged(path.read_bytes(), 60))
    assert len(found) >= 30  # at least those that were cut
    assert all("x.npz" in message and "\n" not in message for message in found)


def test_false_sizes_are_refused(tmp_path: Path):
    buffer = io.BytesIO()
    np.save(buffer, COLORS)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("images.npy", buffer.getvalue().replace(b"(6, 4, 5, 3)", b"(9, 4, 5, 3)"))
    with pytest.raises(DataError, match="images is not of the size that its header says"):
        load(tmp_path / "x.npz")


def test_options_are_checked(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"dataset\.root is not set: an \.npz file"):
        npz(root=None, image_key=None, label_key=None, labels=True, image_size=None, cache_dir=str(tmp_path))
    with pytest.raises(ConfigError, match=r"dataset\.image_size=0"):
        load(tmp_path, image_size=0)
