"""The console of the program, on stderr. All messages go through it, so they appear above a live progress bar."""

import sys
from typing import Any

from rich.console import Console


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


console = Console(file=_Stderr())  # type: ignore[arg-type]
