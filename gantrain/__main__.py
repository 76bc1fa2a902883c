"""Entry point of `gantrain` and of `python -m gantrain`."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn


def main() -> None:
    """Run the command; a signal during the imports ends the process without a traceback."""
    open_closed_streams()
    for signum in (signal.SIGINT, signal.SIGTERM):
        with suppress(ValueError):  # not in the main thread
            signal.signal(signum, lambda received, _: os._exit(128 + received))
    from gantrain.command.cli import main as command
    from gantrain.engine.torchrun import is_started_by_torchrun

    if is_started_by_torchrun():
        run_and_exit(command)
    command()


def open_closed_streams() -> None:
    """Open stdin, stdout and stderr on /dev/null where they are closed, as by `2>&-`.

    Otherwise Python has None for the stream, and the next file that is opened, such as a checkpoint, gets its number,
    to which messages are then written.
    """
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(handle, True)
    os.close(handle)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115


def run_and_exit(command: Callable[[], None]) -> NoReturn:
    """Run the command and exit without tearing down torch's connections.

    If another rank has already exited, the teardown sometimes aborts ("terminate called without an active exception",
    torch 2.14).
    """
    status = 0
    try:
        command()
    except SystemExit as request:
        status = request.code if isinstance(request.code, int) else int(request.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
