"""MNIST and FashionMNIST, stored on disk as torchvision does."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8

from gantrain.datasets.arrays import array_dataset, check_labels
from gantrain.datasets.base import ImageDataset
from gantrain.datasets.download import obtain
from gantrain.datasets.idx import read_idx
from gantrain.errors import DataError

Split = Literal["train", "test"]
_FILES: dict[Split, tuple[str, str]] = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_NUM_CLASSES = 10


def mnist(*, root: str, download: bool, image_size: int | None, cache_dir: str) -> ImageDataset:
    """Load the 60,000 training images of MNIST, 28x28 gray, with labels 0 to 9.

    Raises:
        ConfigError: image_size is below 1, or the cache cannot be written.
        DataError: the files are missing and cannot be downloaded, or are broken.

    Source: LeCun, Cortes, Burges 1998, "The MNIST database of handwritten digits".
    """
    files = Files("MNIST", Path(root).expanduser() / "MNIST" / "raw", download)
    return _dataset("mnist", files, image_size, Path(cache_dir).expanduser(), features="digits")


def fashion_mnist(*, root: str, download: bool, image_size: int | None, cache_dir: str) -> ImageDataset:
    """Load the 60,000 training images of FashionMNIST, 28x28 gray, with labels 0 to 9 for kinds of clothing.

    Raises:
        ConfigError: image_size is below 1, or the cache cannot be written.
        DataError: the files are missing and cannot be downloaded, or are broken.

    Source: Xiao, Rasul, Vollgraf 2017, "Fashion-MNIST".
    """
    folder = Path(root).expanduser() / "FashionMNIST" / "raw"
    files = Files("FashionMNIST", folder, download)
    return _dataset("fashion_mnist", files, image_size, Path(cache_dir).expanduser(), features="inception")


def read_mnist(root: Path, *, download: bool) -> tuple[UInt8[np.ndarray, "n 1 h w"], Int64[np.ndarray, " n"]]:
    """Read the training images of MNIST and their labels.

    Args:
        root: the folder that holds MNIST/raw.
        download: whether missing files may be downloaded.

    Raises:
        DataError: the files are missing and cannot be downloaded, or are broken.
    """
    return _read(Files("MNIST", root / "MNIST" / "raw", download), "train")


class Files(NamedTuple):
    """The folder of a dataset's files, and the name of torchvision's class that downloads them."""

    kind: str
    folder: Path
    download: bool


def _dataset(
    name: str, files: Files, image_size: int | None, cache_dir: Path, *, features: str, split: Split = "train"
) -> ImageDataset:
    images, labels = _read(files, split)
    options: Any = {"image_size": image_size, "cache_dir": cache_dir, "features": features}
    dataset = array_dataset(name, images, labels, num_classes=_NUM_CLASSES, **options)
    if split == "train":
        dataset.load_test_split = lambda: _dataset(name, files, image_size, cache_dir, features=features, split="test")
    return dataset


def _read(files: Files, split: Split) -> tuple[UInt8[np.ndarray, "n 1 h w"], Int64[np.ndarray, " n"]]:
    kind, folder, download = files

    def fetch(scratch: Path) -> Path:
        import torchvision  # takes two seconds

        return Path(getattr(torchvision.datasets, kind)(scratch, download=True).raw_folder)

    stems = _FILES[split]
    if not all(_find(folder, stem) for stem in stems):
        needs = f"{kind} needs {' and '.join(stems)} (plain or .gz) in {folder}"
        if all(_find(folder.parents[1], stem) for stem in stems):
            needs += f" (those in {folder.parents[1]} itself may be of another dataset)"
        obtain(needs, folder=folder, download=download, fetch=fetch)
    paths = [_find(folder, stem) or folder / stem for stem in stems]
    images, labels = map(read_idx, paths)
    if images.ndim != 3:
        raise DataError(f"{paths[0]} has {images.ndim} dimensions, not 3; replace it.")
    labels = check_labels(str(paths[1]), labels, num_images=len(images), num_classes=_NUM_CLASSES)
    return images[:, None], labels


def _find(folder: Path, stem: str) -> Path | None:
    # Some archives have a dot in place of the second dash, or a folder for each file, with its name.
    names = [f"{name}{suffix}" for name in (stem, stem.replace("-idx", ".idx")) for suffix in ("", ".gz")]
    for place in (folder, folder.parent):
        for name in names:
            for path in (place / name, *(place / name / inner for inner in names)):
                if path.exists() and not path.is_dir():
                    return path
    return None
