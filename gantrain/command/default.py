"""The experiment that the command runs if no recipe and no data are chosen."""

from collections.abc import Sequence
from pathlib import Path

from gantrain.command.overrides import key_of, saved_overrides, value_of
from gantrain.errors import DataError
from gantrain.session.saved import holds_run, load_record, load_yaml

EXPERIMENT = "digits"

CHOICES = {"model", "network", "dataset", "experiment"}
"""Groups of which the command line must choose one for another experiment than the default."""

TASKS = {"train", "benchmark"}
"""Tasks that train; the others take the recipe from a run."""


def with_default_experiment(overrides: Sequence[str]) -> list[str]:
    """Prepend the default experiment to overrides; see takes_default."""
    return [f"experiment={EXPERIMENT}", *overrides]


def takes_default(overrides: Sequence[str]) -> bool:
    """Return whether overrides choose no experiment: neither model, network, dataset nor experiment.

    A run that is resumed keeps its recipe: `resume=FOLDER` takes its saved overrides, and for a run that exists in
    `run_dir` the default is taken only if it was made with the default.
    """
    wanted = {key_of(override): value_of(override) for override in overrides}
    if CHOICES & wanted.keys() or wanted.get("task", "train") not in TASKS:
        return False
    if wanted.get("resume", "auto") not in ("auto", "null"):
        return False
    return all(made_by_default(run) for run in runs_in(wanted.get("run_dir", "")))


def runs_in(run_dir: str) -> list[Path]:
    """Return the folder if it holds a run, or else the runs of the sweep that it holds."""
    folder = Path(run_dir)
    if not run_dir or "${" in run_dir:
        return []
    try:
        return [folder] if holds_run(folder) else [run for run in folder.glob("[0-9]*") if holds_run(run)]
    except (OSError, ValueError):  # an impossible name, or no permission; the task reports it
        return []


def made_by_default(run: Path) -> bool:
    """Return whether a run was made with the default experiment."""
    try:
        saved = load_yaml(run / ".hydra" / "overrides.yaml")
    except DataError:
        saved = None
    if isinstance(saved, list):
        return f"experiment={EXPERIMENT}" in saved
    choices = load_record(run).get("choices")  # the overrides are missing or damaged
    if isinstance(choices, dict):
        return bool(choices.get("experiment") == EXPERIMENT)
    try:
        return f"experiment={EXPERIMENT}" in saved_overrides(run)  # those of the newest checkpoint
    except DataError:
        return False
