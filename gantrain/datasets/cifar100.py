"""CIFAR-100, read from the published binary files, or from pickles without running code in them."""

from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int64, UInt8

from gantrain.datasets.arrays import array_dataset
from gantrain.datasets.base import ImageDataset
from gantrain.datasets.cifar10 import MAX_BYTES, read_batch, read_binary
from gantrain.datasets.download import obtain

_FOLDER, _BINARY_FOLDER = "cifar-100-python", "cifar-100-binary"
_NUM_CLASSES = {"fine": 100, "coarse": 20}
Labels = Literal["fine", "coarse"]


def cifar100(*, root: str, labels: Labels, download: bool, image_size: int | None, cache_dir: str) -> ImageDataset:
    """Load the 50,000 training images of CIFAR-100, 32x32 RGB.

    Args:
        labels: "fine": 0 to 99; "coarse": their 20 superclasses.

    Raises:
        ConfigError: image_size is below 1, or the cache cannot be written.
        DataError: the files are missing and cannot be downloaded, or are broken.

    Source: Krizhevsky 2009, "Learning multiple layers of features from tiny images".
    """

    def load(split: str) -> ImageDataset:
        images, classes = _read(Path(root).expanduser(), split, labels, download=download)
        return array_dataset(
            "cifar100",
            images.copy(),  # those of a pickle cannot be written to, which torch warns of
            classes,
            num_classes=_NUM_CLASSES[labels],
            image_size=image_size,
            cache_dir=Path(cache_dir).expanduser(),
        )

    dataset = load("train")
    dataset.load_test_split = lambda: load("test")
    return dataset


def _read(
    root: Path, split: str, labels: Labels, *, download: bool
) -> tuple[UInt8[np.ndarray, "n 3 32 32"], Int64[np.ndarray, " n"]]:
    path, binary = root / _FOLDER / split, root / _BINARY_FOLDER / f"{split}.bin"
    if binary.exists() and not path.exists():
        which = ("coarse", "fine").index(labels)
        return read_binary(binary, num_label_bytes=2, which=which, num_classes=_NUM_CLASSES[labels])
    if not path.exists():
        needs = f"CIFAR-100 needs the file {split} of cifar-100-python.tar.gz in {path.parent}, or {split}.bin of "
        needs += f"cifar-100-binary.tar.gz in {binary.parent}"
        obtain(needs, folder=path.parent, download=download, fetch=_fetch)
    return read_batch(path, key=f"{labels}_labels", num_classes=_NUM_CLASSES[labels], max_bytes=4 * MAX_BYTES)


def _fetch(scratch: Path) -> Path:
    from torchvision.datasets import CIFAR100  # takes two seconds
    from torchvision.datasets.utils import download_and_extract_archive

    download_and_extract_archive(CIFAR100.url, scratch, md5=CIFAR100.tgz_md5)
    return scratch / _FOLDER
