"""How long the parts of a training step take."""

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
"""The lap that counts for nothing."""

Laps = dict[str, list[float]]
"""The laps of one step, in seconds, by what the time was spent on."""


class LapTimer:
    """Measures the laps of each step: "data", an update ("critic", "generator"), a callback, and "rest".

    On a GPU the moments are CUDA events, so that the training never waits for the device; steps() alone does. Host and
    device overlap as they do without a timer, and when the device waits for the host, that time is in the host's lap.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.marks: list[tuple[str, Any]] = [("", self.now())]
        self.ended: dict[int, list[tuple[str, Any]]] = {}

    def now(self) -> Any:
        """Return this moment: a CUDA event on a GPU, else seconds."""
        if self.device.type != "cuda":
            return time.perf_counter()
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.device))
        return event

    def between(self, start: Any, end: Any) -> float:
        """Return the seconds between two moments; CUDA events must have completed."""
        return float(end - start) if self.device.type != "cuda" else float(start.elapsed_time(end)) / 1e3

    def lap(self, name: str) -> None:
        """Count the time since the last lap as spent on `name`."""
        self.marks.append((name, self.now()))

    @contextmanager
    def lap_of(self, name: str) -> Iterator[None]:
        """Count the time that the block takes as spent on `name`, and the time before it as "rest"."""
        self.lap("rest")
        yield
        self.lap(name)

    def end_step(self, step: int) -> None:
        """End the step with this number and begin the next."""
        self.lap("rest")
        self.ended[step] = self.marks
        self.restart()

    def restart(self) -> None:
        """Begin a step now."""
        self.marks = [("", self.now())]

    def steps(self) -> dict[int, Laps]:
        """Return the laps of every step that has ended; waits for the device."""
        synchronize(self.device)
        taken: dict[int, Laps] = {}
        for step, marks in self.ended.items():
            taken[step] = defaultdict(list)
            for (_, start), (name, end) in pairwise(marks):
                taken[step][name].append(self.between(start, end))
        return taken


def total(laps: Laps, *names: str) -> float:
    """Return the seconds of a step that were spent on these."""
    return math.fsum(seconds for name in names for seconds in laps.get(name, ()))


def median_parts(taken: dict[int, Laps]) -> dict[str, float]:
    """Return the median seconds per step of each part, lazy penalties left out.

    Args:
        taken: laps by step.
    """
    return {part: statistics.median(total(laps, part) for laps in taken.values()) for part in PARTS}


def lazy_seconds(taken: dict[int, Laps], lazy_calls: Mapping[str, float]) -> dict[str, float]:
    """Return the average seconds per step of lazy penalties, each at its own interval, by player.

    Args:
        taken: laps by step.
        lazy_calls: calls in an average step, by name of the update ("critic_r1"); a fraction.
    """
    seconds = {"critic": 0.0, "generator": 0.0}
    for update, calls in lazy_calls.items():
        means = [statistics.mean(laps[update]) for laps in taken.values() if laps.get(update)]
        seconds[update.partition("_")[0]] += calls * statistics.median(means) if means else 0.0
    return seconds


class TimedBatches:
    """Batches whose loading is timed as "data"."""

    def __init__(self, batches: Batches, timer: LapTimer):
        self.batches, self.timer, self.batch_size = batches, timer, batches.batch_size

    def __getitem__(self, i: int) -> Batch:
        """Return the i-th batch."""
        with self.timer.lap_of("data"):
            return self.batches[i]

    def for_generator(self) -> "TimedBatches":
        """Return the sequence for generator steps that look at real samples, timed as well."""
        return TimedBatches(self.batches.for_generator(), self.timer)


@dataclass(frozen=True, kw_only=True)
class WatchedRuntime(Runtime):
    """A runtime that enters a context around each call of an update.

    Attributes:
        around: from the name of an update ("critic", "generator", "critic_r1" for a lazy penalty) to the context.
    """

    around: Callable[[str], AbstractContextManager[None]]

    @override
    def accelerate(self, state: TrainState) -> Callable[[Update], Update]:
        usual = super().accelerate(state)
        return lambda update: self.watched(usual(update), update.__name__.removeprefix("update_"))

    def watched(self, update: Update, name: str) -> Update:
        """Return the update, called within the context of its name."""

        def watched(batch: Batch | None, clock: Clock) -> Logs:
            with self.around(name):
                return update(batch, clock)

        return watched


@runtime_checkable
class CallbackLike(Protocol):
    """What is timed of a callback."""

    name: str
    every: int | None

    def __call__(self, state: TrainState, logs: Logs) -> None:
        """Look at the state after a step."""
        ...


class TimedCallback:
    """A callback whose calls are timed.

    Args:
        callback: its interval is shortened, so that few steps are enough to measure what it does at the end of one.
        max_every: the longest interval to measure with, in steps.
        wait: waits for what the callback leaves to a thread of its own; None: it has none.
    """

    def __init__(
        self, callback: CallbackLike, timer: LapTimer, *, max_every: int, wait: Callable[[], None] | None = None
    ):
        self.callback, self.timer, self.wait = callback, timer, wait
        self.lap = f"callback {callback.name}"
        self.wanted_every = callback.every
        self.every = callback.every = None if callback.every is None else min(max_every, callback.every)

    def __call__(self, state: TrainState, logs: Logs) -> None:
        """Call it."""
        takes_a_core = self.timer.device.type == "cpu"
        with self.timer.lap_of(self.lap):
            self.callback(state, logs)
            if self.wait is not None and takes_a_core:
                self.wait()  # its thread would slow down the steps that follow
        if self.wait is not None and not takes_a_core:
            self.wait()  # at the wanted interval the thread is done long before it is needed again
            self.timer.lap(WAITING)

    def seconds_per_step(self, taken: dict[int, Laps], intervals: Collection[int]) -> float:
        """Compute the average seconds per step at the wanted interval.

        Args:
            taken: laps by step.
            intervals: those of all callbacks while they were measured. One callback's interval costs others time too:
                what is logged is also written.
        """
        seconds = {step: total(laps, self.lap) for step, laps in taken.items()}
        idle = [s for step, s in seconds.items() if all(step % every for every in intervals)]
        usual = statistics.median(idle) if idle else 0.0
        due = [s for step, s in seconds.items() if self.every is not None and step % self.every == 0]
        if not due or self.wanted_every is None:
            return usual
        return usual + max(0.0, statistics.median(due) - usual) / self.wanted_every


@dataclass
class EndOfStep:
    """The last of the callbacks: ends the timer's step.

    Attributes:
        after: called with the timer after each step from number `since` on; its time is not counted.
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
