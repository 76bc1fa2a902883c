"""The `gantrain` command: answer what needs no training at once, compose the config, hand over to the task."""

import logging
import os
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf

from gantrain.config import CONF, Node, chosen, register
from gantrain.console import console
from gantrain.errors import GantrainError, UserError
from gantrain.explain import explain
from gantrain.help import help_text

LIST_GROUPS = ("regularizer", "metric", "callback")
"""Groups of which a config takes a list of options."""


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


def run_job(composed: DictConfig) -> GantrainError | None:
    """Do the task of one composed config; a sweep calls this for each of its jobs.

    Returns:
        The error that the user has been told of, or None. It is not raised: Hydra would add a message of its own, and
        a sweep is to go on with its other jobs.
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
    try:
        get_method(config["task"]["_target_"])(job)
    except GantrainError as error:
        report(error)
        if isinstance(error, UserError):
            discard_unused(job.folder)
        return error
    return None


def shortest(path: Path) -> Path:
    """Write a path from the working directory where it lies below it, as a person would type it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def discard_unused(folder: Path) -> None:
    """Remove a run's folder that holds nothing but notes of the start, so that a mistake leaves no litter."""
    if ".hydra" in (names := {path.name for path in folder.iterdir()}) and names <= {".hydra", "gantrain.log"}:
        shutil.rmtree(folder)
        day = folder.parent
        if day.parent.name == "outputs" and not any(day.iterdir()):
            day.rmdir()


def report(error: GantrainError) -> None:
    """Print the message of an error."""
    console.print(f"gantrain: {error}", style="red", markup=False, soft_wrap=True)


def main() -> None:
    """Run the command with the arguments of the process, and leave with the exit status of the contract."""
    arguments = sys.argv[1:]
    if {"--help", "-h"} & set(arguments):
        print(help_text(arguments))
        return
    if "--version" in arguments:
        print(f"gantrain {version('gantrain')}")
        return

    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # have Hydra hand its errors over instead of printing them
    sys.path.insert(0, str(Path.cwd()))  # a user's own modules, named by their own configs
    logging.basicConfig(level=logging.INFO, handlers=[ConsoleHandler()], force=True)
    logging.getLogger("hydra").setLevel(logging.WARNING)  # that a job starts is said by run_job
    register()
    failures: list[GantrainError] = []

    def task(composed: DictConfig) -> None:
        if error := run_job(composed):
            failures.append(error)

    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")(task)()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        failure = None if wants_traceback else explain(error, arguments)
        if failure is None:
            raise
        report(failure)
        failures.append(failure)
    if failures:
        sys.exit(failures[0].exit_status)


class ConsoleHandler(logging.Handler):
    """Print log messages through the console, above a progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        style = "yellow" if record.levelno >= logging.WARNING else ""
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        console.print(prefix + record.getMessage(), style=style, markup=False, soft_wrap=True)
