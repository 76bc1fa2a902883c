"""MNIST and FashionMNIST, stored on disk as torchvision does."""

from pathlib import Path

import numpy as np
import torchvision
from jaxtyping import Int64, UInt8

from gantrain.datasets.arrays import array_dataset, check_labels
from gantrain.datasets.base import ImageDataset
from gantrain.datasets.download import obtain
from gantrain.datasets.idx import read_idx
from gantrain.errors import DataError

_IMAGES, _LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
_NUM_CLASSES = 10


def mnist(*, root: str, download: bool, image_size: int | None, cache_dir: str) -> ImageDataset:
    """Load the 60,000 training images of MNIST, 28x28 gray, with labels 0 to 9.

    Raises:
        ConfigError: image_size is below 1, or the cache cannot be written.
        DataError: the files are missing and cannot be downloaded, or are broken.

    Source: LeCun, Cortes, Burges 1998, "The MNIST database of handwritten digits".
    """
    images, labels = read_mnist(Path(root).expanduser(), download=download)
    return array_dataset(
        "mnist",
        images,
        labels,
        num_classes=_NUM_CLASSES,
        image_size=image_size,
        cache_dir=Path(cache_dir).expanduser(),
        features="digits",
    )


def fashion_mnist(*, root: str, download: bool, image_size: int | None, cache_dir: str) -> ImageDataset:
    """Load the 60,000 training images of FashionMNIST, 28x28 gray, with labels 0 to 9 for kinds of clothing.

    Raises:
        ConfigError: image_size is below 1, or the cache cannot be written.
        DataError: the files are missing and cannot be downloaded, or are broken.

    Source: Xiao, Rasul, Vollgraf 2017, "Fashion-MNIST".
    """
    folder = Path(root).expanduser() / "FashionMNIST" / "raw"
    images, labels = _read(torchvision.datasets.FashionMNIST, folder, download)
    return array_dataset(
        "fashion_mnist",
        images,
        labels,
        num_classes=_NUM_CLASSES,
        image_size=image_size,
        cache_dir=Path(cache_dir).expanduser(),
    )


def read_mnist(root: Path, *, download: bool) -> tuple[UInt8[np.ndarray, "n 1 h w"], Int64[np.ndarray, " n"]]:
    """Read the training images of MNIST and their labels.

    Args:
        root: the folder that holds MNIST/raw.
        download: whether missing files may be downloaded.

    Raises:
        DataError: the files are missing and cannot be downloaded, or are broken.
    """
    return _read(torchvision.datasets.MNIST, root / "MNIST" / "raw", download)


def _read(
    publisher: type[torchvision.datasets.MNIST], folder: Path, download: bool
) -> tuple[UInt8[np.ndarray, "n 1 h w"], Int64[np.ndarray, " n"]]:
    def fetch(scratch: Path) -> Path:
        return Path(publisher(scratch, download=True).raw_folder)

    if not all(_find(folder, stem).exists() for stem in (_IMAGES, _LABELS)):
        needs = f"{publisher.__name__} needs {_IMAGES} and {_LABELS} (plain or .gz) in {folder}"
        obtain(needs, folder=folder, download=download, fetch=fetch)
    images, labels = read_idx(_find(folder, _IMAGES)), read_idx(_find(folder, _LABELS))
    if images.ndim != 3:
        raise DataError(f"{_find(folder, _IMAGES)} has {images.ndim} dimensions, not 3; replace it.")
    labels = check_labels(str(_find(folder, _LABELS)), labels, num_images=len(images), num_classes=_NUM_CLASSES)
    return images[:, None], labels


def _find(folder: Path, stem: str) -> Path:
    plain = folder / stem
    return plain if plain.exists() else folder / f"{stem}.gz"
