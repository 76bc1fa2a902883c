"""The length of a training run, in steps or epochs, and the number of critic updates in each step."""

import math
import sys
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from gantrain.config import Config, CriticWarmup
from gantrain.errors import ConfigError


def choose_budget(config: Config, typed: Sequence[str]) -> Config:
    """Keep one of steps and epochs, and set the other to None; one typed on the command line wins over one in a config.

    Args:
        typed: the overrides on the command line.

    Raises:
        ConfigError: both are overridden, or not exactly one is left.
    """
    keys = {override.lstrip("+").split("=")[0] for override in typed}
    if {"steps", "epochs"} <= keys and None not in (config.steps, config.epochs):
        raise ConfigError(f"steps={config.steps} and epochs={config.epochs} exclude each other; leave one out.")
    if "steps" in keys and config.steps is not None:
        config = replace(config, epochs=None)
    if "epochs" in keys and config.epochs is not None:
        config = replace(config, steps=None)
    if (config.steps is None) == (config.epochs is None):
        raise ConfigError(
            f"steps={config.steps} and epochs={config.epochs}: exactly one must be a number, for example steps=5000."
        )
    return config


@dataclass(frozen=True)
class CriticSchedule:
    """Number of critic updates in each step.

    Attributes:
        n_critic: number of updates in a usual step.
        warm_n_critic: number of updates in a step of the warm-up.
        warm_steps: number of warm-up steps at the start.
        warm_every: interval of the warm-up steps after that; None: no more.
    """

    n_critic: int
    warm_n_critic: int
    warm_steps: int
    warm_every: int | None

    def __call__(self, step: int) -> int:
        """Return the number of critic updates in step `step`, counted from 0."""
        warm = step < self.warm_steps or (self.warm_every is not None and step % self.warm_every == 0)
        return self.warm_n_critic if warm else self.n_critic

    def total(self, steps: int) -> int:
        """Return the number of critic updates in the first `steps` steps."""
        num_warm = min(steps, self.warm_steps)
        if self.warm_every is not None and steps > self.warm_steps:
            num_warm += -(-steps // self.warm_every) - -(-self.warm_steps // self.warm_every)
        return num_warm * self.warm_n_critic + (steps - num_warm) * self.n_critic

    def steps_for(self, updates: int) -> int:
        """Return the smallest number of steps that have at least this many critic updates."""
        return bisect_left(range(updates + 1), updates, key=self.total)  # each step has at least one


def critic_schedule(n_critic: int, warmup: CriticWarmup | None) -> CriticSchedule:
    """Make the schedule of critic updates; None: without a warm-up."""
    if warmup is None:
        return CriticSchedule(n_critic, n_critic, 0, None)
    return CriticSchedule(n_critic, warmup.n_critic, warmup.steps, warmup.every)


def count_steps(config: Config, num_images: int | None) -> int:
    """Return the length of the training in generator updates.

    An epoch is one pass of the critic over the data. Epochs are rounded up to whole steps.

    Args:
        num_images: size of the dataset; None: samples are drawn afresh from a distribution.

    Raises:
        ConfigError: the length is in epochs and the data has none, or the number of steps overflows.
    """
    if config.steps is not None:
        steps = config.steps
    elif num_images is None:
        raise ConfigError(
            f"epochs={config.epochs:g}: this data is sampled afresh for every batch, so it has no epochs; "
            "set steps instead, for example steps=5000."
        )
    else:
        assert config.epochs is not None  # choose_budget has checked it
        batches = math.ceil(Fraction(config.epochs) * num_images / config.batch_size)
        schedule = critic_schedule(config.n_critic, config.critic_warmup)
        steps = schedule.steps_for(batches) if batches < sys.maxsize else sys.maxsize
    if steps >= sys.maxsize:
        length = f"steps={config.steps}" if config.epochs is None else f"epochs={config.epochs:g}"
        raise ConfigError(f"{length}: more steps than can be counted; choose a smaller number.")
    return steps
