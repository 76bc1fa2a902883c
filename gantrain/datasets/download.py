"""Downloads that are whole or not there, and that say what to do when they fail."""

import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gantrain.errors import DataError

_TIMEOUT_SECONDS = 15.0


def obtain(needs: str, *, folder: Path, download: bool, fetch: Callable[[Path], Path]) -> None:
    """Download missing files into `folder`, if that is allowed.

    Args:
        needs: which files have to go where, a clause for the error.
        folder: where the files go.
        download: whether the user allows it.
        fetch: downloads into the folder that it is given and returns the folder that holds the files.

    Raises:
        DataError: it is not allowed, or it failed.
    """
    if not download:
        raise DataError(f"{needs}. Put them there, or download them with dataset.download=true.")
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Beside their destination, so that a download cut short never looks like a file.
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as scratch, _socket_timeout():
            for file in sorted(fetch(Path(scratch)).iterdir()):
                file.replace(folder / file.name)
    except Exception as error:  # whatever went wrong, the remedy is the same
        with suppress(OSError):  # something lies there now
            for path in made:
                path.rmdir()
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{needs}. The download failed ({reason}); put them there by hand.") from error


@contextmanager
def _socket_timeout() -> Iterator[None]:
    # Without it a firewall that drops packets makes urllib wait for ever.
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(previous)
