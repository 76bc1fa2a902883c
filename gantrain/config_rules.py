"""The rules that hold for settings and between them, beyond their types."""

import math
from collections.abc import Sequence

from gantrain.config import Config, Node, chosen, is_number, lookup, settings
from gantrain.errors import ConfigError


def check(config: Config) -> None:
    """Check what the types leave open.

    Raises:
        ConfigError: naming the value, the rule and the remedy.
    """
    whole = ("batch_size", "accumulate", "n_critic", "generator_batch_multiple", "packing")
    for key in (*whole, "log_every", "sample_every", "evaluate_every", "checkpoint.every", "checkpoint.keep"):
        at_least(config, key, 1)
    for key in ("steps", "checkpoint.keep_every", "runtime.num_workers"):
        if lookup(config, key) is not None:
            at_least(config, key, 1)
    at_least(config, "max_rollbacks", 1)
    one_of(config, "runtime.data", ("auto", "device", "host"))
    if config.runtime.spin not in ("auto", "system"):
        at_least(config, "runtime.spin", 0)
    one_of(config, "first", ("discriminator", "generator"))
    one_of(config, "fake_labels", ("real", "empirical", "uniform"))
    one_of(config, "on_divergence", ("stop", "rollback"))
    if config.on_divergence == "rollback" and "checkpoint" not in chosen(config.callback, "callback"):
        raise ConfigError(
            "on_divergence=rollback resumes from a checkpoint, and none is written: add callback checkpoint."
        )
    for key in ("epochs", "ema_halflife_images", "ema_rampup"):
        above_zero(config, key)
    if config.ema_rampup is not None and config.ema_halflife_images is None:
        raise ConfigError(f"ema_rampup={config.ema_rampup}: there is no average; set ema_halflife_images as well.")
    if config.critic_warmup is not None:
        at_least(config, "critic_warmup.n_critic", 1)
        at_least(config, "critic_warmup.steps", 0)
        if config.critic_warmup.every is not None:
            at_least(config, "critic_warmup.every", 1)
    for key in ("accumulate", "packing"):
        if config.batch_size % lookup(config, key):
            raise ConfigError(f"{key}={lookup(config, key)}: must divide batch_size={config.batch_size}.")
    for setting in settings():
        if setting.task and lookup(config, setting.key) != setting.default:
            value = lookup(config, setting.key)
            if setting.default is None:
                raise ConfigError(
                    f"{setting.key}={value} belongs to task={setting.task}; add task={setting.task} or leave it out."
                )
    for key, node in (("optimizer", config.optimizer), ("discriminator_optimizer", config.discriminator_optimizer)):
        check_optimizer(key, node)


def check_optimizer(key: str, optimizer: Node) -> None:
    """Check learning rate and betas, which every optimizer names alike.

    Raises:
        ConfigError: naming the value, the rule and the remedy.
    """
    for name in ("lr", "betas"):
        if key == "optimizer" and name in optimizer and optimizer[name] is None:
            raise ConfigError(f"{key}.{name}=null: must be given, for example optimizer.lr=2e-4.")
    rate, betas = optimizer.get("lr"), optimizer.get("betas")
    if rate is not None and (not is_number(rate) or not 0 < rate < math.inf):
        raise ConfigError(f"{key}.lr={rate}: a learning rate is a number above 0, for example {key}.lr=2e-4.")
    if betas is not None:
        valid = isinstance(betas, Sequence) and len(betas) == 2 and all(is_number(b) and 0 <= b < 1 for b in betas)
        if not valid:
            raise ConfigError(
                f"{key}.betas={betas}: Adam's betas are two numbers in [0, 1), for example {key}.betas=[0.5,0.999]."
            )


def one_of(config: Config, key: str, names: Sequence[str]) -> None:
    """Check that a value is one of a few names.

    Raises:
        ConfigError: it is not.
    """
    if lookup(config, key) not in names:
        raise ConfigError(f"{key}={lookup(config, key)}: must be one of {', '.join(names)}.")


def at_least(config: Config, key: str, low: int) -> None:
    """Check a lower bound.

    Raises:
        ConfigError: the value is below it.
    """
    value = lookup(config, key)
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or value < low:
        kind = "" if is_whole else "a whole number, "
        raise ConfigError(f"{key}={value}: must be {kind}at least {low}, for example {key}={max(low, 1)}.")


def above_zero(config: Config, key: str) -> None:
    """Check that a value, where there is one, is positive and finite.

    Raises:
        ConfigError: it is not.
    """
    value = lookup(config, key)
    if value is not None and not 0 < value < math.inf:
        raise ConfigError(f"{key}={value}: must be a number above 0, or null.")
