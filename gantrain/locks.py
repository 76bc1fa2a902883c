"""Lock files, so that two processes do not write to the same folder or build the same cache.

flock is called directly, because the versions of the package filelock differ in what they do where it is not offered.
"""

import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from gantrain.errors import ConfigError
from gantrain.files import NOT_OFFERED

logger = logging.getLogger(__name__)

MAX_BYTES = 1000
"""Maximum size of the owner that a lock file names."""


class HeldError(Exception):
    """Another process holds the lock."""


@contextmanager
def locked(path: Path, *, waits: bool = False, for_all_users: bool = False) -> Iterator[bool]:
    """Hold a lock while the block runs. The system releases it when the process ends, even by a kill.

    Args:
        path: the lock file, which is created if it does not exist.
        waits: whether to wait for another process that holds the lock.
        for_all_users: whether other users may take the lock.

    Yields:
        whether there is a lock: some file systems offer none.

    Raises:
        HeldError: another process holds the lock.
        OSError: the lock file cannot be opened.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        if for_all_users:
            with suppress(OSError):  # it belongs to another user, or the file system has no permissions
                os.fchmod(handle, 0o666)
        yield _lock(handle, waits=waits)
    finally:
        os.close(handle)


def _lock(handle: int, *, waits: bool) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise HeldError from None
    except OSError as error:
        if error.errno in NOT_OFFERED:
            return False
        raise
    return True


@dataclass(frozen=True)
class Owner:
    """The process that holds a lock, or that did not live to release it.

    Attributes:
        started: when it took the lock, in seconds since 1970.
        born: when the process began, as birth_of returns it; None where it is not known.
    """

    host: str
    process: int
    started: float
    born: int | None = None

    def __str__(self) -> str:
        age = max(0, round(time.time() - self.started))
        hours, minutes = age // 3600, age // 60 % 60
        text = f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{age} s"
        return f"process {self.process} on {self.host}, which started {text} ago"

    @property
    def lives_here(self) -> bool:
        """Whether it is another process of this machine that still runs, as far as that is known."""
        if self.host != socket.gethostname() or self.process == os.getpid():
            return False
        try:
            os.kill(self.process, 0)
        except PermissionError:
            pass
        except (OSError, OverflowError):
            return False
        # The system may have given the number of a process that has died to another one.
        return self.born is None or birth_of(self.process) in (None, self.born)


def birth_of(process: int) -> int | None:
    """Return when a process began, in clock ticks since the system started; None where /proc does not tell."""
    try:
        # The fields follow the name of the program, which may contain spaces and parentheses.
        return int(Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def read_owner(path: Path) -> Owner | None:
    """Read which process a lock file names; None if it names none."""
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(MAX_BYTES))
        born = content.get("born")
        born = born if isinstance(born, int) else None
        owner = Owner(str(content["host"]), int(content["process"]), float(content["started"]), born)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, OverflowError):
        return None
    return owner if owner.process > 0 and owner.host.isprintable() else None


def write_owner(path: Path, owner: Owner | None) -> None:
    """Write into an existing lock file which process holds it; None: no process. A failure changes nothing else."""
    with suppress(OSError), path.open("r+b", buffering=0) as file:
        file.truncate(0)
        file.write(b"" if owner is None else json.dumps(asdict(owner)).encode() + b"\n")


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Lock the folder of a run for this process; the lock is released when the process ends, even by a kill.

    The lock file names its owner. Where the file system offers no locks, a warning says so once.

    Raises:
        ConfigError: another process trains in the folder, or it cannot be written to.
    """
    path = folder / ".hydra" / "lock"
    with ExitStack() as stack:
        try:
            path.parent.mkdir(exist_ok=True)
            if path.is_symlink() or path.parent.is_symlink():
                raise ConfigError(
                    f"{path} is a link, which gantrain never creates; the folder may have been tampered with."
                )
            is_locked = stack.enter_context(locked(path))
        except HeldError:
            raise in_use(path) from None
        except OSError as error:
            raise ConfigError(f"{folder} cannot be written to ({error.strerror}); choose another run_dir.") from error
        if not is_locked:
            check_without_lock(path)
        write_owner(path, Owner(socket.gethostname(), os.getpid(), time.time(), birth_of(os.getpid())))
        stack.callback(write_owner, path, None)
        yield


def in_use(path: Path, *, is_locked: bool = True) -> ConfigError:
    """Return the error for the folder of a run in which another process trains.

    Args:
        is_locked: whether the system says so, and not only the lock file.
    """
    folder, owner = path.parents[1], read_owner(path)
    who = "another process is training there" + (f" ({owner})" if owner else "")
    left = ""
    if owner is not None and owner.host != socket.gethostname():
        left = f" If {owner.host} is no longer running, delete {path}."
    elif owner is not None and not is_locked:
        left = f" If that process is no run of gantrain, but has the number of one that has died, delete {path}."
    return ConfigError(f"{folder} is in use: {who}. Wait until it ends, or choose another run_dir.{left}")


def check_without_lock(path: Path) -> None:
    """Check the owner that a lock file names, where the file system offers no locks.

    Raises:
        ConfigError: the owner runs on this machine.
    """
    owner = read_owner(path)
    if owner is not None and owner.lives_here:
        raise in_use(path, is_locked=False)
    warn_of_no_locks(str(path.parents[1]))
    if owner is not None and owner.host != socket.gethostname():
        logger.warning(
            "%s was locked by %s, and not released. If that process still runs, stop one of the two.",
            *(path.parents[1], owner),
        )


@cache
def warn_of_no_locks(folder: str) -> None:
    """Warn once for each folder that nothing keeps a second process from writing to it."""
    logger.warning(
        "The file system of %s offers no locks; make sure that only one process trains in that folder at a time.",
        folder,
    )
