"""Check settings against rules that their types do not express."""

import math
from collections.abc import Sequence

from gantrain.config import Config, Node, is_number, lookup, selected_options, settings
from gantrain.errors import ConfigError


def check(config: Config) -> None:
    """Check the ranges of settings, and the rules between them.

    Raises:
        ConfigError: a rule is broken; the message names the value, the rule and the remedy.
    """
    counts = ("batch_size", "accumulate", "n_critic", "generator_batch_multiple", "packing")
    for key in (*counts, "log_every", "sample_every", "checkpoint.every", "checkpoint.keep"):
        check_at_least(config, key, 1)
    for key in ("steps", "evaluate_every", "checkpoint.keep_every", "runtime.num_workers"):
        if lookup(config, key) is not None:
            check_at_least(config, key, 1)
    check_at_least(config, "max_rollbacks", 1)
    check_one_of(config, "runtime.data", ("auto", "device", "host"))
    if config.runtime.spin not in ("auto", "system"):
        check_at_least(config, "runtime.spin", 0)
    check_one_of(config, "first", ("discriminator", "generator"))
    check_one_of(config, "fake_labels", ("real", "empirical", "uniform"))
    check_one_of(config, "on_divergence", ("stop", "rollback"))
    check_one_of(config, "metric_split", ("train", "held_out"))
    if config.on_divergence == "rollback" and "checkpoint" not in selected_options(config.callback, "callback"):
        raise ConfigError(
            "on_divergence=rollback needs checkpoints, and none are written: add checkpoint to callback=[...]."
        )
    check_verdicts(config)
    for key in ("epochs", "ema_halflife_images", "ema_rampup"):
        check_positive(config, key)
    if config.ema_rampup is not None and config.ema_halflife_images is None:
        raise ConfigError(f"ema_rampup={config.ema_rampup}: there is no EMA to limit; set ema_halflife_images too.")
    if config.critic_warmup is not None:
        check_at_least(config, "critic_warmup.n_critic", 1)
        check_at_least(config, "critic_warmup.steps", 0)
        if config.critic_warmup.every is not None:
            check_at_least(config, "critic_warmup.every", 1)
    check_batch_size(config)
    for setting in settings():
        if setting.tasks and setting.default is None and (value := lookup(config, setting.key)) is not None:
            tasks = " or ".join(f"task={task}" for task in setting.tasks)
            raise ConfigError(
                f"{setting.key}={value} has an effect only with {tasks}; add that, or leave {setting.key} out."
            )
    for key, node in (("optimizer", config.optimizer), ("discriminator_optimizer", config.discriminator_optimizer)):
        check_optimizer(key, node)


def check_verdicts(config: Config) -> None:
    """Check that verdict.stop lists verdicts in use, and that they are called.

    Raises:
        ConfigError: it does not, or they are not.
    """
    stop, used = config.verdict.get("stop", []), selected_options(config.verdict, "verdict")
    typed = f"verdict.stop=[{','.join(map(str, stop))}]" if isinstance(stop, list) else f"verdict.stop={stop}"
    if not isinstance(stop, list) or not set(map(str, stop)) <= set(used):
        raise ConfigError(f"{typed}: must be a list of the verdicts in use: {', '.join(used) or 'there are none'}.")
    if stop and "verdicts" not in selected_options(config.callback, "callback"):
        raise ConfigError(f"{typed} needs the callback that calls the verdicts: add verdicts to callback=[...].")


def check_batch_size(config: Config, num_processes: int = 1) -> None:
    """Check that the batch can be split evenly into processes, micro-batches, and packs.

    Raises:
        ConfigError: it cannot; the message has a batch size that can.
    """
    factors = {"processes": num_processes, "accumulate": config.accumulate, "packing": config.packing}
    size = math.prod(factors.values())
    if config.batch_size % size:
        used = " * ".join(f"{name} ({number})" for name, number in factors.items() if number > 1)
        near = max(1, round(config.batch_size / size)) * size
        raise ConfigError(
            f"batch_size={config.batch_size}: must be a multiple of {used}"
            f"{f' = {size}' if ' * ' in used else ''}; for example batch_size={near}."
        )


def check_optimizer(key: str, optimizer: Node) -> None:
    """Check the learning rate and the betas, if the optimizer has them.

    Raises:
        ConfigError: a value is missing or out of range.
    """
    for name, example in (("lr", "2e-4"), ("betas", "[0.5,0.999]")):
        if key == "optimizer" and name in optimizer and optimizer[name] is None:
            raise ConfigError(f"{key}.{name}=null: must be set, for example {key}.{name}={example}.")
    rate, betas = optimizer.get("lr"), optimizer.get("betas")
    if rate is not None and (not is_number(rate) or not 0 < rate < math.inf):
        raise ConfigError(f"{key}.lr={rate}: a learning rate is a number above 0, for example {key}.lr=2e-4.")
    if betas is not None:
        valid = isinstance(betas, Sequence) and len(betas) == 2 and all(is_number(b) and 0 <= b < 1 for b in betas)
        if not valid:
            raise ConfigError(
                f"{key}.betas={betas}: Adam's betas are two numbers in [0, 1), for example {key}.betas=[0.5,0.999]."
            )


def check_one_of(config: Config, key: str, names: Sequence[str]) -> None:
    """Check that a setting has one of the names.

    Raises:
        ConfigError: it has another value.
    """
    if lookup(config, key) not in names:
        raise ConfigError(f"{key}={lookup(config, key)}: must be one of {', '.join(names)}.")


def check_at_least(config: Config, key: str, low: int) -> None:
    """Check that a setting is an int of at least `low`.

    Raises:
        ConfigError: it is below, or not an int.
    """
    value = lookup(config, key)
    is_int = isinstance(value, int) and not isinstance(value, bool)
    if not is_int or value < low:
        kind = "" if is_int else "a whole number, "
        raise ConfigError(f"{key}={value}: must be {kind}at least {low}, for example {key}={max(low, 1)}.")


def check_standing_statistics(config: Config) -> None:
    """Check that standing_statistics is null, or an int of at least 1.

    Raises:
        ConfigError: it is something else.
    """
    if config.standing_statistics is not None:
        check_at_least(config, "standing_statistics", 1)


def check_positive(config: Config, key: str) -> None:
    """Check that a setting is null, or a positive and finite number.

    Raises:
        ConfigError: it is something else.
    """
    value = lookup(config, key)
    if value is not None and not 0 < value < math.inf:
        raise ConfigError(f"{key}={value}: must be a number above 0, or null.")
