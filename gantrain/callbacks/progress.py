"""Show the progress of the run in the terminal."""

import time
from datetime import timedelta

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from typing_extensions import override

from gantrain.callbacks.base import Callback
from gantrain.console import console
from gantrain.session.run import Run
from gantrain.train import TrainState


class Progress(Callback):
    """Show a progress bar if stderr is a terminal; otherwise print a line from time to time.

    Args:
        seconds_between_lines: minimum time between two printed lines; a bar does not use it.
    """

    SECONDS_BETWEEN_UPDATES = 0.1

    def __init__(self, *, seconds_between_lines: float):
        self.seconds_between_lines = seconds_between_lines

    @override
    def start(self, run: Run) -> None:
        self.steps, self.first_step = run.steps, run.state.step
        self.clock = time.monotonic()
        self.updated = self.printed = float("-inf")
        self.text = self.line = ""
        self.bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}", markup=False),
            TimeRemainingColumn(),
            console=console,
            refresh_per_second=5,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task(run.name, total=run.steps, completed=run.state.step, text="")

    @override
    def __call__(self, state: TrainState, logs: object) -> None:
        # An update of the bar takes a tenth of a millisecond, which matters when a step takes 1 ms.
        now = time.monotonic()
        if now - self.updated >= self.SECONDS_BETWEEN_UPDATES:
            self.update(state)
            self.updated = now

    @override
    def scalars(self, state: TrainState, scalars: dict[str, float]) -> None:
        self.text = (
            f"loss D {scalars['loss/discriminator']:.3g} G {scalars['loss/generator']:.3g}"
            f"  {scalars['throughput/images_per_second']:,.0f} images/s"
        )
        if console.is_terminal:
            return
        now = time.monotonic()
        seconds_left = (now - self.clock) / max(1, state.step - self.first_step) * (self.steps - state.step)
        self.line = f"step {state.step}/{self.steps}  {self.text}  {timedelta(seconds=round(seconds_left))} left"
        if now - self.printed >= self.seconds_between_lines:
            self.print_line(now)

    @override
    def finish(self, state: TrainState, status: str) -> None:
        if self.updated > float("-inf"):
            self.update(state)
        self.bar.stop()
        self.print_line(time.monotonic())

    def update(self, state: TrainState) -> None:
        """Update the bar; it appears with the first step, after all checks."""
        self.bar.start()
        self.bar.update(self.task, completed=state.step, text=self.text)

    def print_line(self, now: float) -> None:
        """Print the newest line if it was not printed yet."""
        if self.line:
            console.print(self.line, highlight=False, markup=False, soft_wrap=True)
            self.line, self.printed = "", now
