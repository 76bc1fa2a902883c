"""Single arrays in .npz files. Nothing in them is unpickled."""

import math
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gantrain.datasets.kinds import remedy
from gantrain.datasets.untrusted import open_regular, printable
from gantrain.errors import DataError
from gantrain.files import WriteError, require_space, writing

MAX_LABEL_BYTES = 256 * 2**20
BLOCK_BYTES = 2**24


@dataclass(frozen=True)
class Array:
    """An array in an .npz.

    Attributes:
        start: number of bytes before its numbers, in the file of the archive that holds it.
    """

    path: Path
    member: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: Literal["C", "F"]
    start: int

    @property
    def num_bytes(self) -> int:
        """Return the size of the numbers."""
        return math.prod(self.shape) * self.dtype.itemsize

    @classmethod
    def of(cls, archive: zipfile.ZipFile, path: Path, name: str) -> "Array":
        """Read the header.

        Raises:
            DataError: it is not an array of numbers or text, or not of the size of its file.
        """
        info = archive.getinfo(f"{name}.npy")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(f"{path}: {name} is neither stored nor deflated; write it with np.savez.")
        with archive.open(info) as member:
            version = np.lib.format.read_magic(member)
            read: Any = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, is_fortran, dtype = read(member)
            array = cls(path, info.filename, shape, dtype, "F" if is_fortran else "C", member.tell())
        if dtype.kind not in "buifU":
            raise DataError(f"{path}: {name} holds {printable(dtype)}, neither numbers nor texts; convert it.")
        if any(side < 0 for side in shape) or array.start + array.num_bytes != info.file_size:
            raise DataError(f"{path}: {name} is not of the size that its header says; replace the file.")
        return array

    def read(self) -> np.ndarray:
        """Read a small array into memory."""
        if self.num_bytes > MAX_LABEL_BYTES:
            raise DataError(f"{self.path}: {self.member} takes {self.num_bytes:,} bytes, too many for labels.")
        with opened(self.path) as archive, archive.open(self.member) as member:
            content = member.read(self.start + self.num_bytes)[self.start :]
        return np.frombuffer(content, self.dtype).reshape(self.shape, order=self.order)

    @contextmanager
    def mapped(self, folder: Path) -> Iterator[np.ndarray]:
        """Map the array into memory; one that is compressed is decompressed to a temporary file without a name.

        Args:
            folder: of the temporary file.
        """
        with ExitStack() as stack:
            with opened(self.path) as archive:
                info = archive.getinfo(self.member)
                if info.compress_type == zipfile.ZIP_STORED:
                    file: Any = stack.enter_context(open_regular(self.path))
                    start = self.start + start_of_member(file, info)
                else:
                    require_space(folder, self.num_bytes, f"A temporary copy of {self.member} in {self.path}")
                    with writing():
                        file, start = stack.enter_context(temporary(folder)), 0
                    with archive.open(info) as member:
                        member.read(self.start)
                        copy(member, file, self.num_bytes)
                mapped = np.memmap(file, self.dtype, "r", start, self.shape, self.order)
            yield mapped


def temporary(folder: Path) -> AbstractContextManager[Any]:
    """Make a temporary file without a name."""
    return tempfile.TemporaryFile(dir=folder, prefix=".arrays-", suffix=".tmp")


def start_of_member(file: Any, info: zipfile.ZipInfo) -> int:
    """Return where the content of a stored member starts in the file of the zip, and check that it ends in the file."""
    file.seek(info.header_offset)
    header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile("a member has no header")
    start = info.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
    if start + info.file_size > os.fstat(file.fileno()).st_size:
        raise EOFError("an array is shorter than its header says")
    return int(start)


def copy(source: Any, target: Any, num_bytes: int) -> None:
    """Copy exactly so many bytes."""
    while num_bytes:
        content = source.read(min(BLOCK_BYTES, num_bytes))
        if not content:
            raise EOFError("an array is shorter than its header says")
        with writing():
            target.write(content)
        num_bytes -= len(content)
    with writing():
        target.flush()


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an .npz; what a broken one raises in the block becomes a DataError that names the file."""
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            yield archive
    except WriteError:  # of a copy
        raise
    except (
        OSError,
        EOFError,
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
        RuntimeError,
    ) as error:  # RuntimeError: encrypted
        reason = error.strerror if isinstance(error, OSError) and error.strerror else printable(error)
        raise DataError(f"{path} is not a readable .npz ({reason}); {remedy(path, 'npz')}.") from error


def arrays_in(path: Path) -> list[str]:
    """List the names of the arrays in an .npz."""
    with opened(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]
