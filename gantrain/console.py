"""The one console of the program, on stderr, so that messages pass above a live progress bar and not through it."""

import sys
from typing import Any

from rich.console import Console


class _Stderr:
    """Today's sys.stderr, as long as somebody is there to read it.

    A terminal that was closed and a pipe whose reader has gone are no reason for a run to end.
    """

    gone = False

    def write(self, text: str) -> int:
        if not self.gone:
            try:
                return sys.stderr.write(text)
            except (OSError, ValueError):  # ValueError: closed by this process
                self.gone = True
        return len(text)

    def flush(self) -> None:
        if not self.gone:
            try:
                sys.stderr.flush()
            except (OSError, ValueError):
                self.gone = True

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


console = Console(file=_Stderr())  # type: ignore[arg-type]
