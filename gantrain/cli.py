"""The `gantrain` command: answer what needs no training at once, compose the config, hand over to the task."""

import logging
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep
from hydra.errors import OverrideParseException
from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf

from gantrain.config import CONF, CheckpointConfig, Config, CriticWarmup, Node, chosen, created, register
from gantrain.console import console
from gantrain.errors import ConfigError, GantrainError
from gantrain.explain import LIST_GROUPS, explain, groups, nearest, options
from gantrain.help import config_folders, help_text

STARTED = {".hydra", "gantrain.log", "multirun.yaml"}
"""What is in a folder before its run begins."""


@dataclass(frozen=True)
class Job:
    """One task to do: a composed config, and what Hydra knows of it.

    Attributes:
        name: the experiment's, or the model's and the dataset's.
        folder: where a run writes.
        choices: the option taken of each group.
        typed: the overrides as the user typed them.
    """

    name: str
    folder: Path
    config: Node
    choices: dict[str, Any]
    typed: list[str]


def run_job(composed: DictConfig) -> None:
    """Do the task of one composed config; a sweep calls this for each of its jobs.

    Raises:
        GantrainError: a key that nothing reads, or what the task raises.
    """
    config: Any = OmegaConf.to_container(composed, resolve=True)
    hydra_config = HydraConfig.get()
    choices = {group: choice for group, choice in hydra_config.runtime.choices.items() if "/" not in group}
    job = Job(
        name=choices["experiment"] or f"{choices['model']}-{choices['dataset']}",
        folder=shortest(Path(hydra_config.runtime.output_dir)),
        config=config,
        choices=choices | {group: chosen(config, group) for group in LIST_GROUPS},
        typed=list(hydra_config.overrides.task),
    )
    if hydra_config.mode == hydra.types.RunMode.MULTIRUN:
        heading = f"\nRun {hydra_config.job.num}: {' '.join(job.typed)}"
        console.print(heading, style="bold", markup=False, soft_wrap=True)
    check_keys(config, job.typed)
    get_method(config["task"]["_target_"])(job)


def check_keys(config: Node, typed: Sequence[str]) -> None:
    """Refuse keys that nothing reads: a + takes them past the schema. Those of classes are checked by build.

    Raises:
        ConfigError: a key is unknown, missing, or of an option that is not chosen.
    """
    known = {
        "": [field.name for field in fields(Config)],
        "runtime": [str(key) for key in OmegaConf.load(CONF / "runtime/auto.yaml")],
        "checkpoint": [field.name for field in fields(CheckpointConfig)],
        "critic_warmup": [field.name for field in fields(CriticWarmup)],
        "model": ["generator", "discriminator"],
    }
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
        if override.startswith("+") and group in LIST_GROUPS and key and key.split(".")[0] not in chosen(config, group):
            taken = ",".join(chosen(config, group))
            raise ConfigError(
                f"{override}: {group}=[{taken}] has no {key.split('.')[0]}; add it to the list or leave this out."
                f"{nearest(key.split('.')[0], options(group))}"
            )


def check_typed(overrides: Sequence[str], folders: Sequence[Path]) -> None:
    """Refuse values on which Hydra fails without a message, or writes into the working directory.

    Raises:
        ConfigError: naming the value, the rule and the remedy.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except OverrideParseException:
        return  # Hydra will say so
    for override in parsed:
        key, line = override.key_or_group, override.input_line
        given = override.value()
        if override.is_delete() or (override.is_sweep_override() and not isinstance(given, ChoiceSweep)):
            continue
        for value in given.list if isinstance(given, ChoiceSweep) else [given]:
            if key in ("hydra.run.dir", "hydra.sweep.dir"):
                raise ConfigError(f"{line}: choose the folder by run_dir={value}, which never overwrites a run.")
            if key == "run_dir" and value in (None, ""):
                raise ConfigError(f"{line}: a run needs a folder of its own; name one, or leave it out: one by date.")
            if key in LIST_GROUPS and not isinstance(value, str | list | dict):
                raise ConfigError(f"{line}: must be a list; {key}=[] is none of them.")
            if key in groups(folders) and key not in LIST_GROUPS and not isinstance(value, str | dict):
                names = ", ".join(options(key, folders))
                raise ConfigError(f"{line}: must be one option; leave it out, or choose of {names}.")


def shortest(path: Path) -> Path:
    """Write a path from the working directory where it lies below it, as a person would type it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def discard_unused() -> None:
    """Remove the folders that this process made and no run began in, so that a mistake leaves no litter."""
    for made in map(Path, created):
        for folder in (*made.glob("[0-9]*"), made):  # a sweep's jobs, then their folder
            if folder.is_dir() and {path.name for path in folder.iterdir()} <= STARTED:
                shutil.rmtree(folder)
        if not made.exists() and shortest(made).parts[0] == "outputs":
            with suppress(OSError):  # until one that holds others
                for parent in shortest(made).parents[:-2]:
                    parent.rmdir()
    created.clear()


def refuse_sweep() -> None:
    """Stand for the folder of a sweep where there can be none.

    Raises:
        ConfigError: always.
    """
    raise ConfigError("-m: task=sample writes one file, not a sweep's folders; call it once for each run.")


def main() -> None:
    """Run the command with the arguments of the process, and leave with the exit status of the contract."""
    arguments = sys.argv[1:]
    if {"--help", "-h"} & set(arguments):
        print(help_text(arguments))
        return
    if "--version" in arguments:
        print(f"gantrain {version('gantrain')}")
        return

    overrides = get_args_parser().parse_intermixed_args(arguments).overrides
    sys.argv[1:] = flags_first(arguments, overrides)
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # have Hydra hand its errors over instead of printing them
    sys.path.insert(0, str(Path.cwd()))  # a user's own modules, named by their own configs
    logging.basicConfig(level=logging.INFO, handlers=[ConsoleHandler()], force=True)
    logging.getLogger("hydra").setLevel(logging.WARNING)  # that a job starts is said by run_job
    signal.signal(signal.SIGTERM, lambda signum, _: sys.exit(128 + signum))
    register()
    OmegaConf.register_new_resolver("no_sweep", refuse_sweep, replace=True)
    failures: list[GantrainError] = []

    def fail(failure: GantrainError, error: Exception) -> None:
        if wants_traceback:
            traceback.print_exception(error)
        console.print(f"gantrain: {failure}", style="red", markup=False, soft_wrap=True)
        failures.append(failure)

    def task(composed: DictConfig) -> None:
        try:
            run_job(composed)
        except GantrainError as error:  # Hydra would add a message of its own, and a sweep is to go on with other jobs
            fail(error, error)

    try:
        check_typed(overrides, config_folders(arguments))
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")(task)()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        failure = explain(error, arguments)
        if failure is None:
            raise
        fail(failure, error)
    finally:
        discard_unused()
    if failures:
        sys.exit(failures[0].exit_status)


def flags_first(arguments: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """Put the overrides behind the flags and their values: Hydra reads them only where they stand together."""
    flags = list(arguments)
    for override in overrides:
        flags.remove(override)
    return [*flags, *overrides]


class ConsoleHandler(logging.Handler):
    """Print log messages through the console, above a progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        style = "yellow" if record.levelno >= logging.WARNING else ""
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        console.print(prefix + record.getMessage(), style=style, markup=False, soft_wrap=True)
