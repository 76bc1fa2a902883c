"""The `gantrain` command: parse the arguments, compose the config with Hydra, and run the task."""

import argparse
import logging
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from gantrain.command import trust
from gantrain.command.arguments import check_own_options, print_to_stdout, split
from gantrain.command.auto import Choice, with_chosen_recipe
from gantrain.command.checks import check_flags, check_keys, check_overrides
from gantrain.command.default import takes_default, with_default_experiment
from gantrain.command.explain import explain
from gantrain.command.folders import claimed_sweep, created, distinct_folders, register
from gantrain.command.help import config_folders, help_text
from gantrain.command.overrides import (
    key_of,
    quote,
    shell_command,
    with_options_of_run,
    with_saved_overrides,
    with_whole_numbers,
)
from gantrain.command.paths import expand_in, with_expanded_paths
from gantrain.command.signals import exit_if_signalled, leave_on_signals
from gantrain.config import CONF, LIST_GROUPS, Config, selected_options
from gantrain.console import console
from gantrain.engine.openmp import bound_spin
from gantrain.engine.torchrun import adopt_submitit, process_rank
from gantrain.errors import ConfigError, GantrainError
from gantrain.locks import exclusive
from gantrain.tasks.job import Job

FILES_BEFORE_START = {".hydra", "gantrain.log", "multirun.yaml"}
"""What a folder contains at most before a run starts in it."""


def run_job(composed: DictConfig, flags: Sequence[str], *, is_default: bool, reasons: Sequence[str]) -> None:
    """Run the task of one composed config; in a sweep this is called for each job.

    Args:
        is_default: whether the command line chose no experiment, so that the default one is run.
        reasons: of the choices of model=auto.

    Raises:
        GantrainError: a key is unknown, or the task raises it.
    """
    hydra_config = HydraConfig.get()
    typed = list(hydra_config.overrides.task)
    if hydra_config.mode == hydra.types.RunMode.MULTIRUN:
        heading = f"\nRun {hydra_config.job.num}: {' '.join(typed)}"
        console.print(heading, style="bold", markup=False, soft_wrap=True)
    node: Any = OmegaConf.to_container(composed, resolve=True)
    check_keys(node, typed)
    expand_in(node)
    # Validate again: the schema does not check the values of interpolations, which are resolved only now.
    config: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), node))
    if config.trust != trust.trusted:
        raise ConfigError(f"trust={config.trust} is set by a config; trust can only be set on the command line.")
    choices = {group: choice for group, choice in hydra_config.runtime.choices.items() if "/" not in group}
    folder = relative_to_cwd(Path(hydra_config.runtime.output_dir))
    job = Job(
        name=choices["experiment"] or f"{choices['model']}-{choices['dataset']}",
        folder=folder,
        config=config,
        choices=choices | {group: selected_options(getattr(config, group), group) for group in LIST_GROUPS},
        typed=typed,
        resume_command=resume_command(folder, flags),
        reasons=reasons,
    )
    if hydra_config.mode == hydra.types.RunMode.RUN and choices["task"] == "train":
        # Print this before the import of torch, which takes more than a second.
        note = " (the default; choose with model=, dataset= or experiment=)" if is_default else ""
        heading = f"gantrain {version('gantrain')}: {job.name}{note}"
        console.print(heading, markup=False, soft_wrap=True, highlight=False)
    bound_spin(config.runtime.spin)
    task = trust.resolve("task", config.task.get("_target_"))
    exit_if_signalled()
    task(job)


def resume_command(folder: Path, flags: Sequence[str]) -> str:
    """Return the command that resumes the run in the folder."""
    given = [f"trust=[{','.join(trust.trusted)}]"] if trust.trusted else []
    return shell_command("gantrain", *flags, f"resume={quote(str(folder))}", *given)


