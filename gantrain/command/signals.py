"""End the command on a signal, before the training handles signals itself."""

import signal
import sys
from typing import Any

received: list[int] = []
"""Numbers of the signals that leave() has handled."""


def leave_on_signals() -> dict[int, Any]:
    """Handle SIGINT and SIGTERM with leave(), and return the earlier handlers."""
    received.clear()
    return {signum: signal.signal(signum, leave) for signum in (signal.SIGINT, signal.SIGTERM)}


def leave(signum: int, _: object) -> None:
    """Exit, and remember the signal.

    SystemExit for SIGINT too: after a KeyboardInterrupt, even a caught one, the signal may still end the process.
    """
    received.append(signum)
    sys.exit(128 + signum)


def exit_if_signalled() -> None:
    """Exit if a signal was received and the command still runs. Call this after imports that take long.

    A library whose import is interrupted may catch the SystemExit, or fail with another exception.

    Raises:
        SystemExit: a signal was received; the status is 128 + its number.
    """
    if received:
        sys.exit(128 + received[0])
