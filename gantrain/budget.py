"""The budget of a run: steps or epochs, and how many critic updates each step has."""

import math
import sys
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from gantrain.config import Config, CriticWarmup
from gantrain.errors import ConfigError


def one_budget(config: Config, typed: Sequence[str]) -> Config:
    """Leave one of steps and epochs: what the user typed wins over what a file says.

    Raises:
        ConfigError: both or neither are given.
    """
    keys = {override.lstrip("+").split("=")[0] for override in typed}
    if {"steps", "epochs"} <= keys and None not in (config.steps, config.epochs):
        raise ConfigError(f"steps={config.steps} and epochs={config.epochs} are two budgets; give one of them.")
    if "steps" in keys and config.steps is not None:
        config = replace(config, epochs=None)
    if "epochs" in keys and config.epochs is not None:
        config = replace(config, steps=None)
    if (config.steps is None) == (config.epochs is None):
        raise ConfigError(f"steps={config.steps} and epochs={config.epochs}: exactly one must be a number.")
    return config


@dataclass(frozen=True)
class CriticSchedule:
    """How many critic updates each step has."""

    n_critic: int
    warm_n_critic: int
    warm_steps: int
    warm_every: int | None

    def __call__(self, step: int) -> int:
        """Critic updates before generator update number `step`."""
        warm = step < self.warm_steps or (self.warm_every is not None and step % self.warm_every == 0)
        return self.warm_n_critic if warm else self.n_critic

    def total(self, steps: int) -> int:
        """Critic updates in the first `steps` steps."""
        num_warm = min(steps, self.warm_steps)
        if self.warm_every is not None and steps > self.warm_steps:
            num_warm += -(-steps // self.warm_every) - -(-self.warm_steps // self.warm_every)
        return num_warm * self.warm_n_critic + (steps - num_warm) * self.n_critic

    def steps_for(self, updates: int) -> int:
        """The fewest steps with at least so many critic updates."""
        return bisect_left(range(updates + 1), updates, key=self.total)  # each step has one or more


def critic_schedule(n_critic: int, warmup: CriticWarmup | None) -> CriticSchedule:
    """Combine the usual number of critic updates with that of the warm-up."""
    if warmup is None:
        return CriticSchedule(n_critic, n_critic, 0, None)
    return CriticSchedule(n_critic, warmup.n_critic, warmup.steps, warmup.every)


def count_steps(config: Config, num_images: int | None) -> int:
    """Turn the budget into generator updates.

    An epoch is one pass of the critic over the data; the last step may begin within it and end a little after.

    Raises:
        ConfigError: a budget in epochs for data without end, or one without end.
    """
    if config.steps is not None:
        steps = config.steps
    elif num_images is None:
        raise ConfigError(
            f"epochs={config.epochs:g}: this data is sampled afresh and has no epochs; "
            "give the budget in generator updates, for example steps=5000."
        )
    else:
        assert config.epochs is not None  # one_budget leaves one
        batches = math.ceil(Fraction(config.epochs) * num_images / config.batch_size)
        schedule = critic_schedule(config.n_critic, config.critic_warmup)
        steps = schedule.steps_for(batches) if batches < sys.maxsize else sys.maxsize
    if steps >= sys.maxsize:
        raise ConfigError(
            f"{'steps' if config.epochs is None else 'epochs'}: a budget without end; give a smaller one."
        )
    return steps
