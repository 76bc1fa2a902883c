"""Files that are either whole or not there."""

import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from gantrain.errors import ConfigError, GantrainError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The disk, the user's share of it, or the largest file allowed."""


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
        _sync_folder(path.parent)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise


def _sync_folder(folder: Path) -> None:
    # A name is of the folder: until that is on the disk, a power cut can undo the rename. Some disks cannot do it.
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def append(path: Path, content: bytes) -> None:
    """Append all of `content` to a file that is there, or, where the disk is full, nothing.

    Raises:
        OSError: nothing was appended.
    """
    with path.open("r+b", buffering=0) as file:
        end, rest = file.seek(0, os.SEEK_END), memoryview(content)
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            file.truncate(end)
            raise


def sync(path: Path) -> None:
    """Wait until a file that is not written atomically is on the disk as it is now."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Keep every other process out of a run's folder; the system ends this with the process, however that ends.

    Raises:
        ConfigError: another process is at work there, or the folder cannot be written to.
    """
    path = folder / ".hydra" / "lock"
    try:
        path.parent.mkdir(exist_ok=True)
        if path.is_symlink() or path.parent.is_symlink():
            raise ConfigError(f"{path} is a link, which gantrain never makes; the folder may be forged.")
        lock = FileLock(path)
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(
            f"{folder} is in use: another process is training there. Wait until it has ended, or choose "
            "another run_dir."
        ) from None
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written to ({error.strerror}); choose another run_dir.") from error
    try:
        yield
    finally:
        lock.release()


def require_new_file(path: Path, option: str) -> None:
    """Refuse a name under which nothing can be written, before the work is done that it is for.

    Raises:
        ConfigError: it is taken, or its folder is not there or cannot be written to.
    """
    if path.exists():
        raise ConfigError(f"{option}={path} exists already, and nothing is overwritten; choose another name.")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"{option}={path}: there is no folder {path.parent}; make it first.")
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise ConfigError(f"{option}={path} cannot be written ({error.strerror}); choose another place.") from error


def remove_temporaries(folder: Path) -> None:
    """Remove what a killed process left of its atomic writes below `folder`, which no other may be writing to."""
    for path in folder.rglob(".*.tmp"):
        if path.is_file():
            path.unlink(missing_ok=True)


def explain_os_error(error: OSError, doing: str) -> GantrainError:
    """Say what the operating system refused, as an error for the user; exit status 1."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in DISK_FULL:
        return GantrainError(
            f"The disk is full{where}: {doing} could not be finished. What was written before is whole; "
            "free some space."
        )
    return GantrainError(f"{doing} failed{where}: {error.strerror or error}.")


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
    size = min(num_bytes, sys.float_info.max)  # what was typed may be beyond any float
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:  # three digits would round the rest up to 1e+03
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
