"""Resume a run from its newest checkpoint, and roll back to it after a divergence."""

import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gantrain.assemble import Training
from gantrain.callbacks import csv
from gantrain.callbacks.checkpoint import Checkpoint
from gantrain.config import Config, Node, selected_options
from gantrain.datasets.base import ImageDataset
from gantrain.errors import ConfigError, DivergedError
from gantrain.files import remove_temporaries
from gantrain.older import remedy_for_labels
from gantrain.session import checkpoint, snapshot
from gantrain.session.record import Record
from gantrain.session.run import PreviousSession, Run
from gantrain.session.saved import (
    check_same,
    has_config,
    holds_run,
    load_config,
    load_record,
    require_new,
    require_regular_files,
)
from gantrain.session.signals import ROLL_BACK, RolledBack

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SavedRun:
    """A run that can be resumed.

    Attributes:
        changes: keys of the config that differ from the saved config: for each, the old and the new value.
        path, content: the newest checkpoint; None if the run ended before its first.
    """

    changes: dict[str, list[Any]]
    path: Path | None = None
    content: checkpoint.Content | None = None


def find_run(folder: Path, config: Config) -> SavedRun | None:
    """Return the run in the folder that can be resumed with this config; None if the folder holds no run.

    Raises:
        ConfigError: there is a run, but it must not be resumed, or not with this config.
        DataError: its files are damaged or have been tampered with.
    """
    if not holds_run(folder):
        return None
    require_regular_files(folder)
    if config.resume is None or not (has_config(folder) or checkpoint.paths(folder)):
        require_new(folder)
    newest = checkpoint.newest(folder)
    if made_no_step(folder, newest[1]["step"] if newest else 0):
        return SavedRun({})
    if newest is None:
        saved = load_config(folder)
        changes = check_same(saved, config)
        require_no_checkpoint_yet(folder, saved)
        return SavedRun(changes)
    path, content = newest
    # Compare with the config in the checkpoint: an attempt to resume that failed may have changed the config file.
    return SavedRun(check_same(content["config"], config), path, content)


def made_no_step(folder: Path, saved_step: int) -> bool:
    """Return whether a run ended before its first step, so that it begins anew, also with another config.

    Args:
        saved_step: the step of its newest checkpoint; 0 if it has none.
    """
    record, rows = load_record(folder), folder / "metrics.csv"
    if saved_step or record.get("steps") != 0 or not has_config(folder):
        return False
    if rows.is_file() and csv.read_cells(rows):
        return False
    # A run that was killed is still "running", after any number of steps; the first is always logged.
    return record.get("status") in ("failed", "stopped") or (record.get("status") == "running" and rows.is_file())


def require_no_checkpoint_yet(folder: Path, saved: Node) -> None:
    """Check that a run without a checkpoint ended before its first checkpoint, so that it can start over from step 0.

    Raises:
        ConfigError: it ended later, so its checkpoints were deleted or never written.
    """
    record = load_record(folder)
    status, steps = record.get("status"), record.get("steps", 0)
    # The first checkpoint is written in the background; the step at which the second is due waits until it is complete.
    last = 2 * saved["checkpoint"]["every"] if "checkpoint" in selected_options(saved["callback"], "callback") else -1
    cut_short = status in (None, "running", "failed") or (status == "stopped" and record.get("error"))
    if not cut_short or not (isinstance(steps, int) and steps <= last):
        raise ConfigError(
            f"run_dir={folder} holds a run (run.json: {status}, step {steps}) without a checkpoint to resume from, and "
            "runs are never overwritten; choose another folder, or move that one away."
        )


def restore(training: Training, record: Record, found: SavedRun | None) -> bool:
    """Restore every rank from the newest checkpoint of the run in its folder.

    A run that was killed before its first checkpoint starts over; a new run may load its networks from `init_from`.

    Args:
        found: on rank 0 the run to resume, if there is one.

    Returns:
        False if the run is already finished.

    Raises:
        ConfigError: the run has more steps than the config has, or the data have changed.
        DataError: the checkpoint does not fit the config.
    """
    run, processes = training.run, training.run.processes
    with processes.raise_on_all_ranks():
        is_finished = processes.is_main and found is not None and check_saved_run(training, found)
        if processes.is_main and not is_finished:
            if found is not None and found.content is not None:
                restore_content(training, found.path or run.folder, found.content)
                record_resumed(record, found)
                warn_of_other_length(run, found.content["steps_planned"])
            elif run.config.init_from is not None:
                path, content = checkpoint.find(run.config.init_from)
                snapshot.load_weights(run, content, path)
            training.callbacks.check()
    if processes.broadcast(is_finished):
        return False
    content = processes.broadcast(found.content if found else None)
    if content is not None and not processes.is_main:
        restore_content(training, run.folder, content)
    processes.broadcast_networks(run.state)
    return True


