"""Show the progress of preparing data, on stderr."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from gantrain.console import console, draws_bars

T = TypeVar("T")
_SECONDS_BETWEEN_LINES, _SECONDS_TO_FIRST_LINE = 10.0, 1.0


def track(items: Iterable[T], *, total: int, what: str) -> Iterator[T]:
    """Yield the items and show progress: a bar in a terminal, otherwise a line after a second and every ten seconds."""
    if not draws_bars(console):
        yield from _track_in_lines(items, total, what)
        return
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), _ImagesPerSecond(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        yield from progress.track(items, total=total)


class _ImagesPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} images/s")


def _track_in_lines(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    start = time.monotonic()
    next_line = start + _SECONDS_TO_FIRST_LINE
    for count, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if count == total or now > next_line:
            next_line, rate = now + _SECONDS_BETWEEN_LINES, count / max(now - start, 1e-9)
            line = f"{what}: {count:,} of {total:,}, {rate:,.0f} images/s, {(total - count) / rate:,.0f} s left"
            console.print(line, soft_wrap=True, highlight=False, markup=False)
