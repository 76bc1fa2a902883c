"""Show the progress of the run in the terminal."""

import time
from datetime import timedelta

from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from typing_extensions import override

from gantrain.callbacks.base import Callback
from gantrain.console import console, draws_bars
from gantrain.session.run import Run
from gantrain.train import TrainState


class Progress(Callback):
    """Show a progress bar if stderr is a terminal that can redraw it; otherwise print a line from time to time.

    The first line is printed at the first logged step, or else after a second, and the last one at the end.

    Args:
        seconds_between_lines: minimum time between two printed lines; a bar does not use it.
    """

    SECONDS_BETWEEN_UPDATES = 0.1
    SECONDS_TO_FIRST_LINE = 1.0

    def __init__(self, *, seconds_between_lines: float):
        self.seconds_between_lines = seconds_between_lines

    @override
    def start(self, run: Run) -> None:
        self.steps, self.first_step = run.steps, run.state.step
        self.clock = time.monotonic()
        self.updated = self.printed = float("-inf")
        self.text, self.printed_step = "", -1
        self.has_bar = draws_bars(console)
        self.bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}", markup=False),
            TimeRemainingColumn(),
            console=console,
            refresh_per_second=5,
            disable=not self.has_bar,
        )
        self.task = self.bar.add_task(run.name, total=run.steps, completed=run.state.step, text="")
        self.between: TaskID | None = None
        self.reported = float("-inf")

    @override
    def __call__(self, state: TrainState, logs: object) -> None:
        # An update of the bar takes a tenth of a millisecond, which matters when a step takes 1 ms.
        now = time.monotonic()
        if now - self.updated >= self.SECONDS_BETWEEN_UPDATES:
            self.update(state)
            self.updated = now
            since = max(self.printed, self.clock + self.SECONDS_TO_FIRST_LINE - self.seconds_between_lines)
            if now - since >= self.seconds_between_lines:
                self.print_line(state, now)

    @override
    def scalars(self, state: TrainState, scalars: dict[str, float]) -> None:
        self.text = (
            f"loss D {scalars['loss/discriminator']:.3g} G {scalars['loss/generator']:.3g}"
            f"  {scalars['throughput/images_per_second']:,.0f} images/s"
        )
        now = time.monotonic()
        if now - self.printed >= self.seconds_between_lines:
            self.print_line(state, now)

    @override
    def progress(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if self.has_bar:
            if now - self.reported >= self.SECONDS_BETWEEN_UPDATES or done == total:
                self.reported = now
                self.show_between(what, done, total)
        elif self.reported == float("-inf"):
            self.reported = now  # work that takes less than the interval prints no line
        elif now - self.reported >= self.seconds_between_lines:
            console.print(f"{what}: {done:,} of {total:,}", highlight=False, markup=False, soft_wrap=True)
            self.reported = now
        if done == total:
            self.reported = float("-inf")

    def show_between(self, what: str, done: int, total: int) -> None:
        """Show a second bar below that of the run, until the work is done."""
        self.bar.start()
        if self.between is None:
            self.between = self.bar.add_task(what, text="")
        self.bar.update(self.between, description=what, completed=done, total=total)
        if done == total:
            self.bar.remove_task(self.between)
            self.between = None

    @override
    def finish(self, state: TrainState, status: str) -> None:
        if self.updated > float("-inf"):
            self.update(state)
        self.bar.stop()
        self.print_line(state, time.monotonic())

    def update(self, state: TrainState) -> None:
        """Update the bar; it appears with the first step, after all checks."""
        self.bar.start()
        self.bar.update(self.task, completed=state.step, text=self.text)

    def print_line(self, state: TrainState, now: float) -> None:
        """Print a line with the step and the values that were logged last, unless a bar shows them or it is printed."""
        if self.has_bar or state.step in (self.printed_step, self.first_step):
            return
        seconds_left = (now - self.clock) / (state.step - self.first_step) * (self.steps - state.step)
        parts = [f"step {state.step}/{self.steps}", self.text, f"{timedelta(seconds=round(seconds_left))} left"]
        console.print("  ".join(filter(None, parts)), highlight=False, markup=False, soft_wrap=True)
        self.printed, self.printed_step = now, state.step
