"""What the user typed: which keys, whether they have an effect, and how they change the parts of a saved run."""

import sys
from collections.abc import Collection, Sequence
from copy import deepcopy
from dataclasses import replace

from gantrain.command.overrides import key_of
from gantrain.config import Config, Node, is_number, keys_outside_training, lookup
from gantrain.errors import ConfigError


def is_typed(typed: Sequence[str], key: str) -> bool:
    """Return whether the user typed an override of exactly this key or group."""
    return key in map(key_of, typed)


def check_effect(typed: Sequence[str], reads: Collection[str], *, task: str, ignores: Collection[str] = ()) -> None:
    """Check that every typed override has an effect.

    Args:
        reads: the keys and groups that the task reads, each with all keys below it.
        task: the task and what it does, for the message: "task=sample loads the networks of the run".
        ignores: keys that are accepted although they have no effect.

    Raises:
        ConfigError: one has none.
    """
    without_effect = []
    for override in typed:
        key = key_of(override)
        parents = [key.rpartition("/")[0], *(key[:i] for i, letter in enumerate(f"{key}.") if letter == ".")]
        if not {*parents} & {*reads, *ignores}:
            without_effect.append(override.lstrip("+"))
    if without_effect:
        raise ConfigError(
            f"{' '.join(without_effect)}: {task} and reads only the keys {', '.join(sorted(reads))}; leave "
            f"{'it' if len(without_effect) == 1 else 'them'} out."
        )


def config_of_run(config: Config, saved: Config, typed: Sequence[str]) -> Config:
    """Return the config of a command, with metrics, data, features and seed of a saved run unless others are typed.

    Raises:
        ConfigError: an option is typed that the run does not have.
    """
    return replace(
        config,
        metric=part_of_run(config, saved, typed, "metric"),
        dataset=part_of_run(config, saved, typed, "dataset"),
        features=part_of_run(config, saved, typed, "features"),
        metric_split=(config if is_typed(typed, "metric_split") else saved).metric_split,
        seed=(config if is_typed(typed, "seed") else saved).seed,
    )


def part_of_run(config: Config, saved: Config, typed: Sequence[str], group: str) -> Node:
    """Return a part of a saved run, with what the user typed: another option, or values of the saved one's options.

    Args:
        config: the config of the command.
        saved: the config of the run.

    Raises:
        ConfigError: the saved part does not have such an option.
    """
    if is_typed(typed, group):
        chosen: Node = getattr(config, group)
        return chosen
    part: Node = deepcopy(getattr(saved, group))
    for key in (key for key in map(key_of, typed) if key.startswith(f"{group}.")):
        *parents, name = key.split(".")[1:]
        node = part
        for parent in parents:
            node = node.get(parent, {}) if isinstance(node, dict) else {}
        if not isinstance(node, dict) or name not in node:
            known = ", ".join(name for name in node if name != "_target_") if isinstance(node, dict) else ""
            raise ConfigError(f"{key}: the run has no such option (it has {known or 'none'}); choose {group}=... too.")
        node[name] = lookup(config, key)
    return part


def hyperparameters(config: Config, choices: Node, typed: Sequence[str]) -> dict[str, bool | float | str]:
    """Return the settings to compare runs by in TensorBoard: a few usual ones, and those set on the command line.

    No others, because TensorBoard shows only the first few.

    Args:
        choices: the selected option of each config group.
        typed: the overrides on the command line.
    """
    keys = [override.lstrip("+~").split("=")[0].split("@")[0] for override in typed]
    keys = [key for key in keys if key.split(".")[0] not in keys_outside_training()]
    flat: dict[str, bool | float | str] = {}
    for key in dict.fromkeys(["model", "dataset", "batch_size", "optimizer.lr", "seed", *keys]):
        try:
            value = choices[key] if key in choices else lookup(config, key)
        except (KeyError, TypeError, AttributeError):
            continue  # removed by ~key, or not an option of this optimizer
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        # TensorBoard cannot store an int that is too large for a float.
        is_plain = isinstance(value, bool) or (is_number(value) and abs(value) <= sys.float_info.max)
        flat[key] = value if is_plain else text
    return flat
