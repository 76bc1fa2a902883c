"""task=train: build what the config names, train it or resume it, and leave a true record however it ends."""

import gc
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from omegaconf import OmegaConf

from gantrain.assemble import Training, assemble
from gantrain.budget import one_budget
from gantrain.config import Config, plain
from gantrain.config_rules import check
from gantrain.console import console
from gantrain.engine.distributed import Processes, joined
from gantrain.engine.finite import first_nonfinite, named_tensors
from gantrain.errors import ConfigError, DivergedError
from gantrain.files import atomic_write, exclusive
from gantrain.session.divergence import diverged
from gantrain.session.outcome import let_one_rank_report, lost_peer, recorded
from gantrain.session.record import Record
from gantrain.session.resuming import find_run, restore, roll_back
from gantrain.session.saved import load_record
from gantrain.session.signals import RolledBack, StopOnSignal
from gantrain.session.summary import closing, summary
from gantrain.session.trials import load_followers
from gantrain.tasks.job import Job


def train(job: Job) -> None:
    """Train the networks of the config in the job's folder, or resume the run that is there.

    Raises:
        UserError: the config or the data is wrong; found before the first step.
        DivergedError: the training reached NaN or Inf.
        GantrainError: the run could not write its files.
        SystemExit: a signal stopped the run; 128 + its number.
    """
    with joined() as processes, ExitStack() as held, one_report(job, processes):
        job = open_folder(job, processes, held)
        train_or_resume(job, processes)


def train_or_resume(job: Job, processes: Processes) -> None:
    """Train on every rank; rank 0 alone writes and prints."""
    with processes.failing_together():
        config = replace(one_budget(job.config, job.typed), run_dir=str(job.folder))
        check(config)
        found = find_run(job.folder, config) if processes.is_main else None
    training = assemble(job, config, processes)
    run = training.run
    record = Record(run, job.choices, earlier=load_record(job.folder))
    training.callbacks.append(record)
    if not restore(training, record, found):
        text = f"{run.folder} is finished ({run.steps:,} steps). Train longer with {run.command} steps=N"
        console.print(text, markup=False, soft_wrap=True, highlight=False)
        return
    with processes.failing_together():
        if processes.is_main:
            save_config(job.folder, config, job.typed)
    with recorded(training, record) as stop, frozen_garbage():
        console.print(summary(run, job.choices))
        training.callbacks.start()
        train_to_the_end(training, record, stop)
    console.print(closing(run), markup=False, soft_wrap=True, highlight=False)


def train_to_the_end(training: Training, record: Record, stop: StopOnSignal) -> None:
    """Train until the run has its steps, rolling back where it diverges and the config says so."""
    run = training.run
    followers = load_followers(training)
    while run.state.step < run.steps:
        try:
            training([*training.callbacks, stop, *followers])
        except (DivergedError, RolledBack) as reason:
            roll_back(training, record, reason)
    # Without the callback log nothing has looked for NaN.
    if run.processes.is_main and (what := first_nonfinite(named_tensors(run.state))) is not None:
        raise diverged(run, run.state.step, what)


def open_folder(job: Job, processes: Processes, held: ExitStack) -> Job:
    """Lock the run's folder and open its log on rank 0; return the job with rank 0's folder on every rank."""
    with processes.failing_together():
        if processes.is_main:
            held.enter_context(exclusive(job.folder))
            held.enter_context(log_file(job.folder / "gantrain.log"))
    folder, command = processes.broadcast((job.folder, job.resume_command))
    return replace(job, folder=folder, resume_command=command)


@contextmanager
def one_report(job: Job, processes: Processes) -> Iterator[None]:
    """Let exactly one rank report what ends the block with an error."""
    try:
        yield
    except Exception as error:
        if not processes.is_lost_peer(error):
            let_one_rank_report(error, processes)
            raise
        folder = job.folder if processes.is_main else None
        failure = lost_peer(error, "before the first step of this start", folder, job.resume_command)
        let_one_rank_report(failure, processes)
        raise failure from error


@contextmanager
def frozen_garbage() -> Iterator[None]:
    """Freeze start-up objects out of garbage collection: half a million that live to the end."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def save_config(folder: Path, config: Config, typed: list[str]) -> None:
    """Save the config as it is run, resolved and with one budget, and the overrides that it was composed from."""
    (folder / ".hydra").mkdir(exist_ok=True)
    # The config last: it marks the folder as a run's.
    for name, content in (("overrides", typed), ("config", plain(config))):
        with atomic_write(folder / ".hydra" / f"{name}.yaml") as file:
            file.write(OmegaConf.to_yaml(OmegaConf.create(content)).encode())


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Write warnings to a file in the run's folder too.

    Raises:
        ConfigError: the file is a link, and would lead what is written elsewhere.
    """
    if path.is_symlink():
        raise ConfigError(f"{path} is a link, which gantrain never makes; the folder may be forged.")
    handler = logging.FileHandler(path, delay=True)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
