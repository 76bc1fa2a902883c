"""The command, from its first moment on: `gantrain` and `python -m gantrain` begin here."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn


def main() -> None:
    """Run the command; a signal that comes while it is still being imported ends it without a traceback."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        with suppress(ValueError):  # not in the main thread
            signal.signal(signum, lambda received, _: os._exit(128 + received))
    from gantrain.command.cli import main as command
    from gantrain.engine.torchrun import is_of_torchrun

    if is_of_torchrun():
        leave_at_once_after(command)
    command()


def leave_at_once_after(command: Callable[[], None]) -> NoReturn:
    """Run the command and end the process with nothing taken to pieces.

    Where another process has left before, taking torch's connections to pieces aborts now and then ("terminate called
    without an active exception", torch 2.14).
    """
    status = 0
    try:
        command()
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
