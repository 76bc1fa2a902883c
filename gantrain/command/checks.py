"""Refuse, before Hydra acts on it, what was typed wrongly."""

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
from gantrain.config import LIST_GROUPS, Node, chosen, settings
from gantrain.errors import ConfigError

HYDRAS = re.compile(r"hydra/(launcher|sweeper)|hydra\.(launcher|sweeper)\..+|hydra\.verbose")
"""Hydra's own keys that are left to the user; the others make folders, call code or mean nothing here."""

MAX_RUNS = 10_000
"""In one sweep: Hydra lists them all before the first begins."""


def check_keys(config: Node, typed: Sequence[str]) -> None:
    """Refuse keys that nothing reads: a + takes them past the schema. Those of classes are checked by build.

    Raises:
        ConfigError: a key is unknown, missing, or of an option that is not chosen.
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
        if given is None:  # a part that may be left out, as critic_warmup=null
            continue
        prefix = f"{parent}." if parent else ""
        for key in names:
            if key not in given:
                raise ConfigError(f"~{prefix}{key}: every run needs this key; change it by {prefix}{key}=...")
        for key in given:
            if key not in names:
                hint = nearest(f"{prefix}{key}", [f"{prefix}{name}" for name in names])
                raise ConfigError(f"{prefix}{key}: nothing reads such a key; leave it out.{hint}")
    for override in typed:
        group, _, key = override.partition("=")[0].removeprefix("+").partition(".")
        # ++ says "where there is such an option", as in a sweep over regularizers.
        if (
            override.startswith("+")
            and group in LIST_GROUPS
            and key
            and key.split(".")[0] not in chosen(config[group], group)
        ):
            taken = ",".join(chosen(config[group], group))
            raise ConfigError(
                f"{override}: {group}=[{taken}] has no {key.split('.')[0]}; add it to the list or leave this out."
                f"{nearest(key.split('.')[0], options(group))}"
            )


def check_flags(given: argparse.Namespace) -> None:
    """Refuse those of Hydra's flags that replace gantrain's own configs, and combinations without a meaning.

    Raises:
        ConfigError: naming the flag and the remedy.
    """
    for name in ("config-path", "config-name", "experimental-rerun"):
        if getattr(given, name.replace("-", "_")) is not None:
            raise ConfigError(
                f"--{name}: the configs are gantrain's own; add yours with --config-dir FOLDER, and go on with a run "
                "by resume=FOLDER."
            )
    modes = ("run", "multirun", "cfg", "info", "shell_completion")
    taken = [f"--{name.replace('_', '-')}" for name in modes if getattr(given, name)]
    if len(taken) > 1:
        raise ConfigError(f"{' '.join(taken)}: only one of them can be done at a time.")
    wanted = [override.partition("=")[0] for override in given.overrides]
    if given.shell_completion and len({"install", "uninstall", "query"} & {*wanted}) != 1:
        raise ConfigError("--shell-completion: say what to do, for example gantrain -sc install=bash.")
    if given.resolve and not given.cfg:
        raise ConfigError("--resolve: it belongs to --cfg; say --cfg job --resolve.")


def check_typed(overrides: Sequence[str], folders: Sequence[Path]) -> None:
    """Refuse values on which Hydra fails without a message or without end, or writes into the working directory.

    Raises:
        ConfigError: naming the value, the rule and the remedy.
    """
    parser, num_runs = OverridesParser.create(), 1.0
    for line in overrides:
        try:
            (override,) = parser.parse_overrides([line])
        except OverrideParseException:
            return  # Hydra will say so
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{line[:40]}... cannot be read: it is too long or too deeply nested.") from error
        name, given = override.key_or_group, override.value()
        if name.partition(".")[0].partition("/")[0] == "hydra" and not HYDRAS.fullmatch(name):
            remedy = "run_dir=... chooses the folder, and never overwrites a run" if "dir" in name else "leave it out"
            raise ConfigError(f"{line}: gantrain sets this key itself; {remedy}. --config-dir FOLDER adds configs.")
        if override.is_delete():
            if not isinstance(given, str | None):
                raise ConfigError(f"{line}: ~ takes out a key or an option by its name; say ~{name}.")
            continue
        if override.is_sweep_override():
            num_runs *= count(given)
            if not num_runs <= MAX_RUNS:
                raise ConfigError(f"{line}: a sweep of {num_runs:,.0f} runs; at most {MAX_RUNS:,} can be made at once.")
            if not isinstance(given, ChoiceSweep):
                continue
        for value in given.list if isinstance(given, ChoiceSweep) else [given]:
            if name == "trust" and not (
                isinstance(value, list) and all(trust.MODULE.fullmatch(str(module)) for module in value)
            ):
                raise ConfigError(f"{line}: must be a list of modules, for example trust=[hinge].")
            if name == "run_dir" and value in (None, ""):
                raise ConfigError(f"{line}: a run needs a folder of its own; name one, or leave it out: one by date.")
            if name in LIST_GROUPS and not isinstance(value, str | list | dict):
                raise ConfigError(f"{line}: must be a list; {name}=[] is none of them.")
            if name in groups(folders) and name not in LIST_GROUPS and not isinstance(value, str | dict):
                names = ", ".join(options(name, folders))
                raise ConfigError(f"{line}: must be one option; leave it out, or choose of {names}.")


def count(sweep: Any) -> float:
    """Count the values of a sweep; inf or nan for a range without end."""
    if isinstance(sweep, ChoiceSweep):
        return len(sweep.list)
    if isinstance(sweep, RangeSweep):
        start, stop, step = (math.nan if x is None else float(x) for x in (sweep.start, sweep.stop, sweep.step))
        return max((stop - start) / step, 0.0) if step else math.inf
    return 1
