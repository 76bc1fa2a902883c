"""Held-out images: a random part of a dataset, or its test split."""

import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gantrain.datasets.base import ImageDataset
from gantrain.datasets.cifar10 import cifar10
from gantrain.datasets.digits import digits
from gantrain.datasets.holdout import hold_out
from gantrain.datasets.image_folder import image_folder
from gantrain.datasets.mnist import fashion_mnist, mnist
from gantrain.datasets.toys import gaussian
from gantrain.errors import ConfigError, DataError


def parts(whole: ImageDataset, fraction: float) -> tuple[ImageDataset, ImageDataset]:
    train = hold_out(whole, fraction)
    assert isinstance(train, ImageDataset)
    assert train.held_out is not None
    return train, train.held_out


def test_every_image_is_in_one_part_with_its_label() -> None:
    whole = digits(image_size=None)
    train, held_out = parts(whole, 0.05)
    assert (train.num_images, held_out.num_images) == (9_500, 500)
    assert (train.split, held_out.split) == ("train", "held_out")
    rows = torch.cat([part.gather(torch.arange(part.num_images)) for part in (train, held_out)])
    labels = torch.cat([part.labels for part in (train, held_out)])  # type: ignore[misc]
    found = sorted(zip(map(bytes, rows.flatten(1).numpy()), labels.tolist(), strict=True))
    assert whole.labels is not None
    assert found == sorted(zip(map(bytes, whole.images.flatten(1).numpy()), whole.labels.tolist(), strict=True))
    assert torch.equal(held_out.images[[3, 1]], held_out.gather(torch.tensor([3, 1])))
    # A random part: of each class, about as many as in the data.
    counts, expected = torch.bincount(labels[9_500:], minlength=10), torch.bincount(whole.labels) / 20
    assert ((counts - expected).abs() < 4 * expected.sqrt()).all()


def test_parts_are_always_the_same_and_have_own_fingerprints() -> None:
    whole = digits(image_size=None)
    torch.manual_seed(5)
    (train, held_out), (again, held_out_again) = parts(whole, 0.05), parts(digits(image_size=None), 0.05)
    assert torch.equal(held_out.images, held_out_again.images)
    assert (train.fingerprint, held_out.fingerprint) == (again.fingerprint, held_out_again.fingerprint)
    other = parts(whole, 0.1)
    assert len({part.fingerprint for part in (whole, train, held_out, *other)}) == 5


def test_images_decoded_later_are_held_out_without_the_bad_ones(tmp_path: Path) -> None:
    for i in range(20):
        Image.new("L", (8, 8), i).save(tmp_path / f"{i:02}.png")
    (tmp_path / "07.png").write_bytes(b"broken")
    options = {"root": str(tmp_path), "labels": "auto", "image_size": 8, "channels": 1, "max_bad_fraction": 0.5}
    train, held_out = parts(image_folder(**options, cache_dir=str(tmp_path / "cache")), 0.25)
    assert (train.num_images, held_out.num_images) == (15, 5)  # not decoded yet
    train.prepare()
    assert (train.num_images, held_out.num_images) == (14, 5)
    assert train.labels is None
    values = [part.gather(torch.arange(part.num_images))[:, 0, 0, 0].tolist() for part in (train, held_out)]
    assert sorted(values[0] + values[1]) == [i for i in range(20) if i != 7]


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize(("load", "folder"), [(mnist, "MNIST"), (fashion_mnist, "FashionMNIST")])
def test_test_images_of_mnist_are_held_out(tmp_path: Path, load, folder: str) -> None:
    raw = tmp_path / folder / "raw"
    raw.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    for prefix, part in (("train", images[:3]), ("t10k", images[3:])):
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(idx(part))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(np.arange(len(part), dtype=np.uint8)))
    options = {"root": str(tmp_path), "download": False, "image_size": None, "cache_dir": str(tmp_path)}
    train = hold_out(load(**options), "test")
    np.testing.assert_array_equal(train.images[:, 0].numpy(), images[:3])  # type: ignore[union-attr]
    assert train.held_out is not None
    np.testing.assert_array_equal(train.held_out.images[:, 0].numpy(), images[3:])
    assert train.held_out.split == "test"
    assert train.fingerprint == load(**options).fingerprint
    (raw / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="needs t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte"):
        hold_out(load(**options), "test")


def test_test_batch_of_cifar10_is_held_out(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for i, name in enumerate(["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"]):
        batch = {"data": np.full((2, 3072), i, np.uint8), "labels": [i, i]}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    options = {"root": str(tmp_path), "download": False, "image_size": None, "cache_dir": str(tmp_path)}
    with pytest.raises(DataError, match="CIFAR-10 needs test_batch of"):
        hold_out(cifar10(**options), "test")
    (folder / "test_batch").write_bytes(pickle.dumps({"data": np.full((3, 3072), 9, np.uint8), "labels": [7] * 3}))
    train = hold_out(cifar10(**options), "test")
    assert train.num_images == 10
    assert train.held_out is not None
    assert train.held_out.images.unique().tolist() == [9]
    assert train.held_out.labels is not None
    assert train.held_out.labels.tolist() == [7, 7, 7]


@pytest.mark.parametrize(
    ("holdout", "message"),
    [
        (0, "holdout=0: must be a number between 0 and 1, test, or null"),
        (1.0, "holdout=1.0: must be a number between 0 and 1"),
        (True, "holdout=True: must be"),
        ("validation", "holdout=validation: must be"),
        ("test", "holdout=test: digits has no test split; use a fraction such as 0.05"),
        (1e-5, "of 10,000 images, 0 would be held out; at least one"),
    ],
)
def test_other_values_are_refused(holdout: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        hold_out(digits(image_size=None), holdout)


def test_distributions_have_nothing_to_hold_out() -> None:
    with pytest.raises(ConfigError, match="gaussian draws new samples for every batch"):
        hold_out(gaussian(mean=0.0, std=1.0), 0.05)
    assert hold_out(gaussian(mean=0.0, std=1.0), None).held_out is None
