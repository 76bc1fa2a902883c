"""Find the values in an LMDB file. Its C library trusts the file, and a broken one would crash the process."""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gantrain.datasets.untrusted import open_regular, printable
from gantrain.errors import DataError

_MAGIC = 0xBEEFC0DE
_HEADER = 16  # bytes at the start of a page
_BRANCH, _LEAF, _META = 0x01, 0x02, 0x08  # flags of pages
_BIG, _SUBDATABASE, _DUPLICATES = 0x01, 0x02, 0x04  # flags of nodes
_NO_PAGE = 2**64 - 1


def values(path: Path) -> Iterator[tuple[bytes, int, int]]:
    """Yield key, offset and number of bytes of each value, in the order of the keys.

    Raises:
        DataError: the file is not a database of LMDB (of a machine with 64 bits, little endian), or is damaged.

    Source: Chu 2011, lmdb's mdb.c: MDB_meta, MDB_page, MDB_node.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            root, page_size = _newest_root(file)
            yield from _walk(file, root, page_size, size)
    except (OSError, ValueError, struct.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else printable(error)
        raise DataError(f"{path} is not a readable LMDB file ({reason}); replace it.") from error


def _newest_root(file: Any) -> tuple[int, int]:
    # The first two pages describe the last two states of the database.
    page_size = struct.unpack("<I", os.pread(file.fileno(), 4, 40))[0]
    if not 512 <= page_size <= 65536 or page_size & (page_size - 1):
        raise ValueError("it has no header")
    states = []
    for number in (0, 1):
        page = os.pread(file.fileno(), 152, number * page_size)
        flags, magic, version = struct.unpack("<10xH4xII", page[:24])
        root, _, transaction = struct.unpack("<QQQ", page[128:152])
        if flags & _META and magic == _MAGIC and version == 1:
            states.append((transaction, root))
    if not states:
        raise ValueError("it has no header of version 1")
    return max(states)[1], page_size


def _walk(file: Any, root: int, page_size: int, size: int) -> Iterator[tuple[bytes, int, int]]:
    pending, seen = [root] if root != _NO_PAGE else [], set()
    while pending:
        number = pending.pop()
        page = os.pread(file.fileno(), page_size, number * page_size) if number < size // page_size else b""
        if number in seen or len(page) < page_size:
            raise ValueError(f"page {number} is missing, or is used twice")
        seen.add(number)
        flags, lower = struct.unpack("<10xHH", page[:14])
        count = (lower - _HEADER) // 2
        pointers = struct.unpack(f"<{count}H", page[_HEADER : _HEADER + 2 * count])
        if flags & _BRANCH:
            parts = [struct.unpack("<HHH", page[at : at + 6]) for at in pointers]
            pending += [low | high << 16 | top << 32 for low, high, top in reversed(parts)]
        elif flags & _LEAF:
            for at in pointers:
                low, high, kind, key_size = struct.unpack("<HHHH", page[at : at + 8])
                if kind & (_SUBDATABASE | _DUPLICATES):
                    raise ValueError("it has several databases, or several values of one key")
                start, num_bytes = at + 8 + key_size, low | high << 16
                offset = number * page_size + start
                if kind & _BIG:
                    offset = struct.unpack("<Q", page[start : start + 8])[0] * page_size + _HEADER
                if offset + num_bytes > size:
                    raise ValueError("a value is outside of the file")
                yield page[at + 8 : start], offset, num_bytes
        else:
            raise ValueError(f"page {number} is not a page of the tree")
