"""SVHN, digits cut out of photographs of house numbers, read from the published MATLAB files."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from gantrain.datasets.arrays import array_dataset, check_labels
from gantrain.datasets.base import ImageDataset
from gantrain.datasets.download import obtain
from gantrain.datasets.untrusted import open_regular, printable
from gantrain.errors import DataError

MAX_BYTES = 4 * 2**30
_NUM_CLASSES = 10
Pixels = UInt8[np.ndarray, "n 3 32 32"]


def svhn(*, root: str, extra: bool, download: bool, image_size: int | None, cache_dir: str) -> ImageDataset:
    """Load the 73,257 training images of SVHN, 32x32 RGB, with labels 0 to 9.

    Args:
        extra: also load the 531,131 additional images.

    Raises:
        ConfigError: image_size is below 1, or the cache cannot be written.
        DataError: the files are missing and cannot be downloaded, or are broken.

    Source: Netzer, Wang, Coates, Bissacco, Wu, Ng 2011, "Reading digits in natural images with unsupervised feature
    learning".
    """
    folder = Path(root).expanduser() / "svhn"

    def load(*splits: str) -> ImageDataset:
        parts = [_read(_find(folder, split, download=download)) for split in splits]
        images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return array_dataset(
            "svhn",
            images,
            labels,
            num_classes=_NUM_CLASSES,
            image_size=image_size,
            cache_dir=Path(cache_dir).expanduser(),
        )

    dataset = load("train", *(["extra"] if extra else []))
    dataset.load_test_split = lambda: load("test")
    return dataset


def _find(folder: Path, split: str, *, download: bool) -> Path:
    name = f"{split}_32x32.mat"
    for path in (folder / name, folder.parent / name):  # torchvision stores them without a folder
        if path.exists():
            return path

    def fetch(scratch: Path) -> Path:
        from torchvision.datasets import SVHN  # takes two seconds
        from torchvision.datasets.utils import download_url

        url, name, md5 = SVHN.split_list[split]
        download_url(url, scratch, name, md5)
        return scratch

    obtain(f"SVHN needs {name} in {folder}", folder=folder, download=download, fetch=fetch)
    return folder / name


def _read(path: Path) -> tuple[Pixels, Int64[np.ndarray, " n"]]:
    # scipy's reader of MATLAB files runs no code. The sizes are checked first, since the arrays are compressed.
    from scipy.io import loadmat, whosmat

    try:
        with open_regular(path, max_bytes=MAX_BYTES) as file:
            shapes = {name: (shape, kind) for name, shape, kind in whosmat(file)}
            (shape, kind), (y_shape, _) = shapes["X"], shapes["y"]
            if kind != "uint8" or shape[:3] != (32, 32, 3) or len(shape) != 4 or math.prod(y_shape) != shape[3]:
                raise DataError(
                    f"{path}: X is {kind} {list(shape)}, not uint8 [32, 32, 3, n], or y not one label each; replace it."
                )
            if math.prod(shape) > MAX_BYTES:
                raise DataError(f"{path} expands to {math.prod(shape):,} bytes, more than {MAX_BYTES:,}; replace it.")
            file.seek(0)
            content: dict[str, Any] = loadmat(file, variable_names=["X", "y"])
        pixels, labels = content["X"], np.asarray(content["y"]).reshape(-1)
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or printable(error)}.") from error
    except Exception as error:  # a broken file can raise any exception
        reason = f"{type(error).__name__}: {printable(error)}"
        raise DataError(f"{path} is not a MATLAB file of SVHN ({reason}); replace it.") from error
    if pixels.dtype != np.uint8 or labels.dtype.kind not in "iu":
        raise DataError(f"{path} holds {pixels.dtype} pixels and {labels.dtype} labels, not whole numbers; replace it.")
    labels = np.where(labels == 10, 0, labels.astype(np.int64))  # the file calls the digit 0 ten
    labels = check_labels(str(path), labels, num_images=pixels.shape[3], num_classes=_NUM_CLASSES)
    return np.ascontiguousarray(pixels.transpose(3, 2, 0, 1)), labels
