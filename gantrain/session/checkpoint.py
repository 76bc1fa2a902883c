"""Write and read checkpoints; session.snapshot has what they hold.

A checkpoint is a file of torch.save, so torch.load can read it. Its sha256 is appended as the comment at the end of the
zip archive, and a file with a wrong checksum is rejected.
"""

import hashlib
import logging
import os
import pickle
import re
import struct
import zipfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from types import NoneType
from typing import IO, Any

import torch
from torch import Tensor

from gantrain.errors import ConfigError, DataError
from gantrain.files import atomic_write

logger = logging.getLogger(__name__)

FORMAT = 1
"""Version of the content; increase it when older versions of gantrain could not read the content any more."""

_MARK = b"sha256:"
_COMMENT_BYTES = len(_MARK) + 64
_BLOCK_BYTES = 1 << 20
_TYPES = {
    "version": str,
    **dict.fromkeys(("step", "steps_planned"), int),
    "batches_seen": int,
    "rollbacks": int,
    "seconds": float,
    "image_shape": list,
    "fingerprint": str,
    **dict.fromkeys(
        ("config", "G", "D", "G_optimizer", "D_optimizer", "optimizers", "regularizers", "callbacks"), dict
    ),
}

Content = dict[str, Any]


def map_tensors(function: Callable[[Tensor], Tensor], content: Any) -> Any:
    """Copy nested dicts, lists and tuples, and apply the function to every tensor."""
    if isinstance(content, Tensor):
        return function(content)
    if isinstance(content, dict):
        return {key: map_tensors(function, value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return type(content)(map_tensors(function, value) for value in content)
    return content


def tensors(content: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in nested dicts, lists and tuples, with their dotted keys."""
    if isinstance(content, Tensor):
        yield name, content
    elif isinstance(content, dict | list | tuple):
        items = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in items:
            yield from tensors(value, f"{name}.{key}" if name else str(key))


class DamagedError(DataError):
    """The bytes of a checkpoint are not those that were written; an older checkpoint may be intact."""


class _HashingFile:
    """Writes to a file and computes the sha256 of everything that was written."""

    def __init__(self, file: IO[bytes]):
        self.file, self.digest = file, hashlib.sha256()

    def write(self, data: bytes | memoryview) -> int:
        self.digest.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def require_serializable(content: Any, name: str = "") -> None:
    """Check that the content can be read again without running code: tensors and plain Python values.

    Args:
        name: dotted key of the content, for messages.

    Raises:
        ConfigError: a value has another type.
    """
    if isinstance(content, dict | list | tuple):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            require_serializable(value, f"{name}.{key}" if name else str(key))
    elif not isinstance(content, Tensor) and type(content) not in (int, float, str, bool, NoneType):
        raise ConfigError(
            f"{name} is a {type(content).__module__}.{type(content).__name__}, which a checkpoint cannot hold; convert "
            "it to a tensor, a number or a string, for example with float(...)."
        )


def write(path: Path, content: Content) -> None:
    """Write a checkpoint atomically: an existing file stays until the new one is complete.

    Raises:
        ConfigError: the content has a value that a checkpoint cannot hold.
        OSError: the file could not be written; an existing one is unchanged.
    """
    require_serializable(content)
    with atomic_write(path) as file:
        hashing = _HashingFile(file)
        torch.save(content, hashing)  # type: ignore[arg-type]
        file.seek(-2, os.SEEK_END)  # the last field of a zip archive: the length of its comment
        file.write(struct.pack("<H", _COMMENT_BYTES) + _MARK + hashing.digest.hexdigest().encode())


def read(path: Path) -> Content:
    """Read a checkpoint with all tensors on the CPU; code in the file is not run.

    Raises:
        DamagedError: the bytes of the file are not those that were written.
        DataError: the file does not exist, or is not a checkpoint that this version of gantrain can read.
    """
    try:
        has_checksum = _verify(path)
        _check_records(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such checkpoint; look in the folder {path.parent}.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error
    except pickle.UnpicklingError as error:
        raise DataError(f"{path} contains code, which no checkpoint needs; it was not run.") from error
    except Exception as error:  # damaged bytes can raise any exception
        raise DamagedError(f"{path} is damaged or not a checkpoint of gantrain ({_first_line(error)}).") from error
    _check_content(path, content)
    if not has_checksum:
        raise DamagedError(f"{path} is damaged: its checksum is missing.")
    return dict(content)


def _verify(path: Path) -> bool:
    """Check the checksum and raise ValueError if it is wrong; return False if the file has none."""
    with path.open("rb") as file:
        num_bytes = file.seek(0, os.SEEK_END) - _COMMENT_BYTES
        if num_bytes < 22:  # the size of an empty zip archive
            raise ValueError("it is truncated")
        file.seek(num_bytes - 2)
        length, comment = file.read(2), file.read()
        if not comment.startswith(_MARK) or length != struct.pack("<H", _COMMENT_BYTES):
            return False
        file.seek(0)
        digest, rest = hashlib.sha256(), num_bytes - 2
        while rest:
            block = file.read(min(rest, _BLOCK_BYTES))
            if not block:
                raise ValueError("it is truncated")
            digest.update(block)
            rest -= len(block)
    digest.update(b"\0\0")  # the length of the comment as torch.save wrote it
    if digest.hexdigest().encode() != comment[len(_MARK) :]:
        raise ValueError("its checksum is wrong")
    return True


def _check_records(path: Path) -> None:
    # torch.save does not compress records; a compressed one could unpack to any size.
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    if any(r.compress_type != zipfile.ZIP_STORED for r in records) or (
        sum(r.file_size for r in records) > path.stat().st_size
    ):
        raise ValueError("its records are compressed or overlap")


def _check_content(path: Path, content: Any) -> None:
    if not isinstance(content, dict) or not {"G", "D", "step"} <= content.keys():
        raise DataError(f"{path} is not a checkpoint of gantrain: it has no networks.")
    found = content.get("format", 0)
    if found != FORMAT:
        age = "an older" if isinstance(found, int) and found < FORMAT else "a newer"
        raise DataError(
            f"{path} was written by gantrain {content.get('version')} in {age} format ({found}; this is gantrain "
            f"{version('gantrain')}, format {FORMAT}); use that version."
        )
    wrong = [name for name, kind in _TYPES.items() if not isinstance(content.get(name), kind)]
    if wrong:
        raise DataError(f"{path} is not a checkpoint of gantrain: {', '.join(wrong)} is missing or has a wrong type.")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def paths(folder: Path) -> list[Path]:
    """List the checkpoints of a run in the order of their steps, without best.pt."""
    found = (folder / "checkpoints").glob("step_*.pt")
    return sorted((path for path in found if re.fullmatch(r"step_\d{8,}", path.stem)), key=step_of)


def step_of(path: Path) -> int:
    """Return the step in the name of a checkpoint or a picture, such as step_00001000.pt."""
    return int(path.stem.removeprefix("step_"))


def newest(folder: Path) -> tuple[Path, Content] | None:
    """Read the newest intact checkpoint of a run, or return None if it has none; log a warning for each damaged one.

    Raises:
        DataError: all checkpoints are damaged, or one has another format or cannot be read.
    """
    found = paths(folder)
    for path in reversed(found):
        try:
            return path, read(path)
        except DamagedError as error:
            failure = error
            logger.warning("%s Using the checkpoint before it.", error)
    if found:
        raise DataError(f"{folder}: none of its {len(found)} checkpoints can be read. {failure}")
    return None


def find(path: str | Path) -> tuple[Path, Content]:
    """Read a checkpoint file, or the newest checkpoint in the folder of a run.

    Raises:
        DataError: there is no readable checkpoint.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return path, read(path)
    found = newest(path)
    if found is None:
        raise DataError(
            f"{path} has no checkpoint (checkpoints/step_*.pt). Name a run that has one: checkpoints are written every "
            "checkpoint.every steps and at the end."
        )
    return found
