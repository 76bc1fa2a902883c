"""task=train: train the networks of a config or resume a run, and record in run.json how it ends."""

import gc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from gantrain.assemble import Training, assemble
from gantrain.budget import choose_budget
from gantrain.config_rules import check
from gantrain.console import console
from gantrain.engine.distributed import Processes, join_processes
from gantrain.engine.finite import first_nonfinite, named_tensors
from gantrain.errors import DivergedError
from gantrain.locks import exclusive
from gantrain.session.divergence import diverged
from gantrain.session.folder import log_file, save_config
from gantrain.session.outcome import let_one_rank_report, lost_peer, record_outcome
from gantrain.session.record import Record
from gantrain.session.resuming import find_run, restore, roll_back
from gantrain.session.saved import load_record
from gantrain.session.signals import RolledBack, StopOnSignal, Stopped
from gantrain.session.summary import closing, summary
from gantrain.session.trials import choose_threads, with_adaptive_threads
from gantrain.tasks.job import Job


def train(job: Job) -> None:
    """Train the networks of the config, or resume the run in the job's folder.

    Raises:
        UserError: the config or the data is wrong; found before the first step.
        DivergedError: the training reached NaN or Inf.
        GantrainError: the run failed later, for example because a file could not be written.
        SystemExit: a signal stopped the run; the status is 128 + its number.
    """
    with join_processes() as processes, ExitStack() as stack, report_once(job, processes):
        job = open_folder(job, processes, stack)
        train_or_resume(job, processes)


def train_or_resume(job: Job, processes: Processes) -> None:
    """Train on every rank, or resume; only rank 0 writes files and prints."""
    with processes.raise_on_all_ranks():
        config = replace(choose_budget(job.config, job.typed), run_dir=str(job.folder))
        check(config)
        found = find_run(job.folder, config) if processes.is_main else None
    training = assemble(job, config, processes)
    run = training.run
    record = Record(run, job.choices, reasons=job.reasons, earlier=load_record(job.folder))
    training.callbacks.append(record)
    if not restore(training, record, found):
        text = f"{run.folder} is finished ({run.steps:,} steps). Train longer with {run.command} steps=N"
        console.print(text, markup=False, soft_wrap=True, highlight=False)
        return
    with processes.raise_on_all_ranks():
        if processes.is_main:
            save_config(job.folder, config, job.typed)
    with record_outcome(training, record) as stop, frozen_gc():
        choose_threads(training, job.load, record.earlier)
        console.print(summary(run, job.choices))
        training.callbacks.start()
        train_to_end(training, record, stop)
    console.print(closing(run, record), markup=False, soft_wrap=True, highlight=False)


def train_to_end(training: Training, record: Record, stop: StopOnSignal) -> None:
    """Train for the remaining steps; after a divergence, roll back if the config says so."""
    run = training.run
    callbacks = with_adaptive_threads(training, [*training.callbacks, stop])
    while run.state.step < run.steps:
        try:
            training(callbacks)
        except Stopped:
            # After a signal in the last step, or while its callbacks drew samples, nothing is left to stop.
            if run.state.step < run.steps or stop.by_verdict:
                raise
        except (DivergedError, RolledBack) as reason:
            roll_back(training, record, reason)
    # Without the callback log, nothing has checked for NaN and Inf yet.
    if run.processes.is_main and (what := first_nonfinite(named_tensors(run.state))) is not None:
        raise diverged(run, run.state.step, what)


def open_folder(job: Job, processes: Processes, stack: ExitStack) -> Job:
    """Lock the run's folder and open its log on rank 0, until the stack is closed.

    Returns:
        the job, on every rank with the folder of rank 0.
    """
    with processes.raise_on_all_ranks():
        if processes.is_main:
            stack.enter_context(exclusive(job.folder))
            stack.enter_context(log_file(job.folder / "gantrain.log"))
    folder, command = processes.broadcast((job.folder, job.resume_command))
    return replace(job, folder=folder, resume_command=command)


@contextmanager
def report_once(job: Job, processes: Processes) -> Iterator[None]:
    """Let exactly one rank report an error that is raised in the block."""
    try:
        yield
    except Exception as error:
        if not processes.is_lost_peer(error):
            let_one_rank_report(error, processes)
            raise
        folder = job.folder if processes.is_main else None
        failure = lost_peer(error, "before the first step", folder, job.resume_command)
        let_one_rank_report(failure, processes)
        raise failure from error


@contextmanager
def frozen_gc() -> Iterator[None]:
    """Exclude all existing objects from garbage collection while the block runs: half a million after start-up."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
