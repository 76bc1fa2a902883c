"""Measure the steps of a training: how long their parts take, and which products they make."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace

from gantrain.assemble import Training
from gantrain.callbacks.checkpoint import Checkpoint
from gantrain.engine.graphs import EAGER_CALLS
from gantrain.engine.rates import Product, ProductCounter
from gantrain.engine.timing import (
    WAITING,
    EndOfStep,
    LapTimer,
    TimedBatches,
    TimedCallback,
    WatchedRuntime,
    lazy_seconds,
    median_parts,
    total,
)
from gantrain.game import lazy
from gantrain.session.run import Run

WARMUP_CALLS = EAGER_CALLS + 1
"""Calls of an update before it is measured; in the last it is captured as a CUDA graph, where updates are."""


def count_lazy_calls(run: Run) -> dict[str, float]:
    """Return how often an average step calls the update of each lazy penalty, by its name ("critic_r1")."""
    players = {"critic": ("discriminator_penalty", run.config.n_critic), "generator": ("generator_penalty", 1)}
    return {
        f"{player}_{name}": updates * run.config.accumulate / regularizer.every
        for player, (method, updates) in players.items()
        for name, regularizer in lazy(run.objective, method).items()
    }


def count_products(training: Training) -> list[Product]:
    """Make one eager step, and list the matrix products and convolutions of an average one."""
    run = training.run
    counter = ProductCounter()
    watched = WatchedRuntime(around=counter.made_by, **vars(replace(run.runtime, acceleration="eager")))
    with counter:
        replace(training, run=replace(run, steps=run.state.step + 1, runtime=watched))([])
    return counter.per_step(count_lazy_calls(run))


@dataclass(frozen=True)
class Timing:
    """Seconds per step.

    Attributes:
        parts: of each part; lazy penalties and callbacks are averages at their own intervals, the others medians.
        callbacks: of each callback.
        lazy: of lazy penalties, by player; included in parts.
        median_step: of the median step, as it was measured, without lazy penalties.
    """

    parts: dict[str, float]
    callbacks: dict[str, float]
    lazy: dict[str, float]
    median_step: float


def time_steps(training: Training, steps: int, after: Callable[[LapTimer], None] | None = None) -> Timing:
    """Train for `steps` steps after a warm-up, and measure what they took.

    Args:
        training: its intervals are shortened, so that few steps are enough; no more is to be done with it.
        after: called with the timer at the end of the warm-up and of each step; its time is not counted.
    """
    run, timer = training.run, LapTimer(training.run.device)
    lazy_calls = count_lazy_calls(run)
    regularizers = [r for r in run.objective.regularizers.values() if r.every > 1]
    for regularizer in regularizers:
        regularizer.every = 2
    warmed_up = run.state.step + WARMUP_CALLS * (2 if regularizers else 1)
    run.steps = warmed_up + steps
    training.callbacks.start()
    callbacks = [
        TimedCallback(c, timer, max_every=max(1, steps // 4), wait=c.wait if isinstance(c, Checkpoint) else None)
        for c in training.callbacks
    ]
    watched = WatchedRuntime(around=timer.lap_of, **vars(run.runtime))
    timed = replace(training, run=replace(run, runtime=watched), batches=TimedBatches(training.batches, timer))
    timer.restart()
    timed([*callbacks, EndOfStep(timer, after, since=warmed_up)])
    training.callbacks.finish("failed")  # no last grids and curves: they do not belong to a step

    taken = {step: laps for step, laps in timer.steps().items() if step > warmed_up}
    of_lazy = lazy_seconds(taken, lazy_calls)
    parts = {part: seconds + of_lazy.get(part, 0.0) for part, seconds in median_parts(taken).items()}
    intervals = [c.every for c in callbacks if c.every is not None]
    by_callback = {c.callback.name: c.seconds_per_step(taken, intervals) for c in callbacks}
    parts["callbacks"] = sum(by_callback.values())
    left_out = {WAITING, *lazy_calls}
    return Timing(
        parts=parts,
        callbacks=by_callback,
        lazy=of_lazy,
        median_step=statistics.median(total(laps, *(laps.keys() - left_out)) for laps in taken.values()),
    )
