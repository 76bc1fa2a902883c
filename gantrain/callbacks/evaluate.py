"""Compute the metrics of the generator during training."""

import json
import logging
import math
import time
from collections.abc import Collection
from typing import Any

from typing_extensions import override

from gantrain.callbacks.base import Callback, is_regular_record
from gantrain.errors import ConfigError
from gantrain.evaluation.evaluator import Score, numbered
from gantrain.evaluation.receipts import in_words
from gantrain.evaluation.sampling import BLOCK_SIZE, labels_like_data, sample_blocks
from gantrain.evaluation.table import std_names, value_and_real
from gantrain.session.run import Run
from gantrain.train import TrainState
from gantrain.updates import Logs

logger = logging.getLogger(__name__)

FIRST_FRACTION = 1 / 50
"""With a budget, when the first evaluation is due, as a fraction of the steps."""


class Evaluate(Callback):
    """Add the values of each metric to the logs as metric/<name>, every `evaluate_every` steps and at the last step.

    The latents are always the same, so the values change only with the generator. Each rank computes a part of the
    samples.

    Args:
        every: interval in steps; None: chosen at the first evaluation, so that all evaluations, with the first and the
            last, take at most `max_fraction` of the time of the run, or else only these two are made. The interval is
            kept in the checkpoints.
        max_fraction: in (0, 1).
    """

    order = -1
    shared = True
    tags = ("metric/",)

    def __init__(self, *, every: int | None, max_fraction: float):
        if not 0 < max_fraction < 1:
            raise ConfigError(f"max_eval_fraction={max_fraction}: must be above 0 and below 1, for example 0.1.")
        self.every, self.max_fraction = every, max_fraction
        self.first: int | None = None
        """The step of the first evaluation, if the interval is chosen there."""

    @override
    def check(self, run: Run) -> None:
        run.evaluator.check(conditional=run.class_counts is not None)

    @override
    def start(self, run: Run) -> None:
        run.evaluator.report = run.publish_progress
        if self.every is None and self.first is None:
            self.first = max(1, round(FIRST_FRACTION * run.steps))
        self.timed_since = (run.state.step, time.perf_counter())

    @override
    def __call__(self, state: TrainState, logs: Logs) -> None:
        if state.step == (self.first or 0) // 2:  # the first steps are slower
            self.timed_since = (state.step, time.perf_counter())
        if not self.run.evaluator or not (self.is_due(state.step) or state.step == self.run.steps):
            return
        step, since = self.timed_since
        seconds_per_step = (time.perf_counter() - since) / max(1, state.step - step)
        self.run.evaluator.prepare()
        before = time.perf_counter()
        scores = self.measure(state)
        if self.every is None:
            self.choose_interval(time.perf_counter() - before, seconds_per_step)
        for name, score in scores.items():
            logs[f"metric/{name}"] = score.value
            self.run.receipts[f"metric/{name}"] = score.receipt | {"real": score.real}
        if scores:
            self.run.publish_markdown("metric/receipts", table(scores, self.run.better))

    def choose_interval(self, seconds: float, seconds_per_step: float) -> None:
        """Choose the interval from the time of an evaluation and of a training step, on rank 0 for all ranks."""
        training = self.run.steps * seconds_per_step
        affordable = training / seconds * self.max_fraction / (1 - self.max_fraction)
        if affordable < 2:
            share = 2 * seconds / (2 * seconds + training)
            logger.warning(
                "An evaluation takes %.1f s: the first and the last alone take %.0f %% of the time, more than "
                "max_eval_fraction=%s; lower the num_samples of the metrics, or train longer.",
                *(seconds, 100 * share, self.max_fraction),
            )
        between = max(0, math.floor(affordable) - 2)
        steps = round_up(self.run.steps / (between + 1)) if between else self.run.steps
        self.every = self.run.processes.broadcast(max(steps, self.first or 1))

    @override
    def is_due(self, step: int) -> bool:
        return step == self.first or super().is_due(step)

    @override
    def was_due(self, step: int) -> bool:
        return bool(self.run.evaluator) and (step == self.first or super().was_due(step))

    @override
    def survives_rewind(self, step: int) -> bool:
        return is_regular_record(self.run, step) or self.was_due(step)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {} if self.first is None else {"first": self.first, "every": self.every}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.every is None and state:
            self.first, self.every = state["first"], state["every"]

    def measure(self, state: TrainState) -> dict[str, Score]:
        """Compute all metrics of G, or of its EMA if there is one; return {} on all ranks but rank 0."""
        run, rank, num_ranks = self.run, self.run.processes.rank, self.run.processes.world_size
        G = state.G if state.G_ema is None else state.G_ema
        # Sample i does not depend on the number of samples, so the metrics can share them.
        num, key = run.evaluator.num_samples, (run.config.seed, "evaluate")
        labels = labels_like_data(run.class_counts, key) if run.class_counts else None
        blocks = sample_blocks(
            G, run.latent, num, device=run.device, key=key, labels=labels, first=rank, every=num_ranks
        )
        return run.evaluator(
            numbered(blocks, labels, block_size=BLOCK_SIZE, first=rank, every=num_ranks),
            ema=state.G_ema is not None,
            seed=run.config.seed,
        )


def round_up(steps: float) -> int:
    """Round up to 1, 2 or 5 times a power of ten."""
    power: int = 10 ** math.floor(math.log10(max(steps, 1)))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= steps)


def table(scores: dict[str, Score], better: Collection[str]) -> str:
    """Format scores as a table in Markdown, followed by their whole receipts.

    Args:
        better: names of scores that have a direction.
    """
    rows = ["| score | value | real samples | protocol |", "|-|-|-|-|"]
    stds = std_names(scores, better)
    for name, score in scores.items():
        if name in stds.values():
            continue
        value, real = value_and_real(score, scores.get(stds.get(name, "")))
        rows.append(f"| {name} | {value} | {real} | {in_words(score.receipt)} |")
    receipts = {name: score.receipt for name, score in scores.items()}
    return "\n".join([*rows, "", "```json", json.dumps(receipts, indent=2), "```"])
