"""Measure training steps: the seconds of their parts, and their matrix products and convolutions."""

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
    TimedRuntime,
    lazy_seconds,
    median_parts,
    total,
)
from gantrain.game import lazy_regularizers
from gantrain.session.run import Run

WARMUP_CALLS = EAGER_CALLS + 1
"""Calls of an update before it is measured. With CUDA graphs, it is captured in the last of them."""


def count_lazy_calls(run: Run) -> dict[str, float]:
    """Return the average number of calls per step of each lazy penalty's update, by name ("critic_r1")."""
    players = {"critic": ("discriminator_penalty", run.config.n_critic), "generator": ("generator_penalty", 1)}
    return {
        f"{player}_{name}": updates * run.config.accumulate / regularizer.every
        for player, (method, updates) in players.items()
        for name, regularizer in lazy_regularizers(run.objective, method).items()
    }


def count_products(training: Training) -> list[Product]:
    """Make one eager step, and return the matrix products and convolutions of an average step."""
    run = training.run
    counter = ProductCounter()
    timed = TimedRuntime(around=counter.count_for, **vars(replace(run.runtime, acceleration="eager")))
    with counter:
        replace(training, run=replace(run, steps=run.state.step + 1, runtime=timed))([])
    return counter.per_step(count_lazy_calls(run))


@dataclass(frozen=True)
class Timing:
    """Seconds per step.

    Attributes:
        parts: by part of the step: medians, plus the averages of lazy penalties and callbacks over their intervals.
        callbacks: by callback; their sum is also in parts.
        lazy: lazy penalties, by player; also included in parts.
        median_step: median of the measured steps, without lazy penalties.
    """

    parts: dict[str, float]
    callbacks: dict[str, float]
    lazy: dict[str, float]
    median_step: float


def time_steps(training: Training, steps: int, after: Callable[[LapTimer], None] | None = None) -> Timing:
    """Train for `steps` steps after a warm-up, and measure them.

    Args:
        training: its intervals are shortened, so that few steps suffice; do not use it afterwards.
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
    runtime = TimedRuntime(around=timer.lap_of, **vars(run.runtime))
    timed = replace(training, run=replace(run, runtime=runtime), batches=TimedBatches(training.batches, timer))
    timer.restart()
    timed([*callbacks, EndOfStep(timer, after, since=warmed_up)])
    training.callbacks.finish("failed")  # with this status no last grid and checkpoint are written

    laps_by_step = {step: laps for step, laps in timer.steps().items() if step > warmed_up}
    of_lazy = lazy_seconds(laps_by_step, lazy_calls)
    parts = {part: seconds + of_lazy.get(part, 0.0) for part, seconds in median_parts(laps_by_step).items()}
    intervals = [c.every for c in callbacks if c.every is not None]
    by_callback = {c.callback.name: c.seconds_per_step(laps_by_step, intervals) for c in callbacks}
    parts["callbacks"] = sum(by_callback.values())
    left_out = {WAITING, *lazy_calls}
    return Timing(
        parts=parts,
        callbacks=by_callback,
        lazy=of_lazy,
        median_step=statistics.median(total(laps, *(laps.keys() - left_out)) for laps in laps_by_step.values()),
    )
