"""Resume a run from its newest checkpoint, and roll it back to there after a divergence."""

import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gantrain.assemble import Training
from gantrain.callbacks.checkpoint import Checkpoint
from gantrain.config import Config, Node, chosen
from gantrain.errors import ConfigError, DivergedError
from gantrain.files import remove_temporaries
from gantrain.session import checkpoint
from gantrain.session.record import Record
from gantrain.session.run import Previous
from gantrain.session.saved import check_same, holds_run, load_config, load_record, require_new, require_plain
from gantrain.session.signals import ROLL_BACK, RolledBack

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """A run that is to be resumed.

    Attributes:
        changes: what differs from its config, by key: the old value and the new.
        path, content: its newest checkpoint; None where it ended before its first.
    """

    changes: dict[str, list[Any]]
    path: Path | None = None
    content: checkpoint.Content | None = None


def find_run(folder: Path, config: Config) -> Found | None:
    """Look for a run to resume.

    Raises:
        ConfigError: there is one that must not be resumed, or not under this config.
        DataError: its files are damaged or forged.
    """
    if not holds_run(folder):
        return None
    require_plain(folder)
    if config.resume is None or not (folder / ".hydra" / "config.yaml").exists():
        require_new(folder)
    newest = checkpoint.newest(folder)
    if newest is None:
        saved = load_config(folder)
        changes = check_same(saved, config)
        require_no_checkpoint_yet(folder, saved)
        return Found(changes)
    path, content = newest
    # Not with the config file, which an attempt may have changed that then made no step.
    return Found(check_same(content["config"], config), path, content)


def require_no_checkpoint_yet(folder: Path, saved: Node) -> None:
    """Refuse to restart a run without a checkpoint, unless it ended before its first.

    Raises:
        ConfigError: naming the reason.
    """
    record = load_record(folder)
    status, steps = record.get("status"), record.get("steps", 0)
    # The first may still have been on its way to the disk when the second was due, and no later.
    last = 2 * saved["checkpoint"]["every"] if "checkpoint" in chosen(saved["callback"], "callback") else 0
    cut_short = status in (None, "running", "failed") or (status == "stopped" and record.get("error"))
    if not cut_short or not (isinstance(steps, int) and steps < last):
        raise ConfigError(
            f"run_dir={folder} holds a run (run.json: {status}, step {steps}) without a checkpoint to resume from, and "
            "runs are never overwritten; choose another folder, or move that one away."
        )


def restore(training: Training, record: Record, found: Found | None) -> bool:
    """Bring every rank to the newest checkpoint of the run in its folder; False if the run is finished already.

    A run that was killed before its first checkpoint begins again; a new one may take its networks from `init_from`.

    Args:
        found: on rank 0 the run to resume, if there is one.

    Raises:
        ConfigError: the run has more steps than are asked for, or the data have changed.
        DataError: the checkpoint does not fit.
    """
    run, processes = training.run, training.run.processes
    with processes.failing_together():
        is_finished = processes.is_main and found is not None and is_complete(training, found)
        if processes.is_main and not is_finished:
            if found is not None and found.content is not None:
                restore_content(training, found.path or run.folder, found.content)
                note_resumed(record, found)
            elif run.config.init_from is not None:
                path, content = checkpoint.find(run.config.init_from)
                checkpoint.load_weights(run, content, path)
            training.callbacks.check()
    if processes.broadcast(is_finished):
        return False
    content = processes.broadcast(found.content if found else None)
    if content is not None and not processes.is_main:
        restore_content(training, run.folder, content)
    processes.broadcast_networks(run.state)
    return True


def is_complete(training: Training, found: Found) -> bool:
    """Check that the run in the folder can be resumed; True if it has all its steps and is finished.

    Raises:
        ConfigError: it has more steps than are asked for, or the data have changed.
    """
    run, content = training.run, found.content
    remove_temporaries(run.folder)
    if content is None:
        logger.info("%s ended before its first checkpoint; it begins again.", run.folder)
        for pattern in ("samples/step_*.png", "tensorboard/events.out.tfevents.*"):
            for old in run.folder.glob(pattern):
                old.unlink()
        return False
    if run.steps < content["step"]:
        raise ConfigError(f"steps={run.steps}: {run.folder} has {content['step']:,} already; give at least as many.")
    if content["fingerprint"] != run.dataset.fingerprint and "dataset" not in run.config.allow_change:
        raise ConfigError(
            f"dataset: {run.folder} was trained on other data than those of dataset={run.dataset.name} now "
            f"(fingerprint {content['fingerprint'][:12]}, now {run.dataset.fingerprint[:12]}); bring them back, or "
            "allow it: 'allow_change=[dataset]'."
        )
    return load_record(run.folder).get("status") == "finished" and content["step"] == run.steps


def restore_content(training: Training, path: Path, content: checkpoint.Content) -> None:
    """Load a checkpoint into the run, and note what part of the run came before."""
    run = training.run
    checkpoint.restore(run, content, path)
    run.previous = Previous(content["steps_planned"], content["seconds"], content.get("intervals", {}))


def note_resumed(record: Record, found: Found) -> None:
    """Add to run.json's history that the run was resumed, with which changes."""
    record.note("resumed", changes=found.changes)
    for name, (old_value, value) in found.changes.items():
        logger.info("%s is changed from %s to %s.", name, old_value, value)


def roll_back(training: Training, record: Record, reason: DivergedError | RolledBack) -> None:
    """Bring every rank back to the last checkpoint, from where training resumes with other random numbers.

    Raises:
        DivergedError: this was not asked for, or was done often enough.
    """
    run = training.run
    config, rollbacks, step = run.config, run.state.rollbacks, run.state.step
    if isinstance(reason, RolledBack):  # rank 0 decides
        checkpoint.restore(run, run.processes.broadcast(None), run.folder)
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
    checkpoint.restore(run, found[1], found[0])
    run.state.rollbacks = rollbacks + 1
    record.note("rolled back", diverged_at=step, reason=str(reason))
    training.callbacks.rewind()
    logger.warning(
        "%s Rolled back to step %s, with other random numbers (%s of at most %s times).",
        *(reason, run.state.step, run.state.rollbacks, config.max_rollbacks),
    )
