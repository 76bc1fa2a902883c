import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import MNIST

from gantrain.datasets.mnist import fashion_mnist, mnist
from gantrain.errors import ConfigError, DataError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (30, 28, 28), dtype=np.uint8)
LABELS = (np.arange(30) % 10).astype(np.uint8)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write(folder: Path, images: np.ndarray = IMAGES, labels: np.ndarray = LABELS, *, gz: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in (("train-images-idx3-ubyte", images), ("train-labels-idx1-ubyte", labels)):
        content = idx(array)
        (folder / (name + ".gz" * gz)).write_bytes(gzip.compress(content) if gz else content)


def load(root: Path, function=mnist, *, image_size: int | None = None, download: bool = False):
    return function(root=str(root), download=download, image_size=image_size, cache_dir=str(root / "cache"))


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize(("function", "folder"), [(mnist, "MNIST"), (fashion_mnist, "FashionMNIST")])
def test_native_size_is_not_cached(tmp_path: Path, function, folder: str, gz: bool):
    write(tmp_path / folder / "raw", gz=gz)
    dataset = load(tmp_path, function)
    assert dataset.name == function.__name__
    assert torch.equal(dataset.images[:, 0], torch.from_numpy(IMAGES))
    assert torch.equal(dataset.labels, torch.from_numpy(LABELS).long())
    assert (dataset.num_images, dataset.image_shape, dataset.num_classes) == (30, (1, 28, 28), 10)
    assert not (tmp_path / "cache").exists()


def test_the_fingerprint_depends_on_the_content(tmp_path: Path):
    write(tmp_path / "MNIST/raw")
    first = load(tmp_path)
    write(tmp_path / "MNIST/raw", labels=LABELS[::-1].copy())
    assert len({first.fingerprint, load(tmp_path).fingerprint}) == 2


def test_resized_images_are_cached(tmp_path: Path):
    write(tmp_path / "MNIST/raw")
    dataset = load(tmp_path, image_size=16)
    expected = [np.asarray(Image.fromarray(image).resize((16, 16), Image.Resampling.BILINEAR)) for image in IMAGES]
    np.testing.assert_array_equal(dataset.images[:, 0].numpy(), np.stack(expected))
    assert torch.equal(dataset.labels, torch.from_numpy(LABELS).long())
    assert len(list((tmp_path / "cache").glob("mnist-*.npy"))) == 1
    assert load(tmp_path, image_size=16).fingerprint == dataset.fingerprint


def test_missing_files_are_an_error(tmp_path: Path):
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte .*plain or \.gz.* in .*MNIST/raw.*download=true"):
        load(tmp_path)


def test_failed_download_names_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(DataError, match=r"in .*MNIST/raw. The download failed .*refused.*by hand"):
        load(tmp_path, download=True)
    assert not (tmp_path / "MNIST").exists()
    (tmp_path / "MNIST/raw").mkdir(parents=True)
    with pytest.raises(DataError, match="The download failed"):
        load(tmp_path, download=True)
    assert not list((tmp_path / "MNIST/raw").iterdir())  # the folder existed before, so it is kept


def test_download_from_a_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve):
    mirror = tmp_path / "mirror"
    write(mirror, gz=True)
    resources = [(path.name, hashlib.md5(path.read_bytes()).hexdigest()) for path in sorted(mirror.iterdir())]
    monkeypatch.setattr(MNIST, "mirrors", [serve(mirror)])
    monkeypatch.setattr(MNIST, "resources", resources)
    dataset = load(tmp_path / "root", download=True)
    assert torch.equal(dataset.images[:, 0], torch.from_numpy(IMAGES))
    assert sorted(path.name for path in (tmp_path / "root/MNIST/raw").glob("*ubyte")) == [
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
    ]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES, LABELS[:-1].copy(), r"labels of shape \(29,\) for 30 images"),
        (IMAGES, LABELS + 1, "holds the label 10, outside of 0 to 9"),
        (IMAGES[0], LABELS, "has 2 dimensions, not 3"),
        (IMAGES[:0], LABELS[:0], "declares 0x28x28 bytes"),
    ],
)
def test_inconsistent_files_are_errors(tmp_path: Path, images: np.ndarray, labels: np.ndarray, message: str):
    write(tmp_path / "MNIST/raw", images, labels)
    with pytest.raises(DataError, match=message):
        load(tmp_path)


def test_negative_image_size_is_an_error(tmp_path: Path):
    write(tmp_path / "MNIST/raw")
    with pytest.raises(ConfigError, match=r"dataset\.image_size=-3"):
        load(tmp_path, image_size=-3)
