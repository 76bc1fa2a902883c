"""CIFAR-10, from the published Python batches, which are pickles: read without running what they say."""

import hashlib
import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import download_and_extract_archive

from gantrain.datasets.arrays import array_dataset, check_labels
from gantrain.datasets.base import ImageDataset
from gantrain.datasets.download import obtain
from gantrain.errors import DataError

logger = logging.getLogger(__name__)
_NUM_CLASSES = 10
# Of label and pixels, image after image, as in the published binary batches: the pickles of other writers hold the
# same data in other bytes.
_SHA256 = {
    "data_batch_1": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
}


def cifar10(*, root: str, download: bool, image_size: int | None, cache_dir: str) -> ImageDataset:
    """The 50,000 training images, 32x32 RGB, labels 0 to 9.

    Raises:
        ConfigError: image_size is below 1, or the cache cannot be written.
        DataError: the files are missing and cannot be downloaded, or are broken.

    Source: Krizhevsky 2009, "Learning multiple layers of features from tiny images".
    """
    folder = Path(root).expanduser() / CIFAR10.base_folder
    paths = [folder / name for name in _SHA256]
    if not all(path.exists() for path in paths):
        needs = f"CIFAR-10 needs data_batch_1 to data_batch_5 of cifar-10-python.tar.gz in {folder}"
        obtain(needs, folder=folder, download=download, fetch=_fetch)
    batches = [read_batch(path) for path in paths]
    images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    altered = [path.name for path, batch in zip(paths, batches, strict=True) if _sha256(*batch) != _SHA256[path.name]]
    if altered:
        logger.warning("%s: %s differ from the published pixels or labels.", folder, ", ".join(altered))
    return array_dataset(
        "cifar10",
        images,
        labels,
        num_classes=_NUM_CLASSES,
        image_size=image_size,
        cache_dir=Path(cache_dir).expanduser(),
    )


def read_batch(path: Path) -> tuple[UInt8[np.ndarray, "n 3 32 32"], Int64[np.ndarray, " n"]]:
    """Images and labels of one batch.

    Raises:
        DataError: the file is not such a batch, or asks for code to be run.
    """
    try:
        with path.open("rb") as file:
            batch = _ArrayUnpickler(file, encoding="latin1").load()
        data, labels = batch["data"], np.asarray(batch["labels"])
    except _RefusedError as error:
        raise DataError(f"{path} asks for {error}, which no batch needs; it was not run. Replace the file.") from error
    except Exception as error:  # broken pickles raise exceptions of every kind
        raise DataError(f"{path} is not a batch of CIFAR-10 ({type(error).__name__}: {error}); replace it.") from error
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        found = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise DataError(f"{path}: the pixels must be uint8 (n, 3072), not {found}; replace it.")
    if labels.dtype.kind not in "iu":
        raise DataError(f"{path}: the labels must be whole numbers, not {labels.dtype}; replace it.")
    labels = check_labels(str(path), labels, num_images=len(data), num_classes=_NUM_CLASSES)
    return data.reshape(-1, 3, 32, 32), labels


class _RefusedError(Exception):
    """The pickle names something else than arrays."""


class _ArrayUnpickler(pickle.Unpickler):
    """Knows what arrays are made of, and refuses every other name: a pickle can name any function to be called."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise _RefusedError(f"{module}.{name}")
        return _ALLOWED[module, name]


def _encode(text: str, encoding: str) -> bytes:
    # How protocol 2 writes bytes. No other codec, because their names are looked up as modules.
    if encoding != "latin1":
        raise ValueError(f"encoding {encoding}")
    return text.encode("latin1")


# Asked of numpy itself, because the module moved in numpy 2.
_reconstruct: Any = np.empty(0, np.uint8).__reduce__()[0]
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
}


def _sha256(images: UInt8[np.ndarray, "n 3 32 32"], labels: Int64[np.ndarray, " n"]) -> str:
    rows = np.concatenate([labels[:, None].astype(np.uint8), images.reshape(len(images), -1)], axis=1)
    return hashlib.sha256(rows.data).hexdigest()


def _fetch(scratch: Path) -> Path:
    download_and_extract_archive(CIFAR10.url, scratch, md5=CIFAR10.tgz_md5)
    return scratch / str(CIFAR10.base_folder)
