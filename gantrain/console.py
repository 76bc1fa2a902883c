"""The one console of the program, on stderr, so that messages pass above a live progress bar and not through it."""

from rich.console import Console

console = Console(stderr=True)
