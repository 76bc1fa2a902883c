"""Handle the end of a run: its status in run.json, the printed message, and the error or exit status."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gantrain.assemble import Training
from gantrain.command.signals import exit_if_signalled
from gantrain.config import Config
from gantrain.console import console
from gantrain.engine.distributed import Processes
from gantrain.engine.memory import is_out_of_memory
from gantrain.errors import ConfigError, DivergedError, GantrainError, LostPeerError, StoppedByVerdictError
from gantrain.files import explain_os_error
from gantrain.session import checkpoint
from gantrain.session.record import Record
from gantrain.session.run import Run
from gantrain.session.signals import StopOnSignal, Stopped
from gantrain.session.trials import fitting_accumulate, fitting_rows

SECONDS_FOR_RANK_0 = 2.0
"""Time for rank 0, which knows the checkpoints, to report a lost process before another rank does."""


@contextmanager
def record_outcome(training: Training, record: Record) -> Iterator[StopOnSignal]:
    """Record the status of the run in run.json when the block starts and ends, and finish the callbacks.

    Raises:
        GantrainError: the error that ended the run, as a message for the user; or a verdict stopped it.
        SystemExit: a signal stopped the run; the status is 128 + its number, or 4 if a verdict stopped the run too.
    """
    exit_if_signalled()
    run = training.run
    status, failure, on_all_ranks = "failed", None, False
    first_step = run.state.step
    record.write("running")
    stopped_at_once = "stopped at once by a second signal"
    with StopOnSignal(run.processes, lambda: record.write("stopped", stopped_at_once), lambda: run.stopped_by) as stop:
        try:
            yield stop
            # After a signal in the last step all ranks exit with a status that makes torchrun end the others.
            status, on_all_ranks = "finished", stop.known_to_all
        except Stopped:
            status, on_all_ranks = "stopped", True
        except BaseException as error:
            failure = to_user_error(error, training, first_step)
            status = "diverged" if isinstance(failure, DivergedError) else "failed"
        try:
            training.callbacks.finish(status)
        except BaseException as error:
            if failure is None:
                failure = to_user_error(error, training, first_step)
                status = "diverged" if isinstance(failure, DivergedError) else "failed"
        try:
            record.write(status, None if failure is None else str(failure) or type(failure).__name__)
        except OSError as error:
            failure = failure or to_user_error(error, training, first_step)
    try:
        raise_or_exit(run, stop, status, failure)
    finally:
        if on_all_ranks:
            # torchrun ends all processes as soon as one has exited, and rank 0 may still be saving.
            with suppress(Exception):
                run.processes.wait_for_rank_0()


def raise_or_exit(run: Run, stop: StopOnSignal, status: str, failure: BaseException | None) -> None:
    """Raise the error that ended the run; if a signal was received, print how to resume and exit; else return."""
    if failure is not None:
        raise failure
    is_saved = checkpoint.paths(run.folder)
    without = "No checkpoint was saved, because callback=[...] lacks checkpoint."
    if stop.by_verdict:
        again = f"To go on, resume with: {run.command} (it stops again only for a new finding)"
        stopped = StoppedByVerdictError(
            f"stopped after step {run.state.step:,} by the verdict {run.stopped_by}, which verdict.stop names. The run "
            f"is in {run.folder}. {again if is_saved else without}"
        )
        if not stop.ends_command:
            raise stopped
        if run.processes.is_main:
            console.print(f"gantrain: {stopped}", style="red", markup=False, soft_wrap=True)
        raise SystemExit(stopped.exit_status)
    if stop.received is not None:
        name = signal.Signals(stop.received).name
        step = f"step {run.state.step:,}"
        is_stopped = status == "stopped"
        how = (
            f"Stopped by {name} after {step}." if is_stopped else f"Finished at {step}; {name} was received meanwhile."
        )
        again = f"Resume with: {run.command}" if is_stopped else f"Train longer with: {run.command} steps=N"
        text = f"{how} The run is in {run.folder}. {again if is_saved else without}"
        console.print(text, markup=False, soft_wrap=True, highlight=False)
        if is_stopped:  # a launcher's handler queues the run again
            stop.forward()
        raise SystemExit(128 + stop.received)


def to_user_error(error: BaseException, training: Training, first_step: int) -> BaseException:
    """Convert the exception that ended a run into an error for the user; return a bug of gantrain unchanged."""
    run = training.run
    if run.processes.is_lost_peer(error):
        failure: GantrainError = lost_peer(error, f"at step {run.state.step:,}", run.folder, run.command)
    elif not run.processes.is_main:
        return error
    elif isinstance(error, OSError):
        failure = explain_os_error(error, f"Writing to {run.folder}")
        if not run.folder.is_dir():
            failure = GantrainError(f"The folder {run.folder} has vanished during the run; nothing can be saved.")
        elif checkpoint.paths(run.folder):
            failure = GantrainError(f"{failure} Then resume with: {run.command}")
    elif isinstance(error, DivergedError) and checkpoint.paths(run.folder):
        advice = f"{run.command} optimizer.lr=... 'allow_change=[optimizer.lr]'"
        return DivergedError(f"{error} Resume from the last checkpoint with other settings: {advice}")
    elif is_out_of_memory(error):
        failure = ConfigError(out_of_memory(error, training))
    elif isinstance(error, Exception) and not isinstance(error, GantrainError) and run.state.step == first_step:
        failure = ConfigError(
            f"the first step failed ({type(error).__name__}: {first_line(error)}). {advice_for(error, run.config)}"
            "For a traceback, set HYDRA_FULL_ERROR=1."
        )
    else:
        return error
    failure.__cause__ = error
    return failure


def advice_for(error: Exception, config: Config) -> str:
    """Return a sentence with the remedy if the cause of a failed step is known, with a space behind it, or ""."""
    if "Expected more than 1 value per channel" in str(error):  # torch's words
        split = f" with accumulate={config.accumulate}" if config.accumulate > 1 else ""
        return (
            f"BatchNorm needs at least 2 samples at a time, but batch_size={config.batch_size}{split} gives it 1; take "
            "a larger batch_size, or networks without BatchNorm. "
        )
    if isinstance(error, UnicodeEncodeError):
        return "The terminal cannot show a text; set PYTHONUTF8=1. "
    return ""


def out_of_memory(error: BaseException, training: Training) -> str:
    """Return the message for a device that ran out of memory, with a batch size that is likely to fit."""
    run = training.run
    config, batch_size, num_processes = run.config, run.config.batch_size, run.processes.world_size
    resume = f" Resume with: {run.command}" if checkpoint.paths(run.folder) else ""
    rows = fitting_rows(training)
    accumulate = fitting_accumulate(config, rows, num_processes=num_processes)
    remedy = "use narrower networks or smaller images"
    if rows:
        remedy = f"batch_size={rows * config.accumulate * num_processes} is likely to fit"
        if accumulate is not None:
            remedy += f", and so is accumulate={accumulate} with the same batch_size"
    return f"batch_size={batch_size}: {run.device} ran out of memory ({first_line(error)}); {remedy}.{resume}"


def lost_peer(error: BaseException, when: str, folder: Path | None, command: str) -> LostPeerError:
    """Return the error for a process that no longer responds, with the command to resume if there is a checkpoint.

    Args:
        when: a phrase, for example "at step 10".
        folder: of the run, or None on ranks that do not know it.
    """
    saved = f" Resume with: {command}" if folder is not None and checkpoint.paths(folder) else ""
    reason = first_line(error)
    is_gone = any(word in reason for word in ("by peer", "remote worker"))
    how = "has died" if is_gone else f"no longer responds ({reason})"
    return LostPeerError(f"Another process of this run {how}, {when}.{saved}")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return (str(error).splitlines() or [""])[0]


def let_one_rank_report(failure: Exception, processes: Processes) -> None:
    """Let exactly one rank report the root cause: the one that failed itself, else the first that lost a peer."""
    if isinstance(failure, LostPeerError):
        with suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun sends it, and it would prevent the report
        if not processes.is_main:
            time.sleep(SECONDS_FOR_RANK_0)
        console.quiet = not processes.claims_report()  # another rank reports if rank 0 has died
    elif processes.is_main:
        processes.claims_report()
