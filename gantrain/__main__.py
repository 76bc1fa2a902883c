"""The command, from its first moment on: `gantrain` and `python -m gantrain` begin here."""

import os
import signal
from contextlib import suppress


def main() -> None:
    """Run the command; a signal that comes while it is still being imported ends it without a traceback."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        with suppress(ValueError):  # not in the main thread
            signal.signal(signum, lambda received, _: os._exit(128 + received))
    from gantrain.cli import main as command

    command()


if __name__ == "__main__":
    main()
