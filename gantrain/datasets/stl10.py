"""STL-10, read from the published binary files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int64, UInt8

from gantrain.datasets.arrays import check_labels, resize_array
from gantrain.datasets.base import ImageDataset
from gantrain.datasets.cache import Source, cached
from gantrain.datasets.checks import check_count
from gantrain.datasets.download import obtain
from gantrain.datasets.many_files import listing_of
from gantrain.datasets.untrusted import open_regular
from gantrain.errors import DataError

MAX_BYTES = 8 * 2**30
_FOLDER = "stl10_binary"
_NUM_CLASSES, _SIZE = 10, 96
_FILES = {
    "train": ("train_X.bin", "train_y.bin"),
    "test": ("test_X.bin", "test_y.bin"),
    "unlabeled": ("unlabeled_X.bin",),
}
Split = Literal["unlabeled", "train", "train+unlabeled"]


def stl10(*, root: str, split: Split, download: bool, image_size: int | None, cache_dir: str) -> ImageDataset:
    """Load images of STL-10, published as 96x96 RGB.

    Args:
        split: "unlabeled": 100,000 images. "train": 5,000 images with labels 0 to 9. "train+unlabeled": both, without
            labels.
        image_size: resize to squares of this size; None: the native size.

    Raises:
        ConfigError: image_size is below 1, or the cache cannot be written.
        DataError: the files are missing and cannot be downloaded, or are broken.

    Source: Coates, Lee, Ng 2011, "An analysis of single-layer networks in unsupervised feature learning".
    """
    if image_size is not None:
        check_count("image_size", image_size)
    folder, cache = Path(root).expanduser() / _FOLDER, Path(cache_dir).expanduser()
    dataset = _load(folder, split.split("+"), image_size or _SIZE, cache, download=download)
    dataset.load_test_split = lambda: _load(folder, ["test"], image_size or _SIZE, cache, download=download)
    return dataset


def _load(folder: Path, splits: Sequence[str], size: int, cache_dir: Path, *, download: bool) -> ImageDataset:
    paths = [folder / name for split in splits for name in _FILES[split]]
    if not all(path.exists() for path in paths):
        needs = f"STL-10 needs {' and '.join(path.name for path in paths)} of {_FOLDER}.tar.gz in {folder}"
        obtain(needs, folder=folder, download=download, fetch=_fetch)
    parts = [_map_images(folder / _FILES[split][0]) for split in splits]
    labels = _read_labels(folder / _FILES[splits[0]][1], len(parts[0])) if splits in (["train"], ["test"]) else None
    first = len(parts[0])

    def decode(i: int) -> UInt8[np.ndarray, "3 h w"]:
        image = parts[0][i] if i < first else parts[1][i - first]
        upright = np.ascontiguousarray(image.transpose(0, 2, 1))  # stored column by column
        return upright if size == _SIZE else resize_array(upright, size)

    source = Source(
        name="stl10",
        origin=str(folder),
        names=[f"image {i}" for i in range(sum(map(len, parts)))],
        listing=listing_of(paths, folder),
        preprocessing={"resize": size},
        image_shape=(3, size, size),
        labels=labels,
        num_classes=None if labels is None else _NUM_CLASSES,
        decode=decode,
    )
    return cached(source, cache_dir=cache_dir, max_bad_fraction=0.0)


def _map_images(path: Path) -> UInt8[np.ndarray, "n 3 96 96"]:
    try:
        with open_regular(path, max_bytes=MAX_BYTES) as file:
            content = np.memmap(file, np.uint8, "r")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise DataError(f"{path} is empty; replace it.") from error
    row = 3 * _SIZE * _SIZE
    if len(content) % row:
        raise DataError(
            f"{path} has {len(content):,} bytes, which is not a multiple of {row:,}, those of an image; replace it."
        )
    return content.reshape(-1, 3, _SIZE, _SIZE)


def _read_labels(path: Path, num_images: int) -> Int64[np.ndarray, " n"]:
    try:
        with open_regular(path, max_bytes=num_images + 1) as file:
            labels = np.frombuffer(file.read(), np.uint8).astype(np.int64) - 1  # stored from 1 to 10
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    return check_labels(str(path), labels, num_images=num_images, num_classes=_NUM_CLASSES)


def _fetch(scratch: Path) -> Path:
    from torchvision.datasets import STL10  # takes two seconds
    from torchvision.datasets.utils import download_and_extract_archive

    download_and_extract_archive(STL10.url, scratch, filename=STL10.filename, md5=STL10.tgz_md5)
    return scratch / _FOLDER
