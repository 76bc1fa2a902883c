"""Files that are either whole or not there."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from gantrain.errors import ConfigError


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Yield a binary file that becomes `path` when the block ends well and vanishes when it does not."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise


def _umask() -> int:
    # The umask can only be read by setting it; mkstemp's files are private where a plain open would not be.
    current = os.umask(0o022)
    os.umask(current)
    return current


def free_bytes(path: Path) -> int:
    """Free space in bytes on the disk that holds `path`, which need not exist yet."""
    existing = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    return shutil.disk_usage(existing).free


def require_space(path: Path, num_bytes: int, what: str) -> None:
    """Refuse to start writing what the disk cannot hold.

    Raises:
        ConfigError: fewer than `num_bytes` are free where `path` is to be.
    """
    free = free_bytes(path)
    if free < num_bytes:
        raise ConfigError(
            f"{what} needs {format_bytes(num_bytes)}, but {path} has only {format_bytes(free)} free; "
            "free some space or choose another disk."
        )


def format_bytes(num_bytes: int) -> str:
    """Write a size as people read it, in powers of 1000."""
    size = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:  # three digits would round the rest up to 1e+03
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