def relative_to_cwd(path: Path) -> Path:
    """Return a path below the working directory as a relative path, any other path unchanged."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def remove_unused_folders() -> None:
    """Remove the folders that this process created and in which no run started."""
    for made in map(Path, created):
        for folder in (*made.glob("[0-9]*"), made):  # the runs of a sweep, then the sweep's folder
            if folder.is_dir() and {path.name for path in folder.iterdir()} <= FILES_BEFORE_START:
                with suppress(ConfigError, OSError), exclusive(folder):  # unless another process uses it
                    shutil.rmtree(folder)
        if not made.exists() and relative_to_cwd(made).parts[0] == "outputs":
            with suppress(OSError):  # stop at a folder that is not empty
                for parent in relative_to_cwd(made).parents[:-2]:
                    parent.rmdir()
    created.clear()


def reject_sweep() -> None:
    """Resolve the sweep folder of a task that cannot be swept.

    Raises:
        ConfigError: always.
    """
    raise ConfigError("-m: only task=train can be swept; run the command once for each run.")


class Task:
    """The function that Hydra calls with each composed config, in this process or in one that a launcher started.

    Attributes:
        failures: errors that were reported to the user.
        unexpected: other exceptions, which end the command with a traceback.
        is_copy: whether this object was sent to another process.
        is_default: whether the command line chose no experiment, so that the default one is run.
        reasons: of the choices of model=auto.
    """

    def __init__(self, arguments: Sequence[str], flags: Sequence[str], *, wants_traceback: bool):
        self.arguments, self.flags, self.wants_traceback = arguments, flags, wants_traceback
        self.fixed_run_dir, self.sweeps_run_dir, self.is_default = False, False, False
        self.sweep, self.is_copy = "", False
        self.trusted: list[str] = []
        self.reasons: list[str] = []
        self.failures: list[GantrainError] = []
        self.unexpected: list[Exception] = []

    def __call__(self, composed: DictConfig) -> None:
        """Run the task and report its error, if any; the other runs of a sweep continue."""
        try:
            flags = without(self.flags, ["-m", "--multirun"])
            run_job(composed, flags, is_default=self.is_default, reasons=self.reasons)
        except Exception as error:
            exit_if_signalled()  # the error may be a consequence
            failure = explain(error, self.arguments)
            if failure is None and not self.is_copy:
                self.unexpected.append(error)
                raise
            if failure is None:
                traceback.print_exc()
                failure = GantrainError(f"a run has failed ({type(error).__name__}: {error}).")
            self.fail(failure, error)
            if self.is_copy:
                raise failure from None  # to the process that waits for the sweep

    def fail(self, failure: GantrainError, error: Exception) -> None:
        """Print the error for the user and remember it; with its traceback if that is wanted."""
        if self.wants_traceback:
            traceback.print_exception(error)
        console.print(f"gantrain: {failure}", style="red", markup=False, soft_wrap=True)
        self.failures.append(failure)

    def register(self) -> None:
        """Register the schema, the resolvers and the trusted modules in this process."""
        register(fixed_run_dir=self.fixed_run_dir, sweeps_run_dir=self.sweeps_run_dir, sweep=self.sweep)
        OmegaConf.register_new_resolver("no_sweep", reject_sweep, replace=True)
        trust.trusted[:] = self.trusted
        if self.trusted and str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))  # where the user's own modules are; last, so that they hide no other

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"sweep": claimed_sweep(), "is_copy": True, "failures": [], "unexpected": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        adopt_submitit()
        console.quiet = process_rank().local_rank > 0
        configure_logging()
        self.register()
        trust.check_composed_configs()


def configure_logging() -> None:
    """Print log messages through the console."""
    logging.basicConfig(level=logging.INFO, handlers=[ConsoleHandler()], force=True)
    logging.raiseExceptions = False  # if the log cannot be written, the run continues
    # Their INFO messages are noise: run_job prints what starts, and matplotlib logs fonts.
    for name in ("hydra", "submitit", "matplotlib"):
        logging.getLogger(name).setLevel(logging.WARNING)


def main() -> None:
    """Run the command with the arguments of the process; exit with a status other than 0 if it fails."""
    arguments = sys.argv[1:]
    try:
        if {"--help", "-h"} & set(arguments):
            print_to_stdout(help_text(arguments))
            return
        if "--version" in arguments:
            print_to_stdout(f"gantrain {version('gantrain')}")
            return
        given = split(arguments, config_folders(arguments))
    except GantrainError as refusal:
        console.print(f"gantrain: {refusal}", style="red", markup=False, soft_wrap=True)
        sys.exit(refusal.exit_status)
    flags = without(arguments, given.overrides)
    full_error = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors instead of printing them
    configure_logging()
    earlier = leave_on_signals()
    console.quiet = process_rank().local_rank > 0  # otherwise every rank prints the same
    task = Task(arguments, flags, wants_traceback=full_error == "1")
    try:
        overrides = overrides_to_compose(given, config_folders(arguments), task)
        sys.argv[1:] = [*flags, *overrides]  # Hydra reads overrides only if no flag is between them
        has_own_configs = len(config_folders(arguments)) > 1
        # Hydra's help composes only Hydra's own config.
        checks = nullcontext() if given.hydra_help else trust.hydra_checks(has_own_configs=has_own_configs)
        with checks, distinct_folders():
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")(task)()
    except KeyboardInterrupt:  # a library raised it itself
        sys.exit(130)
    except Exception as error:
        exit_if_signalled()
        failure = explain(error, arguments)
        if failure is None and error in task.unexpected:
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        task.fail(failure or ConfigError(f"these overrides do not fit the config ({reason}); see --cfg job."), error)
    finally:
        console.quiet = False
        os.environ["HYDRA_FULL_ERROR"] = full_error or ""
        remove_unused_folders()
        for signum, handler in earlier.items():
            signal.signal(signum, handler)
    if task.failures:
        sys.exit(task.failures[0].exit_status)


def overrides_to_compose(given: argparse.Namespace, folders: Sequence[Path], task: Task) -> list[str]:
    """Check what was typed, and return the overrides from which Hydra composes the config; prepare the task.

    Args:
        given: the flags and overrides of the command line.
        folders: the folders of configs.

    Raises:
        GantrainError: something that was typed is wrong, or the run that is resumed cannot be read.
    """
    given.overrides = with_whole_numbers(with_expanded_paths(given.overrides))
    check_flags(given)
    check_own_options(folders)
    check_overrides(given.overrides, folders)
    task.trusted = trusted_modules(given.overrides)
    task.register()  # model=auto builds networks
    task.is_default = not (given.shell_completion or given.hydra_help) and takes_default(given.overrides)
    chosen = with_recipe(given.overrides, folders, is_default=task.is_default)
    task.reasons, typed = chosen.reasons, with_options_of_run(chosen.overrides)
    overrides = with_saved_overrides(typed)
    check_overrides(overrides, folders)
    if given.multirun and overrides != typed:
        raise ConfigError(
            "-m resume=...: resume= names a single run; resume a sweep by its own command with run_dir=FOLDER."
        )
    run_dirs = [override for override in overrides if key_of(override) == "run_dir"]
    task.fixed_run_dir = bool(run_dirs)
    task.sweeps_run_dir = any(parsed.is_sweep_override() for parsed in parse(run_dirs))
    task.register()
    return overrides


def with_recipe(overrides: Sequence[str], folders: Sequence[Path], *, is_default: bool) -> Choice:
    """Return the overrides with the default experiment, or with what model=auto chooses, if they have it."""
    return Choice(with_default_experiment(overrides), []) if is_default else with_chosen_recipe(overrides, folders)


def without(arguments: Sequence[str], some: Sequence[str]) -> list[str]:
    """Return the arguments without one occurrence of each of `some`."""
    rest = list(arguments)
    for argument in some:
        if argument in rest:
            rest.remove(argument)
    return rest


def trusted_modules(overrides: Sequence[str]) -> list[str]:
    """Return the modules that the overrides trust; check_overrides must have checked them."""
    parsed = parse([override for override in overrides if key_of(override) == "trust"])
    return [str(name) for override in parsed for name in cast(list[Any], override.value())]


def parse(overrides: list[str]) -> list[Override]:
    """Parse overrides; check_overrides must have checked them."""
    return OverridesParser.create().parse_overrides(overrides)


class ConsoleHandler(logging.Handler):
    """Print log messages through the console, above a progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        style = "yellow" if record.levelno >= logging.WARNING else ""
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        console.print(prefix + record.getMessage(), style=style, markup=False, soft_wrap=True)
