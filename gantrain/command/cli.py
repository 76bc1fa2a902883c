"""The `gantrain` command: answer what needs no training at once, compose the config, hand over to the task."""

import logging
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from gantrain.command import trust
from gantrain.command.arguments import check_own_options, print_or_leave, split
from gantrain.command.checks import check_flags, check_keys, check_typed
from gantrain.command.explain import explain
from gantrain.command.folders import claimed_sweep, created, register
from gantrain.command.help import config_folders, help_text
from gantrain.command.overrides import key_of, quote, shell_command, with_saved_overrides
from gantrain.config import CONF, LIST_GROUPS, Config, chosen
from gantrain.console import console
from gantrain.engine.openmp import bound_spin
from gantrain.engine.torchrun import adopt_submitit, place
from gantrain.errors import ConfigError, GantrainError
from gantrain.files import exclusive
from gantrain.tasks.job import Job

STARTED = {".hydra", "gantrain.log", "multirun.yaml"}
"""What is in a folder before its run begins."""


def run_job(composed: DictConfig, flags: Sequence[str]) -> None:
    """Do the task of one composed config; a sweep calls this for each of its jobs.

    Raises:
        GantrainError: a key that nothing reads, or what the task raises.
    """
    hydra_config = HydraConfig.get()
    typed = list(hydra_config.overrides.task)
    if hydra_config.mode == hydra.types.RunMode.MULTIRUN:
        heading = f"\nRun {hydra_config.job.num}: {' '.join(typed)}"
        console.print(heading, style="bold", markup=False, soft_wrap=True)
    node: Any = OmegaConf.to_container(composed, resolve=True)
    check_keys(node, typed)
    # Once more through the schema, which an interpolation passes whatever its value.
    config: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), node))
    if config.trust != trust.trusted:
        raise ConfigError(f"trust={config.trust} is set by a config; trust can only be set on the command line.")
    choices = {group: choice for group, choice in hydra_config.runtime.choices.items() if "/" not in group}
    folder = shortest(Path(hydra_config.runtime.output_dir))
    job = Job(
        name=choices["experiment"] or f"{choices['model']}-{choices['dataset']}",
        folder=folder,
        config=config,
        choices=choices | {group: chosen(getattr(config, group), group) for group in LIST_GROUPS},
        typed=typed,
        resume_command=resume_command(folder, flags),
    )
    if hydra_config.mode == hydra.types.RunMode.RUN and choices["task"] == "train":
        # Importing torch takes a second and more.
        console.print(f"gantrain {version('gantrain')}: {job.name}", markup=False, soft_wrap=True, highlight=False)
    bound_spin(config.runtime.spin)
    trust.resolve("task", config.task.get("_target_"))(job)


def resume_command(folder: Path, flags: Sequence[str]) -> str:
    """Write the command that goes on with the run in the folder."""
    given = [f"trust=[{','.join(trust.trusted)}]"] if trust.trusted else []
    return shell_command("gantrain", *flags, f"resume={quote(str(folder))}", *given)


