"""Downloads that leave either complete files or none, with an error that says what to do instead."""

import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gantrain.errors import DataError

_TIMEOUT_SECONDS = 15.0


def obtain(needs: str, *, folder: Path, download: bool, fetch: Callable[[Path], Path]) -> None:
    """Download missing files into `folder`, if the user allows it.

    Args:
        needs: the start of the error message, which says which files belong where.
        folder: where the files go.
        download: whether the user allows downloads.
        fetch: downloads into the folder it is called with, and returns the folder that holds the files.

    Raises:
        DataError: downloading is not allowed, or failed.
    """
    if not download:
        raise DataError(f"{needs}. Put them there, or download them with dataset.download=true.")
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Downloads go to a temporary folder, so that an interrupted one never looks like a complete file.
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as scratch, socket_timeout():
            for file in sorted(fetch(Path(scratch)).iterdir()):
                file.replace(folder / file.name)
    except Exception as error:  # the remedy is the same for every cause
        with suppress(OSError):  # the folder is not empty
            for path in created:
                path.rmdir()
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{needs}. The download failed ({reason}); put them there by hand.") from error


@contextmanager
def socket_timeout() -> Iterator[None]:
    """Limit how long new sockets wait while the block runs.

    Without a timeout urllib waits forever behind a firewall that drops packets.
    """
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(previous)
