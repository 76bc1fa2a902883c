"""The console of the program, on stderr. All messages go through it, so they appear above a live progress bar."""

import os
import sys
from typing import Any

from rich.console import Console

from gantrain.engine.workers import can_start_threads


class _Stderr:
    """Writes to the current sys.stderr until a write fails, and discards everything after that.

    So closing the terminal, or the reader of a pipe, does not end a run.
    """

    failed = False

    def write(self, text: str) -> int:
        if not self.failed and sys.stderr is not None:  # None: it was closed before Python started
            try:
                return sys.stderr.write(text)
            except (OSError, ValueError):  # ValueError: this process closed it
                self.failed = True
        return len(text)

    def flush(self) -> None:
        if not self.failed and sys.stderr is not None:
            try:
                sys.stderr.flush()
            except (OSError, ValueError):
                self.failed = True

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


def is_redrawable() -> bool:
    """Return whether a line on stderr can be drawn again: in a terminal, but not in a dumb one or a log file.

    That colours are forced, as many CI systems do, says nothing about it.
    """
    is_terminal = sys.stderr is not None and sys.stderr.isatty()
    is_dumb = os.environ.get("TERM", "").lower() in ("dumb", "unknown")
    return is_terminal and not is_dumb and os.environ.get("TTY_INTERACTIVE") != "0"


def draws_bars(target: Console) -> bool:
    """Return whether a progress bar can be drawn; if not, progress is printed in lines."""
    return target.is_interactive and target.is_terminal and can_start_threads(1)  # a bar has a thread


console = Console(file=_Stderr(), force_interactive=is_redrawable())  # type: ignore[arg-type]
