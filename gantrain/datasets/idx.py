"""The IDX format of the MNIST family: a magic number, the dimensions, then bytes."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from gantrain.errors import DataError

_GZIP_MAGIC = b"\x1f\x8b"
_UNSIGNED_BYTES = 0x08


def read_idx(path: Path) -> UInt8[np.ndarray, "..."]:
    """Read an IDX file of unsigned bytes, plain or gzipped.

    Raises:
        DataError: the file is missing or is not such a file; the message names it.

    Source: LeCun 1998, "File formats for the MNIST database".
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    return parse_idx(content, str(path))


def parse_idx(content: bytes, name: str) -> UInt8[np.ndarray, "..."]:
    """Parse the content of an IDX file, plain or gzipped; `name` is for messages.

    Raises:
        DataError: magic number, dimensions or length are wrong.
    """
    if content.startswith(_GZIP_MAGIC):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise _broken(name, f"its gzip stream does not decompress ({error})") from error
    if len(content) < 4:
        raise _broken(name, f"it has only {len(content)} bytes")
    zeros, kind, num_dims = struct.unpack_from(">HBB", content)
    if zeros != 0 or kind != _UNSIGNED_BYTES or num_dims == 0:
        raise _broken(name, f"its magic number is {content[:4].hex()}, not 000008 and the number of dimensions")
    header = 4 + 4 * num_dims
    if len(content) < header:
        raise _broken(name, "it ends within its header")
    shape = struct.unpack_from(f">{num_dims}I", content, 4)
    expected = header + math.prod(shape)
    if len(content) != expected:
        raise _broken(name, f"{'x'.join(map(str, shape))} bytes and the header are {expected}, not {len(content)}")
    # A copy, because torch warns about arrays that cannot be written.
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy()


def _broken(name: str, reason: str) -> DataError:
    return DataError(f"{name} is not an IDX file of unsigned bytes: {reason}. Replace it, or remove it to download it.")
