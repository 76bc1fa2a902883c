"""Measure how long the parts of a training step take."""

import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import torch
from typing_extensions import override

from gantrain.datasets.batches import Batch, Batches
from gantrain.engine.rates import synchronize
from gantrain.engine.runtime import Runtime
from gantrain.schedules.base import Clock
from gantrain.train import TrainState
from gantrain.updates import Logs, Update

PARTS = ("data", "critic", "generator", "rest")
WAITING = "waiting"
"""Name of laps that are not counted."""

Laps = dict[str, list[float]]
"""The laps of one step, in seconds, by name."""


class LapTimer:
    """Measures the laps of each step: "data", updates ("critic", "generator"), callbacks, and "rest".

    On a GPU the times are CUDA events, so the training does not wait for the device; only steps() does. Host and device
    work in parallel as without a timer. Time in which the device idles is counted for what the host does
    meanwhile.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.marks: list[tuple[str, Any]] = [("", self.now())]
        self.ended: dict[int, list[tuple[str, Any]]] = {}

    def now(self) -> Any:
        """Return the current time: a CUDA event on a GPU, otherwise seconds."""
        if self.device.type != "cuda":
            return time.perf_counter()
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.device))
        return event

    def between(self, start: Any, end: Any) -> float:
        """Return the seconds between two times of now(); CUDA events must have completed."""
        return float(end - start) if self.device.type != "cuda" else float(start.elapsed_time(end)) / 1e3

    def lap(self, name: str) -> None:
        """End a lap: count the time since the last lap for `name`."""
        self.marks.append((name, self.now()))

    @contextmanager
    def lap_of(self, name: str) -> Iterator[None]:
        """Count the time of the block for `name`, and the time before it for "rest"."""
        self.lap("rest")
        yield
        self.lap(name)

    def end_step(self, step: int) -> None:
        """End the step with this number and start the next."""
        self.lap("rest")
        self.ended[step] = self.marks
        self.restart()

    def restart(self) -> None:
        """Start a step now; discard the laps since the last one."""
        self.marks = [("", self.now())]

    def steps(self) -> dict[int, Laps]:
        """Return the laps of every step that has ended, by step; waits for the device."""
        synchronize(self.device)
        laps_by_step: dict[int, Laps] = {}
        for step, marks in self.ended.items():
            laps_by_step[step] = defaultdict(list)
            for (_, start), (name, end) in pairwise(marks):
                laps_by_step[step][name].append(self.between(start, end))
        return laps_by_step


def total(laps: Laps, *names: str) -> float:
    """Return the seconds of the laps with these names, summed."""
    return math.fsum(seconds for name in names for seconds in laps.get(name, ()))


def median_parts(laps_by_step: dict[int, Laps]) -> dict[str, float]:
    """Return the median seconds per step of each part in PARTS, without lazy penalties and callbacks."""
    return {part: statistics.median(total(laps, part) for laps in laps_by_step.values()) for part in PARTS}


def lazy_seconds(laps_by_step: dict[int, Laps], lazy_calls: Mapping[str, float]) -> dict[str, float]:
    """Return the average seconds per step of lazy penalties, by player.

    Args:
        lazy_calls: average number of calls per step at the intervals of the config, by name ("critic_r1").
    """
    seconds = {"critic": 0.0, "generator": 0.0}
    for update, calls in lazy_calls.items():
        means = [statistics.mean(laps[update]) for laps in laps_by_step.values() if laps.get(update)]
        seconds[update.partition("_")[0]] += calls * statistics.median(means) if means else 0.0
    return seconds


class TimedBatches:
    """Batches whose loading is timed as the lap "data"."""

    def __init__(self, batches: Batches, timer: LapTimer):
        self.batches, self.timer, self.batch_size = batches, timer, batches.batch_size

    def __getitem__(self, i: int) -> Batch:
        """Return the i-th batch."""
        with self.timer.lap_of("data"):
            return self.batches[i]

    def for_generator(self) -> "TimedBatches":
        """Return the sequence of real batches for generator steps, also timed."""
        return TimedBatches(self.batches.for_generator(), self.timer)


@dataclass(frozen=True, kw_only=True)
class TimedRuntime(Runtime):
    """A runtime that enters a context around each call of an update.

    Attributes:
        around: returns the context for the name of an update ("critic", "generator", "critic_r1" of a lazy penalty).
    """

    around: Callable[[str], AbstractContextManager[None]]

    @override
    def accelerate(self, state: TrainState) -> Callable[[Update], Update]:
        accelerate = super().accelerate(state)
        return lambda update: self.timed(accelerate(update), update.__name__.removeprefix("update_"))

    def timed(self, update: Update, name: str) -> Update:
        """Return an update that runs in the context of its name."""

        def timed(batch: Batch | None, clock: Clock) -> Logs:
            with self.around(name):
                return update(batch, clock)

        return timed


@runtime_checkable
class CallbackLike(Protocol):
    """The part of a callback's interface that is timed; see callbacks.base.Callback."""

    name: str
    every: int | None

    def __call__(self, state: TrainState, logs: Logs) -> None:
        """Run after a step."""
        ...


class TimedCallback:
    """A callback whose calls are timed.

    Args:
        callback: its interval is shortened, so that it is due several times within few steps.
        max_every: maximum interval while measuring, in steps.
        wait: waits for the background thread of the callback; None if it has none.
    """

    def __init__(
        self, callback: CallbackLike, timer: LapTimer, *, max_every: int, wait: Callable[[], None] | None = None
    ):
        self.callback, self.timer, self.wait = callback, timer, wait
        self.lap = f"callback {callback.name}"
        self.config_every = callback.every
        self.every = callback.every = None if callback.every is None else min(max_every, callback.every)

    def __call__(self, state: TrainState, logs: Logs) -> None:
        """Call the callback, and wait for its background thread."""
        takes_a_core = self.timer.device.type == "cpu"
        with self.timer.lap_of(self.lap):
            self.callback(state, logs)
            if self.wait is not None and takes_a_core:
                self.wait()  # count it: on a CPU the thread would slow down the following steps
        if self.wait is not None and not takes_a_core:
            self.wait()  # do not count it: at the config's interval the thread ends long before it is needed again
            self.timer.lap(WAITING)

    def seconds_per_step(self, laps_by_step: dict[int, Laps], intervals: Collection[int]) -> float:
        """Compute the average seconds per step at the interval of the config.

        Args:
            intervals: the intervals of all callbacks while they were measured. When one callback is due, others may
                take longer too: scalars that are logged are also written.
        """
        seconds = {step: total(laps, self.lap) for step, laps in laps_by_step.items()}
        idle = [s for step, s in seconds.items() if all(step % every for every in intervals)]
        idle_seconds = statistics.median(idle) if idle else 0.0
        due = [s for step, s in seconds.items() if self.every is not None and step % self.every == 0]
        if not due or self.config_every is None:
            return idle_seconds
        return idle_seconds + max(0.0, statistics.median(due) - idle_seconds) / self.config_every


@dataclass
class EndOfStep:
    """Tells the timer that a step has ended; must be the last callback.

    Attributes:
        after: called with the timer after each step from step `since` on; its time is not counted.
    """

    timer: LapTimer
    after: Callable[[LapTimer], None] | None = None
    since: int = 0

    def __call__(self, state: TrainState, logs: Logs) -> None:
        """End the step."""
        self.timer.end_step(state.step)
        if self.after is not None and state.step >= self.since:
            self.after(self.timer)
            self.timer.restart()
