"""How a run ends: its status in run.json, what is printed, and the error or exit status that follows."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gantrain.assemble import Training
from gantrain.console import console
from gantrain.engine.distributed import Processes
from gantrain.engine.memory import is_out_of_memory
from gantrain.errors import ConfigError, DivergedError, GantrainError, LostError
from gantrain.files import explain_os_error
from gantrain.session import checkpoint
from gantrain.session.record import Record
from gantrain.session.run import Run
from gantrain.session.signals import StopOnSignal, Stopped
from gantrain.session.trials import fitting_batch_size

SECONDS_FOR_MAIN = 2.0
"""In which rank 0, if it lives, reports by itself that another process has died; it knows best what is saved."""


@contextmanager
def recorded(training: Training, record: Record) -> Iterator[StopOnSignal]:
    """Keep run.json true while the block runs and when it ends, and let the callbacks finish.

    Raises:
        GantrainError: what ended the run, as an error for the user.
        SystemExit: a signal stopped the run; 128 + its number.
    """
    run = training.run
    status, failure, is_agreed = "failed", None, False
    first_step = run.state.step
    record.write("running")
    stopped_at_once = "stopped at once, by a second signal"
    with StopOnSignal(run.processes, lambda: record.write("stopped", stopped_at_once)) as stop:
        try:
            yield stop
            status = "finished"
        except Stopped:
            status, is_agreed = "stopped", True
        except BaseException as error:
            failure = explained(error, training, first_step)
            status = "diverged" if isinstance(failure, DivergedError) else "failed"
        try:
            training.callbacks.finish(status)
        except BaseException as error:
            if failure is None:
                failure = explained(error, training, first_step)
                status = "diverged" if isinstance(failure, DivergedError) else "failed"
        try:
            record.write(status, None if failure is None else str(failure) or type(failure).__name__)
        except OSError as error:
            failure = failure or explained(error, training, first_step)
    try:
        conclude(run, stop, status, failure)
    finally:
        if is_agreed:
            # torchrun ends all processes as soon as one has left, and rank 0 saves until here.
            with suppress(Exception):
                run.processes.barrier()


def conclude(run: Run, stop: StopOnSignal, status: str, failure: BaseException | None) -> None:
    """Raise the error that ended the run; exit if a signal did; else return."""
    if failure is not None:
        raise failure
    if stop.received is not None:
        name = signal.Signals(stop.received).name
        how = f"Stopped by {name} after" if status == "stopped" else f"Finished, and {name} received, at"
        is_saved = checkpoint.paths(run.folder)
        then = f"Resume with: {run.command}" if is_saved else "Nothing is saved: the callback checkpoint was left out."
        text = f"{how} step {run.state.step:,}. The run is in {run.folder}. {then}"
        console.print(text, markup=False, soft_wrap=True, highlight=False)
        stop.forward()
        raise SystemExit(128 + stop.received)


def explained(error: BaseException, training: Training, first_step: int) -> BaseException:
    """Turn what ended a run into an error for the user, where it is not a fault of gantrain's."""
    run = training.run
    if run.processes.is_lost_peer(error):
        failure: GantrainError = lost_peer(error, f"at step {run.state.step:,}", run.folder, run.command)
    elif not run.processes.is_main:
        return error
    elif isinstance(error, OSError):
        failure = explain_os_error(error, f"Writing to {run.folder}")
        if not run.folder.is_dir():
            failure = GantrainError(f"The folder {run.folder} has vanished during the run; nothing more can be saved.")
        elif checkpoint.paths(run.folder):
            failure = GantrainError(f"{failure} Then resume with: {run.command}")
    elif isinstance(error, DivergedError) and checkpoint.paths(run.folder):
        advice = f"{run.command} optimizer.lr=... 'allow_change=[optimizer.lr]'"
        return DivergedError(f"{error} The last checkpoint is kept; resume it with other settings: {advice}")
    elif is_out_of_memory(error):
        failure = ConfigError(out_of_memory(error, training))
    elif isinstance(error, Exception) and not isinstance(error, GantrainError) and run.state.step == first_step:
        failure = ConfigError(
            f"the first step failed ({type(error).__name__}: {first_line(error)}). HYDRA_FULL_ERROR=1 shows where."
        )
    else:
        return error
    failure.__cause__ = error
    return failure


def out_of_memory(error: BaseException, training: Training) -> str:
    """Say that memory ran out, and which batch size is likely to fit."""
    run = training.run
    batch_size = run.config.batch_size
    resume = f" Resume with: {run.command}" if checkpoint.paths(run.folder) else ""
    fits = fitting_batch_size(training)
    if fits is None:
        remedy = "use narrower networks or smaller images"
    else:
        num = next(n for n in range(-(-batch_size // fits), batch_size + 1) if batch_size % n == 0)
        remedy = f"batch_size={fits} is likely to fit, and so is accumulate={num} with the same batch_size"
    return f"batch_size={batch_size}: {run.device} ran out of memory ({first_line(error)}); {remedy}.{resume}"


def lost_peer(error: BaseException, when: str, folder: Path | None, command: str) -> LostError:
    """Say that another process does not answer any more, and how to resume where this one sees a checkpoint."""
    saved = f" Resume with: {command}" if folder is not None and checkpoint.paths(folder) else ""
    reason = first_line(error)
    is_gone = any(word in reason for word in ("by peer", "remote worker"))
    how = "has died" if is_gone else f"does not answer any more ({reason})"
    return LostError(f"Another process of this run {how}, {when}.{saved}")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return (str(error).splitlines() or [""])[0]


def let_one_rank_report(failure: Exception, processes: Processes) -> None:
    """Let exactly one rank report the root cause: that which failed by itself, else the first that lost its peer."""
    if isinstance(failure, LostError):
        with suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's, which would come before the report
        if not processes.is_main:
            time.sleep(SECONDS_FOR_MAIN)
        console.quiet = not processes.claims_report()  # on any rank: rank 0 may have died
    elif processes.is_main:
        processes.claims_report()
