"""Check flags and overrides before Hydra acts on them, and the keys of the composed config."""

import argparse
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, RangeSweep
from hydra.errors import OverrideParseException

from gantrain.command import trust
from gantrain.command.explain import options
from gantrain.command.help import groups
from gantrain.command.suggest import nearest
from gantrain.config import LIST_GROUPS, SETTINGS_OF_GROUPS, Node, selected_options, settings
from gantrain.engine.torchrun import process_rank
from gantrain.errors import ConfigError

USER_HYDRA_KEYS = re.compile(r"hydra/(launcher|sweeper)|hydra\.(launcher|sweeper)\..+|hydra\.verbose")
"""Hydra's keys that the user may set. The others create folders, call code or have no effect here."""

MAX_RUNS = 10_000
"""Maximum number of runs in a sweep; Hydra lists all runs before it starts the first."""


def check_keys(config: Node, overrides: Sequence[str]) -> None:
    """Check that every key of the config is known: an override with + can add keys that the schema does not have.

    The options of a class are checked when the class is instantiated.

    Args:
        overrides: the overrides as the user typed them.

    Raises:
        ConfigError: a key is unknown or missing, or belongs to an option that is not chosen.
    """
    known: dict[str, list[str]] = {}
    for setting in settings():
        parent, _, key = setting.key.rpartition(".")
        known.setdefault(parent, []).append(key)
        if parent:
            known[""] += [] if parent in known[""] else [parent]
    known["model"] = ["generator", "discriminator"]
    for parent, names in known.items():
        given = config[parent] if parent else config
        if given is None:  # an optional section, such as critic_warmup=null
            continue
        prefix = f"{parent}." if parent else ""
        for key in names:
            if key not in given:
                raise ConfigError(f"~{prefix}{key}: every run needs this key; change it with {prefix}{key}=...")
        for key in given:
            if key not in names:
                hint = nearest(f"{prefix}{key}", [f"{prefix}{name}" for name in names])
                raise ConfigError(f"{prefix}{key}: there is no such key; leave it out.{hint}")
    for override in overrides:
        group, _, key = override.partition("=")[0].removeprefix("+").partition(".")
        # ++ sets an option only where it exists, as in a sweep over regularizers.
        if (
            override.startswith("+")
            and group in LIST_GROUPS
            and key
            and key.split(".")[0] not in (*selected_options(config[group], group), *SETTINGS_OF_GROUPS.get(group, ()))
        ):
            taken = ",".join(selected_options(config[group], group))
            raise ConfigError(
                f"{override}: {group}=[{taken}] has no {key.split('.')[0]}; add it to the list or leave this out."
                f"{nearest(key.split('.')[0], options(group))}"
            )


def check_flags(given: argparse.Namespace) -> None:
    """Check Hydra's flags.

    Raises:
        ConfigError: a flag would replace gantrain's configs, two flags exclude each other, or several processes sweep.
    """
    for name in ("config-path", "config-name", "experimental-rerun"):
        if getattr(given, name.replace("-", "_")) is not None:
            raise ConfigError(
                f"--{name}: gantrain's own configs cannot be replaced; add yours with --config-dir FOLDER, and resume "
                "a run with resume=FOLDER."
            )
    modes = ("run", "multirun", "cfg", "info", "shell_completion")
    taken = [f"--{name.replace('_', '-')}" for name in modes if getattr(given, name)]
    if len(taken) > 1:
        raise ConfigError(f"{' '.join(taken)}: these flags exclude each other; give one of them.")
    wanted = [override.partition("=")[0] for override in given.overrides]
    if given.shell_completion and len({"install", "uninstall", "query"} & {*wanted}) != 1:
        raise ConfigError("--shell-completion: needs install, uninstall or query, for example -sc install=bash.")
    if given.resolve and not given.cfg:
        raise ConfigError("--resolve: needs --cfg; give --cfg job --resolve.")
    if given.multirun and (size := process_rank().world_size) > 1:
        raise ConfigError(
            f"-m: each run of a sweep is a single process, but torchrun started {size}; run gantrain -m "
            "without torchrun."
        )


def check_overrides(overrides: Sequence[str], folders: Sequence[Path]) -> None:
    """Reject overrides with which Hydra would fail without a message, run forever, or write into the working directory.

    Args:
        folders: the folders of configs.

    Raises:
        ConfigError: an override is invalid.
    """
    parser, num_runs, known_groups = OverridesParser.create(), 1.0, groups(folders)
    for line in overrides:
        try:
            (override,) = parser.parse_overrides([line])
        except OverrideParseException:
            return  # Hydra reports it
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{line[:40]}... cannot be read: it is too long or too deeply nested.") from error
        name, given = override.key_or_group, override.value()
        if name.partition(".")[0].partition("/")[0] == "hydra" and not USER_HYDRA_KEYS.fullmatch(name):
            remedy = "run_dir=... chooses the folder, and never overwrites a run" if "dir" in name else "leave it out"
            raise ConfigError(f"{line}: gantrain sets this key itself; {remedy}. --config-dir FOLDER adds configs.")
        if override.is_delete():
            if not isinstance(given, str | None):
                raise ConfigError(f"{line}: ~ removes a key or an option by its name; write ~{name}.")
            continue
        if override.is_sweep_override():
            num_runs *= count(given)
            if not num_runs <= MAX_RUNS:
                raise ConfigError(f"{line}: this sweep has {num_runs:,.0f} runs; {MAX_RUNS:,} is the maximum.")
            if not isinstance(given, ChoiceSweep):
                continue
        for value in given.list if isinstance(given, ChoiceSweep) else [given]:
            if name == "trust" and not (
                isinstance(value, list) and all(trust.MODULE.fullmatch(str(module)) for module in value)
            ):
                raise ConfigError(f"{line}: must be a list of modules, for example trust=[my_losses].")
            if name == "run_dir" and value in (None, ""):
                raise ConfigError(f"{line}: every run needs a folder; name one, or leave run_dir out for a new one.")
            if name in LIST_GROUPS and not isinstance(value, str | list | dict):
                raise ConfigError(f"{line}: must be a list; for an empty one, write {name}=[].")
            if name in known_groups and name not in LIST_GROUPS and not isinstance(value, str | dict):
                names = ", ".join(options(name, folders))
                raise ConfigError(f"{line}: must be one option; leave it out, or choose one of {names}.")


def count(sweep: Any) -> float:
    """Count the values of a sweep; inf or nan for an infinite range."""
    if isinstance(sweep, ChoiceSweep):
        return len(sweep.list)
    if isinstance(sweep, RangeSweep):
        start, stop, step = (math.nan if x is None else float(x) for x in (sweep.start, sweep.stop, sweep.step))
        return max((stop - start) / step, 0.0) if step else math.inf
    return 1
