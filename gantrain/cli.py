"""The `gantrain` command: answer what needs no training at once, compose the config, hand over to the task."""

import argparse
import logging
import math
import os
import re
import shutil
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, RangeSweep
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf

from gantrain import trust
from gantrain.config import (
    CONF,
    CheckpointConfig,
    Config,
    CriticWarmup,
    Node,
    chosen,
    claimed_sweep,
    created,
    register,
)
from gantrain.console import console
from gantrain.errors import ConfigError, GantrainError
from gantrain.explain import LIST_GROUPS, explain, nearest, options
from gantrain.files import exclusive
from gantrain.help import config_folders, groups, help_text
from gantrain.resume import key_of, quote, shell_command, with_saved_overrides
from gantrain.torchrun import adopt_submitit, place

STARTED = {".hydra", "gantrain.log", "multirun.yaml"}
"""What is in a folder before its run begins."""

HYDRAS = re.compile(r"hydra/(launcher|sweeper)|hydra\.(launcher|sweeper)\..+|hydra\.verbose")
"""Hydra's own keys that are left to the user; the others make folders, call code or mean nothing here."""

MAX_RUNS = 10_000
"""In one sweep: Hydra lists them all before the first begins."""


@dataclass(frozen=True)
class Job:
    """One task to do: a composed config, and what Hydra knows of it.

    Attributes:
        name: the experiment's, or the model's and the dataset's.
        folder: where a run writes.
        choices: the option taken of each group.
        typed: the overrides as the user typed them, behind those of the run that is gone on with.
        resume_command: what goes on with this run when it has ended, as it would be typed.
    """

    name: str
    folder: Path
    config: Node
    choices: dict[str, Any]
    typed: list[str]
    resume_command: str


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
    config: Any = OmegaConf.to_container(composed, resolve=True)
    check_keys(config, typed)
    # Once more through the schema, which an interpolation passes whatever it stands for.
    config = OmegaConf.to_container(OmegaConf.merge(OmegaConf.structured(Config), config))
    if config["trust"] != trust.trusted:
        raise ConfigError(f"trust={config['trust']} is set by a config; what you trust is for you to type.")
    choices = {group: choice for group, choice in hydra_config.runtime.choices.items() if "/" not in group}
    folder = shortest(Path(hydra_config.runtime.output_dir))
    job = Job(
        name=choices["experiment"] or f"{choices['model']}-{choices['dataset']}",
        folder=folder,
        config=config,
        choices=choices | {group: chosen(config, group) for group in LIST_GROUPS},
        typed=typed,
        resume_command=resume_command(folder, flags),
    )
    trust.resolve("task", config["task"].get("_target_"))(job)


def resume_command(folder: Path, flags: Sequence[str]) -> str:
    """Write the command that goes on with the run in the folder."""
    given = [f"trust=[{','.join(trust.trusted)}]"] if trust.trusted else []
    return shell_command("gantrain", *flags, f"resume={quote(str(folder))}", *given)


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
    if {"--help", "-h"} & set(arguments):
        print(help_text(arguments))
        return
    if "--version" in arguments:
        print(f"gantrain {version('gantrain')}")
        return

    given = get_args_parser().parse_intermixed_args(arguments)
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
        if given.multirun and (size := place().size) > 1:
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
