"""CIFAR-10, read from the published batches: binary files, or pickles, but loading them here runs no code."""

import hashlib
import logging
import pickle
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int64, UInt8

from gantrain.datasets.arrays import array_dataset, check_labels
from gantrain.datasets.base import ImageDataset
from gantrain.datasets.download import obtain
from gantrain.datasets.untrusted import open_regular, printable
from gantrain.errors import DataError

logger = logging.getLogger(__name__)
MAX_BYTES = 64 * 2**20  # twice a published batch; unpickled objects take many times the bytes of their pickle
_NUM_CLASSES = 10
_FOLDER, _BINARY_FOLDER = "cifar-10-batches-py", "cifar-10-batches-bin"
_IMAGE_BYTES = 3 * 32 * 32
# Opcodes that no batch contains: for objects, sets, buffers, extension codes and persistent ids.
_FORBIDDEN_OPCODES = (
    *(pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4),
    *(pickle.PERSID, pickle.BINPERSID, pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET),
    *(pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
)
# SHA-256 of label and pixels, image by image, as in the published binary batches. The pickles are not hashed, because
# other versions of Python pickle the same data differently.
_SHA256 = {
    "data_batch_1": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "test_batch": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
}
_FILES = {"train": tuple(_SHA256)[:5], "test": ("test_batch",)}


def cifar10(*, root: str, download: bool, image_size: int | None, cache_dir: str) -> ImageDataset:
    """Load the 50,000 training images of CIFAR-10, 32x32 RGB, with labels 0 to 9.

    Reads the Python batches, or where these are missing, the binary batches.

    Raises:
        ConfigError: image_size is below 1, or the cache cannot be written.
        DataError: the files are missing and cannot be downloaded, or are broken.

    Source: Krizhevsky 2009, "Learning multiple layers of features from tiny images".
    """
    folder, cache = Path(root).expanduser() / _FOLDER, Path(cache_dir).expanduser()
    dataset = _load(folder, "train", download=download, image_size=image_size, cache_dir=cache)
    dataset.load_test_split = lambda: _load(folder, "test", download=download, image_size=image_size, cache_dir=cache)
    return dataset


def _load(folder: Path, split: str, *, download: bool, image_size: int | None, cache_dir: Path) -> ImageDataset:
    paths = [folder / name for name in _FILES[split]]
    binary = [folder.with_name(_BINARY_FOLDER) / f"{name}.bin" for name in _FILES[split]]
    if not all(path.exists() for path in paths) and all(path.exists() for path in binary):
        paths = binary
    elif not all(path.exists() for path in paths):
        names = "data_batch_1 to data_batch_5" if split == "train" else "test_batch"
        needs = f"CIFAR-10 needs {names} of cifar-10-python.tar.gz in {folder}"
        needs += f", or of cifar-10-binary.tar.gz in {binary[0].parent}"
        obtain(needs, folder=folder, download=download, fetch=_fetch)
    batches = [read_binary(path) if path.suffix else read_batch(path) for path in paths]
    images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    altered = [path.name for path, batch in zip(paths, batches, strict=True) if _sha256(*batch) != _SHA256[path.stem]]
    if altered:
        logger.warning("%s: %s differ from the published pixels or labels.", paths[0].parent, ", ".join(altered))
    return array_dataset(
        "cifar10",
        images,
        labels,
        num_classes=_NUM_CLASSES,
        image_size=image_size,
        cache_dir=cache_dir,
    )


def read_binary(
    path: Path, *, num_label_bytes: int = 1, which: int = 0, num_classes: int = _NUM_CLASSES
) -> tuple[UInt8[np.ndarray, "n 3 32 32"], Int64[np.ndarray, " n"]]:
    """Read the images and labels of one binary batch: for each image its label bytes, then its pixels.

    Args:
        which: of the label bytes.

    Raises:
        DataError: the file is not such a batch.
    """
    try:
        with open_regular(path, max_bytes=4 * MAX_BYTES) as file:
            content = np.frombuffer(file.read(), np.uint8)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    row = num_label_bytes + _IMAGE_BYTES
    if len(content) % row:
        raise DataError(
            f"{path} has {len(content):,} bytes, which is not a multiple of {row:,}, those of an image; replace it."
        )
    rows = content.reshape(-1, row)
    labels = check_labels(str(path), rows[:, which], num_images=len(rows), num_classes=num_classes)
    return np.ascontiguousarray(rows[:, num_label_bytes:]).reshape(-1, 3, 32, 32), labels


def read_batch(
    path: Path, *, key: str = "labels", num_classes: int = _NUM_CLASSES, max_bytes: int = MAX_BYTES
) -> tuple[UInt8[np.ndarray, "n 3 32 32"], Int64[np.ndarray, " n"]]:
    """Read the images and labels of one Python batch.

    Args:
        key: of the labels.

    Raises:
        DataError: the file is not such a batch, or tries to run code.
    """
    try:
        with open_regular(path, max_bytes=max_bytes) as file:
            batch = _BatchUnpickler(file.read(max_bytes)).load()
        data, labels = _unwrap(batch["data"]), _unwrap(batch[key])
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except _RefusedError as error:
        raise DataError(f"{path} asks for {error}, which no batch needs; no code was run. Replace the file.") from error
    except Exception as error:  # a broken pickle can raise any exception
        reason = f"{type(error).__name__}: {printable(error)}"
        raise DataError(f"{path} is not a batch of CIFAR-{num_classes} ({reason}); replace it.") from error
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != _IMAGE_BYTES:
        found = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise DataError(f"{path}: the pixels must be uint8 (n, 3072), not {found}; replace it.")
    if isinstance(labels, list) and all(isinstance(label, int) for label in labels):
        labels = np.asarray(labels)
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu":
        raise DataError(f"{path}: the labels must be a list of whole numbers; replace it.")
    labels = check_labels(str(path), labels, num_images=len(data), num_classes=num_classes)
    return data.reshape(-1, 3, 32, 32), labels


class _RefusedError(Exception):
    """The pickle asks for something other than arrays."""


class _Dtype:
    """Replaces numpy.dtype, whose pickled state can declare numbers to be pointers."""

    def __init__(self, code: object, align: object, copy: object):
        if code not in ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8"):
            raise ValueError("an array of something other than whole numbers")
        self.dtype: Any = np.dtype(str(code))

    def __setstate__(self, state: Any) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Replaces numpy.ndarray and _reconstruct, which would allocate an array of any shape that the pickle names."""

    def __init__(self, kind: object, shape: object, code: object):
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, content = state
        # The strings of Python 2 were bytes; the unpickler decodes them to text as latin1.
        content = content.encode("latin1") if isinstance(content, str) else content
        self.value = np.frombuffer(content, dtype.dtype).reshape(shape, order="F" if is_fortran else "C")


def _unwrap(value: Any) -> Any:
    return value.value if isinstance(value, _Array) else value


def _with_text_keys(opcode: bytes, keys: slice) -> Callable[[Any], None]:
    load = pickle._Unpickler.dispatch[opcode[0]]

    def checked(unpickler: Any) -> None:
        # Only text, because hashing nested tuples takes time that doubles with each level.
        if not all(isinstance(key, str) for key in unpickler.stack[keys]):
            raise ValueError("a key that is not text")
        load(unpickler)

    return checked


# Python's implementation, because the one in C allocates a memo as long as the highest index in the pickle.
class _BatchUnpickler(pickle._Unpickler):
    """Loads arrays and plain values, and refuses every other name: a pickle can call any function that it names."""

    def __init__(self, content: bytes):
        super().__init__(BytesIO(content), encoding="latin1")
        encoded: dict[str, bytes] = {}  # or a small pickle could make many copies of one large text

        def encode(text: object, encoding: object) -> bytes:
            # Protocol 2 writes bytes this way. Other codecs are refused, because looking one up can import a module.
            if not isinstance(text, str) or encoding != "latin1":
                raise ValueError("an encoding other than latin1")
            if text not in encoded:
                encoded[text] = text.encode("latin1")
            return encoded[text]

        # Built anew for each pickle, because a pickle can set attributes of the functions that it can name.
        self._known = {
            ("numpy.core.multiarray", "_reconstruct"): _Array,
            ("numpy._core.multiarray", "_reconstruct"): _Array,
            ("numpy", "ndarray"): _Array,
            ("numpy", "dtype"): _Dtype,
            ("_codecs", "encode"): encode,
        }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._known:
            raise _RefusedError(printable(f"{module}.{name}"))
        return self._known[module, name]

    def _refuse(self) -> None:
        raise _RefusedError("objects other than arrays")

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **pickle._Unpickler.dispatch,
        **dict.fromkeys((opcode[0] for opcode in _FORBIDDEN_OPCODES), _refuse),
        pickle.DICT[0]: _with_text_keys(pickle.DICT, slice(0, None, 2)),
        pickle.SETITEM[0]: _with_text_keys(pickle.SETITEM, slice(-2, -1)),
        pickle.SETITEMS[0]: _with_text_keys(pickle.SETITEMS, slice(0, None, 2)),
    }


def _sha256(images: UInt8[np.ndarray, "n 3 32 32"], labels: Int64[np.ndarray, " n"]) -> str:
    rows = np.concatenate([labels[:, None].astype(np.uint8), images.reshape(len(images), -1)], axis=1)
    return hashlib.sha256(rows.data).hexdigest()


def _fetch(scratch: Path) -> Path:
    from torchvision.datasets import CIFAR10  # takes two seconds
    from torchvision.datasets.utils import download_and_extract_archive

    download_and_extract_archive(CIFAR10.url, scratch, md5=CIFAR10.tgz_md5)
    return scratch / _FOLDER
