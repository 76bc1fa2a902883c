"""Read the IDX format of the MNIST datasets: a magic number, the dimensions, then bytes."""

import gzip
import math
import struct
import zlib
from io import BufferedIOBase
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from gantrain.datasets.untrusted import open_regular
from gantrain.errors import DataError

MAX_BYTES = 2 * 2**30
_MAX_DIMS = 8
_GZIP_MAGIC = b"\x1f\x8b"
_UNSIGNED_BYTES = 0x08
_BLOCK_BYTES = 2**20


def read_idx(path: Path) -> UInt8[np.ndarray, "..."]:
    """Read an IDX file of unsigned bytes, plain or gzipped.

    Raises:
        DataError: the file is missing or not in this format; the message names it.

    Source: LeCun 1998, "File formats for the MNIST database".
    """
    try:
        with open_regular(path, max_bytes=MAX_BYTES) as file:
            return parse_idx(file, str(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def parse_idx(file: BufferedIOBase, name: str) -> UInt8[np.ndarray, "..."]:
    """Parse the content of an IDX file, plain or gzipped; `name` is for messages.

    Decompresses only as many bytes as the header announces, at most MAX_BYTES.

    Raises:
        DataError: the magic number, the dimensions or the length are wrong.
    """
    is_gzipped = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
    file.seek(0)
    if not is_gzipped:
        return _parse(file, name)
    try:
        return _parse(gzip.GzipFile(fileobj=file), name)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _broken(name, f"its gzip stream does not decompress ({error})") from error


def _parse(file: BufferedIOBase, name: str) -> UInt8[np.ndarray, "..."]:
    magic = file.read(4)
    if len(magic) < 4:
        raise _broken(name, f"it has only {len(magic)} bytes")
    zeros, kind, num_dims = struct.unpack(">HBB", magic)
    if zeros != 0 or kind != _UNSIGNED_BYTES or not 1 <= num_dims <= _MAX_DIMS:
        raise _broken(
            name, f"its magic number is {magic.hex()}; expected 000008 and the number of dimensions (1 to {_MAX_DIMS})"
        )
    dims = file.read(4 * num_dims)
    if len(dims) < 4 * num_dims:
        raise _broken(name, "it ends within its header")
    shape = struct.unpack(f">{num_dims}I", dims)
    size, num_bytes = "x".join(map(str, shape)), math.prod(shape)
    if not 1 <= num_bytes <= MAX_BYTES:
        raise _broken(name, f"its header declares {size} bytes; expected 1 to {MAX_BYTES:,}")
    # Pages take memory only once they are written, so a false size in the header costs nothing.
    pixels = np.empty(num_bytes, np.uint8)
    unread = pixels.data
    while unread and (num_read := file.readinto(unread[:_BLOCK_BYTES])):
        unread = unread[num_read:]
    if unread:
        raise _broken(name, f"it ends after {num_bytes - len(unread):,} of {size} bytes")
    if file.read(1):
        raise _broken(name, f"more than {size} bytes follow its header")
    return pixels.reshape(shape)


def _broken(name: str, reason: str) -> DataError:
    return DataError(f"{name} is not an IDX file of unsigned bytes: {reason}. Replace it, or remove it to download it.")