def shortest(path: Path) -> Path:
    """Write a path from the working directory where it lies below it, as a person would type it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def discard_unused() -> None:
    """Remove the folders that this process made and no run began in, so that a mistake leaves no litter."""
    for made in map(Path, created):
        for folder in (*made.glob("[0-9]*"), made):  # a sweep's jobs, then their folder
            if folder.is_dir() and {path.name for path in folder.iterdir()} <= STARTED:
                with suppress(ConfigError, OSError), exclusive(folder):  # unless another process has begun there
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


class Task:
    """The task of a composed config, as Hydra calls it: in this process, or in one that a launcher has sent it to.

    Attributes:
        failures: what the user was told of.
        faults: errors of the task's own.
        sent: whether this is a copy in another process.
    """

    def __init__(self, arguments: Sequence[str], flags: Sequence[str], *, wants_traceback: bool):
        self.arguments, self.flags, self.wants_traceback = arguments, flags, wants_traceback
        self.fixed_run_dir, self.sweep, self.sent = False, "", False
        self.trusted: list[str] = []
        self.failures: list[GantrainError] = []
        self.faults: list[Exception] = []

    def __call__(self, composed: DictConfig) -> None:
        """Do it. An error is told at once, for a sweep is to go on with other jobs and Hydra would add to it."""
        try:
            run_job(composed, without(self.flags, ["-m", "--multirun"]))
        except Exception as error:
            failure = explain(error, self.arguments)
            if failure is None and not self.sent:
                self.faults.append(error)
                raise
            if failure is None:
                traceback.print_exc()
                failure = GantrainError(f"a run has failed ({type(error).__name__}: {error}).")
            self.fail(failure, error)
            if self.sent:
                raise failure from None  # to where the sweep is waited for

    def fail(self, failure: GantrainError, error: Exception) -> None:
        """Tell the user."""
        if self.wants_traceback:
            traceback.print_exception(error)
        console.print(f"gantrain: {failure}", style="red", markup=False, soft_wrap=True)
        self.failures.append(failure)

    def settle(self) -> None:
        """Make known to this process what a config may refer to."""
        register(fixed_run_dir=self.fixed_run_dir, sweep=self.sweep)
        OmegaConf.register_new_resolver("no_sweep", refuse_sweep, replace=True)
        trust.trusted[:] = self.trusted
        if self.trusted:
            sys.path.append(str(Path.cwd()))  # where the user's own modules are; last, so that they hide no other

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"sweep": claimed_sweep(), "sent": True, "failures": [], "faults": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        adopt_submitit()
        console.quiet = place().local_rank > 0
        settle_logging()
        self.settle()
        trust.guard()


def settle_logging() -> None:
    """Have messages go through the console."""
    logging.basicConfig(level=logging.INFO, handlers=[ConsoleHandler()], force=True)
    logging.raiseExceptions = False  # a log that cannot be written is no reason to end a run
    # That a job starts is said by run_job, and of fonts nobody wants to hear.
    for name in ("hydra", "submitit", "matplotlib"):
        logging.getLogger(name).setLevel(logging.WARNING)


def main() -> None:
    """Run the command with the arguments of the process, and leave with the exit status of the contract."""
    arguments = sys.argv[1:]
    try:
        if {"--help", "-h"} & set(arguments):
            print_or_leave(help_text(arguments))
            return
        if "--version" in arguments:
            print_or_leave(f"gantrain {version('gantrain')}")
            return
        given = split(arguments, config_folders(arguments))
    except GantrainError as refusal:
        console.print(f"gantrain: {refusal}", style="red", markup=False, soft_wrap=True)
        sys.exit(refusal.exit_status)
    flags = without(arguments, given.overrides)
    asked = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # have Hydra hand its errors over instead of printing them
    settle_logging()
    # An exception of its own for SIGINT too: after a KeyboardInterrupt Python may end by the signal, whoever caught it.
    leave = [(s, signal.signal(s, lambda signum, _: sys.exit(128 + signum))) for s in (signal.SIGINT, signal.SIGTERM)]
    console.quiet = place().local_rank > 0  # they would say the same
    task = Task(arguments, flags, wants_traceback=asked == "1")
    try:
        check_flags(given)
        check_own_options(config_folders(arguments))
        if given.multirun and (size := place().world_size) > 1:
            raise ConfigError(f"-m: a sweep's runs take a process each, and torchrun started {size} for one run.")
        check_typed(given.overrides, config_folders(arguments))
        overrides = with_saved_overrides(given.overrides)
        check_typed(overrides, config_folders(arguments))
        if given.multirun and overrides != given.overrides:
            raise ConfigError("-m resume=...: a run is one run; resume a sweep by its own command with run_dir=FOLDER.")
        sys.argv[1:] = [*flags, *overrides]  # Hydra reads overrides only where they stand together
        task.fixed_run_dir = any(key_of(override) == "run_dir" for override in overrides)
        task.trusted = trusted_by(given.overrides)
        task.settle()
        with trust.guarded():
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")(task)()
    except KeyboardInterrupt:  # raised by what does not know of our handler
        sys.exit(130)
    except Exception as error:
        failure = explain(error, arguments)
        if failure is None and error in task.faults:
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        task.fail(failure or ConfigError(f"these overrides do not fit the config ({reason}); see --cfg job."), error)
    finally:
        console.quiet = False
        os.environ["HYDRA_FULL_ERROR"] = asked or ""
        discard_unused()
        for signum, handler in leave:
            signal.signal(signum, handler)
    if task.failures:
        sys.exit(task.failures[0].exit_status)


def without(arguments: Sequence[str], some: Sequence[str]) -> list[str]:
    """Leave out one of each."""
    rest = list(arguments)
    for argument in some:
        if argument in rest:
            rest.remove(argument)
    return rest


def trusted_by(overrides: Sequence[str]) -> list[str]:
    """Read what the user trusts off what was typed, whose shape check_typed has looked at."""
    parsed = OverridesParser.create().parse_overrides([o for o in overrides if key_of(o) == "trust"])
    return [str(name) for override in parsed for name in cast(list[Any], override.value())]


class ConsoleHandler(logging.Handler):
    """Print log messages through the console, above a progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        style = "yellow" if record.levelno >= logging.WARNING else ""
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        console.print(prefix + record.getMessage(), style=style, markup=False, soft_wrap=True)
