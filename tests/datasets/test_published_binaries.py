"""CIFAR-10 and CIFAR-100 as binary files, SVHN, STL-10: small files in the published formats."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from picture_bytes import damaged, refusals
from scipy.io import savemat
from torchvision.datasets import CIFAR100, STL10, SVHN

from gantrain.datasets.base import ImageDataset
from gantrain.datasets.cifar10 import cifar10
from gantrain.datasets.cifar100 import cifar100
from gantrain.datasets.stl10 import stl10
from gantrain.datasets.svhn import svhn
from gantrain.errors import DataError

RNG = np.random.default_rng(0)


def check(
    dataset: ImageDataset, images: np.ndarray, labels: list[int] | None, name: str, num_classes: int | None
) -> None:
    dataset.prepare(num_workers=1)
    np.testing.assert_array_equal(dataset.images, images)
    assert (None if dataset.labels is None else dataset.labels.tolist()) == labels
    assert (dataset.name, dataset.num_classes) == (name, num_classes)


def options(root: Path, **changes: Any) -> dict[str, Any]:
    return {"root": str(root), "download": False, "image_size": None, "cache_dir": str(root / "cache")} | changes


# CIFAR


def write_cifar10(root: Path) -> tuple[np.ndarray, np.ndarray]:
    pixels, labels = RNG.integers(0, 256, (6, 4, 3072), dtype=np.uint8), RNG.integers(0, 10, (6, 4))
    folder = root / "cifar-10-batches-bin"
    folder.mkdir()
    for i, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        rows = np.concatenate([labels[i, :, None].astype(np.uint8), pixels[i]], axis=1)
        (folder / f"{name}.bin").write_bytes(rows.tobytes())
    return pixels.reshape(6, 4, 3, 32, 32), labels


def test_binary_cifar10(tmp_path: Path):
    pixels, labels = write_cifar10(tmp_path)
    dataset = cifar10(**options(tmp_path))
    check(dataset, pixels[:5].reshape(-1, 3, 32, 32), labels[:5].reshape(-1).tolist(), "cifar10", 10)
    assert dataset.load_test_split is not None
    check(dataset.load_test_split(), pixels[5], labels[5].tolist(), "cifar10", 10)


def test_binary_and_python_batches_are_the_same_dataset(tmp_path: Path):
    pixels, labels = write_cifar10(tmp_path)
    (tmp_path / "b/cifar-10-batches-py").mkdir(parents=True)
    for i in range(5):
        batch = {"data": pixels[i].reshape(4, 3072), "labels": labels[i].tolist()}
        (tmp_path / f"b/cifar-10-batches-py/data_batch_{i + 1}").write_bytes(pickle.dumps(batch))
    assert cifar10(**options(tmp_path)).fingerprint == cifar10(**options(tmp_path / "b")).fingerprint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bytes(3072), "3,072 bytes, which is not a multiple of 3,073"),
        (b"", "no images"),
        (b"\x0a" + bytes(3072), "the label 10"),
    ],
)
def test_broken_binary_cifar10_is_named(tmp_path: Path, content: bytes, message: str):
    write_cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-bin/data_batch_3.bin").write_bytes(content)
    with pytest.raises(DataError, match=rf"data_batch_3\.bin .*{message}"):
        cifar10(**options(tmp_path))


@pytest.mark.parametrize("kind", ["python", "binary"])
def test_cifar100(tmp_path: Path, kind: str):
    for i, split in enumerate(("train", "test")):
        draw = np.random.default_rng(i)
        pixels, fine, coarse = (
            draw.integers(0, 256, (5, 3072), dtype=np.uint8),
            draw.integers(0, 100, 5),
            draw.integers(0, 20, 5),
        )
        folder = tmp_path / f"cifar-100-{kind}"
        folder.mkdir(exist_ok=True)
        if kind == "python":
            batch = {
                b"data": pixels,
                b"fine_labels": fine.tolist(),
                b"coarse_labels": coarse.tolist(),
                b"filenames": [b"x"] * 5,
            }
            batch = {key.decode(): value for key, value in batch.items()}
            (folder / split).write_bytes(pickle.dumps(batch, protocol=2))
        else:
            rows = np.concatenate([coarse[:, None], fine[:, None], pixels], axis=1).astype(np.uint8)
            (folder / f"{split}.bin").write_bytes(rows.tobytes())
        if split == "train":
            for labels, expected, num in (("fine", fine, 100), ("coarse", coarse, 20)):
                dataset = cifar100(labels=labels, **options(tmp_path))
                check(dataset, pixels.reshape(5, 3, 32, 32), expected.tolist(), "cifar100", num)
    assert dataset.load_test_split is not None
    check(dataset.load_test_split(), pixels.reshape(5, 3, 32, 32), coarse.tolist(), "cifar100", 20)


def test_a_pickle_of_cifar100_cannot_run_a_command(tmp_path: Path):
    class Command:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    (tmp_path / "cifar-100-python").mkdir()
    (tmp_path / "cifar-100-python/train").write_bytes(pickle.dumps({"data": Command()}))
    with pytest.raises(DataError, match="no code was run"):
        cifar100(labels="fine", **options(tmp_path))
    assert not (tmp_path / "ran").exists()


# SVHN


def write_svhn(path: Path, num: int, **changes: Any) -> tuple[np.ndarray, np.ndarray]:
    path.parent.mkdir(exist_ok=True)
    draw = np.random.default_rng(num)
    images, labels = draw.integers(0, 256, (num, 3, 32, 32), dtype=np.uint8), draw.integers(0, 10, num)
    labels[0] = 0
    content = {"X": images.transpose(2, 3, 1, 0), "y": np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]}
    savemat(path, content | changes, do_compression=True)
    return images, labels


def test_svhn(tmp_path: Path):
    train, test, extra = (
        write_svhn(tmp_path / f"svhn/{s}_32x32.mat", n) for s, n in (("train", 5), ("test", 3), ("extra", 4))
    )
    dataset = svhn(extra=False, **options(tmp_path))
    check(dataset, train[0], train[1].tolist(), "svhn", 10)
    assert dataset.load_test_split is not None
    check(dataset.load_test_split(), test[0], test[1].tolist(), "svhn", 10)
    both = [np.concatenate(pair) for pair in zip(train, extra, strict=True)]
    check(svhn(extra=True, **options(tmp_path)), both[0], both[1].tolist(), "svhn", 10)


def test_svhn_as_torchvision_stores_and_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_svhn(tmp_path / "train_32x32.mat", 5)
    monkeypatch.setattr(SVHN, "_check_integrity", lambda self: True)
    reference = SVHN(tmp_path, download=False)
    check(svhn(extra=False, **options(tmp_path)), reference.data, reference.labels.tolist(), "svhn", 10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"X": np.zeros((4, 4, 3, 5), np.uint8)}, r"X is uint8 \[4, 4, 3, 5\], not uint8 \[32, 32, 3, n\]"),
        ({"X": np.zeros((32, 32, 3, 5))}, "X is double"),
        ({"y": np.zeros((3, 1), np.uint8)}, "or y not one label each"),
        ({"y": np.full((5, 1), 11, np.uint8)}, "the label 11"),
        ({"y": np.full((5, 1), 0.5)}, "float64 labels"),
    ],
)
def test_wrong_svhn_is_named(tmp_path: Path, changes: dict[str, Any], message: str):
    write_svhn(tmp_path / "svhn/train_32x32.mat", 5, **changes)
    with pytest.raises(DataError, match=rf"train_32x32\.mat.*{message}"):
        svhn(extra=False, **options(tmp_path))


def test_damaged_svhn_is_an_error(tmp_path: Path):
    path = tmp_path / "svhn/train_32x32.mat"
    write_svhn(path, 5)
    found = refusals(lambda: svhn(extra=False, **options(tmp_path)), path, damaged(path.read_bytes(), 40))
    assert len(found) >= 20
    assert all("train_32x32.mat" in message and "\n" not in message for message in found)


# STL-10


def write_stl10(root: Path) -> dict[str, np.ndarray]:
    folder = root / "stl10_binary"
    folder.mkdir()
    images = {
        name: RNG.integers(0, 256, (num, 3, 96, 96), dtype=np.uint8)
        for name, num in (("train", 4), ("test", 2), ("unlabeled", 3))
    }
    for name, array in images.items():
        (folder / f"{name}_X.bin").write_bytes(array.transpose(0, 1, 3, 2).tobytes())
    (folder / "train_y.bin").write_bytes(bytes([1, 10, 3, 3]))
    (folder / "test_y.bin").write_bytes(bytes([2, 5]))
    return images


def test_stl10(tmp_path: Path):
    images = write_stl10(tmp_path)
    dataset = stl10(split="train", **options(tmp_path))
    check(dataset, images["train"], [0, 9, 2, 2], "stl10", 10)
    assert dataset.load_test_split is not None
    check(dataset.load_test_split(), images["test"], [1, 4], "stl10", 10)
    check(stl10(split="unlabeled", **options(tmp_path)), images["unlabeled"], None, "stl10", None)
    both = np.concatenate([images["train"], images["unlabeled"]])
    check(stl10(split="train+unlabeled", **options(tmp_path)), both, None, "stl10", None)


def test_stl10_is_read_as_torchvision_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_stl10(tmp_path)
    (tmp_path / "stl10_binary/class_names.txt").write_text("a\n" * 10)
    monkeypatch.setattr(STL10, "_check_integrity", lambda self: True)
    reference = STL10(tmp_path, split="train", download=False)
    check(stl10(split="train", **options(tmp_path)), reference.data, reference.labels.tolist(), "stl10", 10)


def test_stl10_is_resized(tmp_path: Path):
    write_stl10(tmp_path)
    dataset = stl10(split="unlabeled", **options(tmp_path, image_size=48))
    dataset.prepare(num_workers=1)
    assert dataset.image_shape == (3, 48, 48)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train_X.bin", bytes(100), "100 bytes, which is not a multiple of 27,648"),
        ("train_X.bin", b"", "empty"),
        ("train_y.bin", bytes([1, 2]), r"labels of shape \(2,\) for 4 images"),
        ("train_y.bin", bytes([0, 1, 2, 3]), "the label -1"),
    ],
)
def test_wrong_stl10_is_named(tmp_path: Path, name: str, content: bytes, message: str):
    write_stl10(tmp_path)
    (tmp_path / "stl10_binary" / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}.*{message}"):
        stl10(split="train", **options(tmp_path))


@pytest.mark.parametrize(
    ("load", "needs"),
    [
        (lambda root: cifar100(labels="fine", **options(root)), r"CIFAR-100 needs the file train .*or train\.bin"),
        (lambda root: svhn(extra=False, **options(root)), r"SVHN needs train_32x32\.mat in .*svhn"),
        (
            lambda root: stl10(split="unlabeled", **options(root)),
            r"STL-10 needs unlabeled_X\.bin of stl10_binary\.tar\.gz",
        ),
    ],
)
def test_missing_files_are_an_error(tmp_path: Path, load: Any, needs: str):
    with pytest.raises(DataError, match=rf"{needs}.*dataset\.download=true"):
        load(tmp_path)


def test_torchvision_still_names_the_downloads():
    assert CIFAR100.url.endswith("cifar-100-python.tar.gz")
    assert {"train", "test", "extra"} <= SVHN.split_list.keys()
    assert STL10.filename == "stl10_binary.tar.gz"
