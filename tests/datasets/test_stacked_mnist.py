"""Stacked MNIST: every channel is a digit of MNIST, and the label names the three."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gantrain.datasets.base import ImageDataset
from gantrain.datasets.digits import digits
from gantrain.datasets.stacked_mnist import stacked_mnist
from gantrain.errors import ConfigError, DataError

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (5_000, 28, 28), dtype=np.uint8), (np.arange(5_000) % 10).astype(np.uint8)


def write(root: Path, images: np.ndarray = IMAGES) -> Path:
    folder = root / "MNIST/raw"
    folder.mkdir(parents=True)
    for name, array in (("train-images-idx3-ubyte", images), ("train-labels-idx1-ubyte", LABELS)):
        header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
        (folder / name).write_bytes(header + array.tobytes())
    return root


def load(root: Path, **options: Any) -> ImageDataset:
    settings = {"num_images": 300, "labels": True, "seed": 0, "image_size": None} | options
    return stacked_mnist(root=str(root), download=False, cache_dir=str(root / "cache"), **settings)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data"))


def known_digits() -> dict[bytes, int]:
    """Return the class of each digit that may be drawn, by its pixels."""
    test = digits(image_size=None)
    known = {image.tobytes(): int(label) for image, label in zip(IMAGES, LABELS, strict=True)}
    return known | {image.numpy().tobytes(): int(y) for image, y in zip(test.images[:, 0], test.labels, strict=True)}


def test_channels_are_digits_and_labels_name_them(root: Path) -> None:
    data, known = load(root), known_digits()
    assert (data.name, data.num_images, data.image_shape, data.num_classes) == ("stacked_mnist", 300, (3, 28, 28), 1000)
    assert data.features == "stacked_digits"
    names = [[known[channel.numpy().tobytes()] for channel in image] for image in data.images]
    assert data.labels.tolist() == [100 * red + 10 * green + blue for red, green, blue in names]
    assert len({tuple(name) for name in names}) > 200  # of 300 draws from 1,000 classes, 259 are expected to differ


def test_training_and_test_digits_are_drawn_alike(root: Path) -> None:
    training = {image.tobytes() for image in IMAGES}
    drawn = [channel.numpy().tobytes() in training for image in load(root).images for channel in image]
    assert np.mean(drawn) == pytest.approx(1 / 3, abs=4 * (2 / 9 / 900) ** 0.5)  # 5,000 of 15,000


def test_the_pool_is_fixed_by_its_seed(root: Path) -> None:
    first, again, other = load(root), load(root), load(root, seed=1)
    assert first.fingerprint == again.fingerprint
    assert torch.equal(first.images, again.images)
    assert first.fingerprint != other.fingerprint
    assert not torch.equal(first.images, other.images)
    indices = torch.tensor([299, 0, 7])
    assert torch.equal(first.gather(indices), first.images[indices])


def test_labels_are_optional(root: Path) -> None:
    data = load(root, labels=False)
    assert (data.labels, data.num_classes) == (None, None)
    assert torch.equal(data.images, load(root).images)


def test_other_sizes_are_resized_channel_by_channel(root: Path) -> None:
    data, native = load(root, image_size=16), load(root)
    assert data.image_shape == (3, 16, 16)
    expected = Image.fromarray(native.images[5, 1].numpy()).resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(data.images[5, 1].numpy(), np.asarray(expected))


def test_nothing_is_decoded_before_the_images_are_used(root: Path, tmp_path: Path) -> None:
    data = stacked_mnist(
        root=str(root),
        download=False,
        num_images=10**5,
        labels=True,
        seed=0,
        image_size=None,
        cache_dir=str(tmp_path / "cache"),
    )
    assert (data.num_images, data.image_shape) == (10**5, (3, 28, 28))
    assert not (tmp_path / "cache").exists()


def test_wrong_options_and_files_are_errors(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.num_images=0"):
        load(root, num_images=0)
    with pytest.raises(ConfigError, match=r"dataset\.image_size=-1"):
        load(root, image_size=-1)
    with pytest.raises(DataError, match="train-images-idx3-ubyte"):
        load(tmp_path)
    with pytest.raises(DataError, match="not 28x28"):
        load(write(tmp_path, IMAGES[:, :20]))