def check_saved_run(training: Training, found: SavedRun) -> bool:
    """Check that the run in the folder can be resumed, and remove incomplete files.

    Returns:
        True if the run is finished.

    Raises:
        ConfigError: the run has more steps than the config has, or the data have changed.
    """
    run, content = training.run, found.content
    remove_temporaries(run.folder)
    if content is None:
        logger.info("%s ended before its first checkpoint; it starts over from step 0.", run.folder)
        for pattern in (
            "samples/step_*.png",
            "samples/real.png",
            "tensorboard/events.out.tfevents.*",
            "checkpoints/step_00000000.pt",
        ):
            for old in run.folder.glob(pattern):
                old.unlink()
        return False
    if run.steps < content["step"]:
        done = content["step"]
        raise ConfigError(
            f"steps={run.steps}: the run in {run.folder} has already done {done:,} steps; set steps to at least {done}."
        )
    if content["fingerprint"] != run.dataset.fingerprint and "dataset" not in run.config.allow_change:
        raise ConfigError(
            f"dataset: {run.folder} was trained on different data from what dataset={run.dataset.name} loads now: "
            f"{describe_change(run, content['fingerprint'])} (fingerprint {content['fingerprint'][:12]}, now "
            f"{run.dataset.fingerprint[:12]}). Restore the data, or allow the change: 'allow_change=[dataset]'."
            f"{remedy_for_labels(content['config'])}"
        )
    return load_record(run.folder).get("status") == "finished" and content["step"] == run.steps


def describe_change(run: Run, fingerprint: str) -> str:
    """Say how the data differ from those with an earlier fingerprint: by their files, or else by their number."""
    dataset = run.dataset
    if isinstance(dataset, ImageDataset) and (changes := dataset.describe_change(lambda found: found == fingerprint)):
        return changes
    recorded = load_record(run.folder).get("dataset")
    before = recorded.get("num_images") if isinstance(recorded, dict) else None
    if isinstance(before, int) and before != dataset.num_images:
        return f"{before:,} images then, {dataset.num_images:,} now"
    return "their number is the same, but not their pixels or labels"


def restore_content(training: Training, path: Path, content: checkpoint.Content) -> None:
    """Load a checkpoint into the run, and set the run's previous session."""
    run = training.run
    snapshot.restore(run, content, path)
    run.previous = PreviousSession(content["steps_planned"], content["seconds"], content.get("intervals", {}))


def record_resumed(record: Record, found: SavedRun) -> None:
    """Record in the history of run.json that the run was resumed, and log which settings changed."""
    record.add_event("resumed", changes=found.changes)
    for name, (old_value, value) in found.changes.items():
        logger.info("%s has changed from %s to %s.", name, old_value, value)


def warn_of_other_length(run: Run, steps_planned: int) -> None:
    """Warn if the planned number of steps has changed, and settings follow the fraction of the steps that is done."""
    schedules = run.config.schedule.items()
    following = [f"schedule.{name}" for name, schedule in schedules if schedule.get("unit") == "fraction"]
    following += [f"regularizer.{name}" for name, part in run.objective.regularizers.items() if part.follows_fraction]
    if steps_planned != run.steps and following:
        logger.warning(
            "steps has changed from %s to %s: %s follow the fraction of the steps that is done, and change at once.",
            *(f"{steps_planned:,}", f"{run.steps:,}", ", ".join(following)),
        )


def roll_back(training: Training, record: Record, reason: DivergedError | RolledBack) -> None:
    """Roll every rank back to the last checkpoint, from which training continues with different random numbers.

    Args:
        reason: on rank 0 the divergence; on the other ranks the notice that rank 0 rolls back.

    Raises:
        DivergedError: the config does not ask for a rollback, max_rollbacks is reached, or there is no checkpoint.
    """
    run = training.run
    config, rollbacks, step = run.config, run.state.rollbacks, run.state.step
    if isinstance(reason, RolledBack):  # rank 0 decides
        snapshot.restore(run, run.processes.broadcast(None), run.folder)
        run.state.rollbacks = rollbacks + 1
        return
    if config.on_divergence != "rollback" or rollbacks >= config.max_rollbacks:
        raise reason
    for callback in training.callbacks:
        if isinstance(callback, Checkpoint):
            with suppress(DivergedError):
                callback.wait()
    found = checkpoint.newest(run.folder)
    if found is None:
        raise reason
    run.processes.all_reduce_max(ROLL_BACK)
    run.processes.broadcast(found[1])
    snapshot.restore(run, found[1], found[0])
    run.state.rollbacks = rollbacks + 1
    record.add_event("rolled back", diverged_at=step, reason=str(reason))
    training.callbacks.rewind()
    logger.warning(
        "%s Rolled back to step %s, with different random numbers (%s of at most %s times).",
        *(reason, run.state.step, run.state.rollbacks, config.max_rollbacks),
    )
