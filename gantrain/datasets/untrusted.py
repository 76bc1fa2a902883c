"""Reading files that nobody vouches for."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path


@contextmanager
def open_regular(path: Path, *, max_bytes: int | None = None) -> Iterator[BufferedReader]:
    """Open a file to be read, if it is one: a pipe or a device may make its reader wait for ever, or never end.

    Raises:
        OSError: it cannot be opened, is no regular file, or takes more than max_bytes; `strerror` says which.
    """
    # Opened before it is asked what it is, so that it cannot change in between.
    with os.fdopen(os.open(path, _FLAGS), "rb") as file:
        _check(file.fileno(), path, max_bytes)
        yield file


def read_regular(path: str, *, max_bytes: int) -> bytes:
    """Read a whole file, if it is one; a quarter of the time that open_regular takes, for files by the thousand.

    Raises:
        OSError: as of open_regular.
    """
    descriptor = os.open(path, _FLAGS)
    try:
        num_bytes = _check(descriptor, path, max_bytes)
        content = os.read(descriptor, num_bytes)
        while len(content) < num_bytes and (more := os.read(descriptor, num_bytes - len(content))):
            content += more
        return content
    finally:
        os.close(descriptor)


_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def _check(descriptor: int, path: str | Path, max_bytes: int | None) -> int:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    if max_bytes is not None and status.st_size > max_bytes:
        raise OSError(errno.EFBIG, f"it takes {status.st_size:,} bytes, more than {max_bytes:,}", str(path))
    return status.st_size


def printable(text: object) -> str:
    """What a file says, as a part of a message: on one line, without control characters, of bounded length."""
    line = " ".join(str(text).split())
    line = line if line.isprintable() else repr(line)[1:-1]
    return line if len(line) <= 200 else f"{line[:200]}..."
