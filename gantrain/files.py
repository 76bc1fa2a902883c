"""Write files that are either complete or absent, and explain errors of the operating system."""

import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from gantrain.errors import ConfigError, GantrainError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers: disk full, quota of the user exceeded, file larger than allowed."""

NOT_OFFERED = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOLCK}
"""Error numbers with which file systems refuse what they do not offer (chmod, fsync, flock): FUSE, WSL, NFS, Lustre."""


class WriteError(OSError):
    """A copy of a file cannot be written; the file itself can be read."""


@contextmanager
def writing() -> Iterator[None]:
    """Raise errors of the operating system as WriteError, in a block that only writes a copy of what is read."""
    try:
        yield
    except OSError as error:
        raise WriteError(error.errno, error.strerror) from error


@contextmanager
def if_offered() -> Iterator[None]:
    """Skip an operation that the file system does not offer, and whose absence only weakens a guarantee."""
    try:
        yield
    except OSError as error:
        if error.errno not in NOT_OFFERED:
            raise


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Yield a binary file that replaces `path` if the block succeeds, and is removed if the block fails."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            with if_offered():
                os.fsync(file.fileno())
        with if_offered():
            Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
        _sync_folder(path.parent)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` if the block succeeds, and is removed if the block fails.

    Args:
        path: a folder that does not exist, or is empty.
    """
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    try:
        yield temporary
        with if_offered():
            temporary.chmod(0o777 & ~_umask())
        if path.is_dir():
            path.rmdir()
        temporary.rename(path)
        _sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _sync_folder(folder: Path) -> None:
    # Until the folder is synced too, a power failure can undo the rename. Some file systems cannot sync folders.
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def append(path: Path, content: bytes) -> None:
    """Append all of `content` to an existing file, or nothing if that fails.

    Raises:
        OSError: nothing was appended, for example because the disk is full.
    """
    with path.open("r+b", buffering=0) as file:
        end, remaining = file.seek(0, os.SEEK_END), memoryview(content)
        try:
            while remaining:
                remaining = remaining[file.write(remaining) :]
        except OSError:
            file.truncate(end)
            raise


def sync(path: Path) -> None:
    """Wait until the current content of a file is on the disk."""
    with path.open("rb") as file, if_offered():
        os.fsync(file.fileno())


def require_new_file(path: Path, option: str) -> None:
    """Check that a new file can be written to `path`, before any work is done.

    Args:
        option: name of the option that holds the path, for messages.

    Raises:
        ConfigError: the file exists, or its folder does not exist or cannot be written to.
    """
    try:
        if path.exists():
            raise ConfigError(f"{option}={path} already exists, and gantrain never overwrites it; choose another name.")
        if not path.absolute().parent.is_dir():
            raise ConfigError(f"{option}={path}: there is no folder {path.parent}; create it first.")
        # Named like atomic_write's, because a file system limits the length of names.
        tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp").close()
    except OSError as error:
        raise ConfigError(f"{option}={path} cannot be written ({error.strerror}); choose another path.") from error


def require_new_folder(path: Path, option: str) -> None:
    """Check that a new folder can be written to `path`, or that it is an empty one, before any work is done.

    Args:
        option: name of the option that holds the path, for messages.

    Raises:
        ConfigError: it has content, is the working directory, or its parent does not exist or cannot be written to.
    """
    try:
        empty = path.is_dir() and not path.is_symlink() and not any(path.iterdir())
        if path.resolve() == Path.cwd():
            raise ConfigError(f"{option}={path} is the working directory; name a folder in it, for example samples/.")
        if not empty:
            require_new_file(path, option)
        else:
            tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp").cleanup()
    except OSError as error:
        raise ConfigError(f"{option}={path} cannot be written ({error.strerror}); choose another path.") from error


def remove_temporaries(folder: Path) -> None:
    """Remove the temporary files of killed processes in the folder of a run; no other process may be writing there."""
    # Not in other folders: below run_dir=. other processes may be writing caches or runs.
    for part in (folder, *(folder / name for name in (".hydra", "checkpoints", "samples", "tensorboard"))):
        for path in part.glob(".*.tmp"):
            if path.is_file():
                path.unlink(missing_ok=True)


def explain_os_error(error: OSError, doing: str) -> GantrainError:
    """Convert an OSError into an error for the user, with exit status 1; `doing` names the action that failed."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in DISK_FULL:
        what = where or f": {doing[:1].lower()}{doing[1:]} failed"
        return GantrainError(f"The disk is full{what}. Files that were already written are complete. Free some space.")
    return GantrainError(f"{doing} failed{where}: {error.strerror or error}.")


def _umask() -> int:
    # The umask can only be read by setting it. mkstemp creates private files, unlike open.
    current = os.umask(0o022)
    os.umask(current)
    return current


def free_bytes(path: Path) -> int:
    """Return the free space in bytes on the disk of `path`, which need not exist; sys.maxsize if it is not known."""
    existing = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    with if_offered():
        usage = shutil.disk_usage(existing)
        if usage.total:  # object stores mounted as a disk report a size of 0
            return usage.free
    return sys.maxsize


def require_space(path: Path, num_bytes: int, what: str) -> None:
    """Check that the disk of `path` has `num_bytes` free, before anything is written.

    Raises:
        ConfigError: it has less; the message starts with `what`, which is to be written.
    """
    free = free_bytes(path)
    if free < num_bytes:
        raise ConfigError(
            f"{what} needs {format_bytes(num_bytes)}, but {path} has only {format_bytes(free)} free; "
            "free some space or choose another disk."
        )


def format_bytes(num_bytes: int) -> str:
    """Format a number of bytes with three digits and a unit, in powers of 1000."""
    size = min(num_bytes, sys.float_info.max)  # a typed number may be larger than any float
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:  # three digits would round larger values up to 1e+03
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
