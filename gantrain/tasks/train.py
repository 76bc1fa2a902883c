"""task=train: build everything, say what will run, run it or go on with it, and leave a record however it ends."""

import gc
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from omegaconf import OmegaConf

from gantrain import checkpoint
from gantrain.build import (
    build_callbacks,
    build_dataset,
    build_device,
    build_ema,
    build_latent,
    build_loss,
    build_metrics,
    build_regularizers,
    build_state,
    check_cross,
)
from gantrain.callbacks.checkpoint import Checkpoint
from gantrain.cli import Job
from gantrain.config import Node, check, chosen, count_steps, critic_schedule, hyperparameters, settle_budget
from gantrain.console import console
from gantrain.datasets.base import ImageDataset
from gantrain.datasets.batches import Batches, make_batches
from gantrain.errors import ConfigError, DivergedError, GantrainError, LostError
from gantrain.files import atomic_write, exclusive, explain_os_error, remove_temporaries
from gantrain.health import diverged, first_nonfinite, named_tensors
from gantrain.losses.base import Loss
from gantrain.memory import require_memory
from gantrain.processes import ALONE, Processes, joined
from gantrain.resume import check_same, holds_run, load_config, load_record, require_new, require_plain
from gantrain.run import Record, Run
from gantrain.runtime import choose, own_code
from gantrain.summary import closing, summary
from gantrain.train import Observations, TrainState
from gantrain.train import train as run_algorithm

logger = logging.getLogger(__name__)


class Stopped(Exception):
    """A signal asked the run to end after the step that it was in."""


class WentBack(Exception):
    """The main process of several rolled the run back."""


SECONDS_FOR_MAIN = 2.0
"""In which the main process, if it lives, says by itself that another one has died; it knows best what is saved."""

GO_BACK = 1000
"""What the main process says in the place of a signal's number."""


def train(job: Job) -> None:
    """Train the networks of the config in the job's folder, or go on with the run that is there.

    Raises:
        UserError: the config or the data is wrong; found before the first step.
        DivergedError: the training left the finite numbers.
        GantrainError: what the run writes to failed it.
        SystemExit: a signal stopped the run; 128 + its number.
    """
    with joined() as processes, ExitStack() as held:
        place: tuple[Path, str] | None = (job.folder, job.resume_command) if processes.is_main else None
        try:
            with processes.together():
                if processes.is_main:
                    held.enter_context(exclusive(job.folder))
                    held.enter_context(log_file(job.folder / "gantrain.log"))
            place = processes.broadcast(place)
            if processes.is_main:
                run_recorded(job, processes)
            else:
                follow(replace(job, folder=place[0], resume_command=place[1]), processes)
        except Exception as error:
            is_lost = processes.lost(error)
            failure = lost(error, "before the first step of this start", place) if is_lost else error
            settle_who_tells(failure, processes)
            if is_lost:
                raise failure from error
            raise


def settle_who_tells(failure: Exception, processes: Processes) -> None:
    """Have one of the processes say what ended all, which is not the loss of one that failed by itself."""
    if isinstance(failure, LostError):
        with suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's, which would come before it is told
        if not processes.is_main:
            time.sleep(SECONDS_FOR_MAIN)
        console.quiet = not processes.is_first_to_tell()  # any of them: the main one may have died
    elif processes.is_main:
        processes.is_first_to_tell()


@dataclass(frozen=True)
class Training:
    """All that the config names, built and fitting together, but nothing written yet."""

    run: Run
    batches: Batches
    loss: Loss

    def __call__(self, callbacks: Sequence[Callable[[TrainState, Observations], None]]) -> None:
        """Train from where the state stands until the run has its steps."""
        run = self.run
        averaging = [run.processes.average] if run.processes.size > 1 else []
        with run.runtime.threaded():
            run_algorithm(
                run.state,
                self.batches,
                run.processes.own_codes(run.latent),
                self.loss,
                run.regularizers,
                steps=run.steps,
                n_critic=critic_schedule(run.config),
                seed=run.config["seed"],
                device=run.device,
                ema=build_ema(run.config),
                callbacks=[*averaging, *callbacks],
                precision=run.runtime.run,
                accelerate=run.runtime.accelerate(run.state),
            )


def assemble(job: Job, config: Node, processes: Processes = ALONE) -> Training:
    """Build what the config names.

    Raises:
        UserError: the config or the data is wrong.
    """
    with processes.together():
        device = build_device(config["runtime"])
        loss, regularizers = build_loss(config), build_regularizers(config)
        metrics, callbacks = build_metrics(config), build_callbacks(config)
        latent = build_latent(config)
        dataset = build_dataset(config)
        require_memory("batch_size", config["batch_size"], [dataset.image_shape] * 2 + [(latent.z_dim,)], device)
        state = build_state(config, dataset.image_shape, latent, device)
        parts = [loss, latent, *regularizers.values()]
        own = config["batch_size"] // processes.size
        runtime = choose(
            *(config["runtime"], device, state, [*parts, *callbacks]), batch_size=own, num_processes=processes.size
        )
        runtime.prepare(state)
        processes.share(config["batch_size"], state)
        if processes.size > 1 and processes.is_main and (name := own_code([state.G, state.D, *parts])) is not None:
            logger.warning(
                "%s is code of your own: what it draws at random for each sample, it must draw by "
                "gantrain.seeding.own_rows, or the %s processes draw the same for different samples.",
                *(name, processes.size),
            )
        check_cross(state.D, loss, regularizers, config["allow"])
        if config["horizontal_flip"] and not isinstance(dataset, ImageDataset):
            raise ConfigError(f"horizontal_flip=true: {dataset.name} are vectors, which have no sides; leave it out.")
        count_steps(config, dataset.num_images)  # refuses epochs of what has none, before anything is decoded
    for turn in (processes.local_rank == 0, processes.local_rank > 0):  # one on each machine decodes
        with processes.together():
            if turn:
                dataset.prepare(num_workers=config["runtime"]["num_workers"])
    with processes.together():
        if isinstance(dataset, ImageDataset) and config["batch_size"] > dataset.num_images and processes.is_main:
            logger.warning(
                "batch_size=%s: there are %s images, so that a batch shows some of them twice.",
                *(config["batch_size"], f"{dataset.num_images:,}"),
            )
        batches = make_batches(
            dataset,
            batch_size=config["batch_size"],
            seed=config["seed"],
            device=device,
            mirror=config["horizontal_flip"],
            place=config["runtime"]["data"],
            rows=processes.rows(config["batch_size"]) if processes.size > 1 else None,
        )
    run = Run(
        name=job.name,
        folder=job.folder,
        config=config,
        state=state,
        dataset=dataset,
        latent=latent,
        runtime=runtime,
        data_place=batches.place,
        steps=count_steps(config, dataset.num_images),
        metrics=metrics,
        hyperparameters=hyperparameters(config, job.choices, job.typed),
        callbacks=[callback for callback in callbacks if processes.is_main or callback.shared],
        regularizers=regularizers,
        command=job.resume_command,
        processes=processes,
    )
    return Training(run, batches, loss)


def run_recorded(job: Job, processes: Processes = ALONE) -> None:
    """Train what the config names, under a record."""
    with processes.together():
        config = settle_budget(job.config, job.typed) | {"run_dir": str(job.folder)}
        check(config)
        earlier = find_earlier(job.folder, config)
    training = assemble(job, config, processes)
    run = training.run
    with processes.together():
        record = Record(run, job.choices, earlier=load_record(job.folder))
        run.callbacks.append(record)
        goes_on = earlier is None or go_on(run, record, earlier)
        if goes_on:
            if config["init_from"] is not None and run.earlier is None:
                path, content = checkpoint.find(config["init_from"])
                checkpoint.load_weights(run, content, path)
            run.check()
            save_config(job.folder, config, job.typed)
    processes.broadcast(goes_on)
    if not goes_on:
        text = f"{run.folder} has its {run.steps:,} steps already; more are made with {run.command} steps=N"
        console.print(text, markup=False, soft_wrap=True)
        return
    processes.broadcast(earlier.content if earlier else None)
    processes.broadcast_networks(run.state)
    with recorded(run, record) as stop, settled():
        console.print(summary(run, job.choices))
        run.start()
        while run.state.step < run.steps:
            try:
                training([*run.callbacks, stop])
            except DivergedError as divergence:
                roll_back(run, record, divergence)
        if (what := first_nonfinite(named_tensors(run.state))) is not None:  # without the callback log nobody looked
            raise diverged(run, run.state.step, what)
    console.print(closing(run), markup=False, soft_wrap=True)


def follow(job: Job, processes: Processes) -> None:
    """Train beside the main process, which alone writes and talks.

    Raises:
        UserError: the config or the data is wrong.
        SystemExit: the run was stopped, or it failed in another process.
    """
    with processes.together():
        config = settle_budget(job.config, job.typed)
        check(config)
    training = assemble(job, config, processes)
    run = training.run
    with processes.together():
        pass  # the main process looks at its folder
    if not processes.broadcast(None):
        return

    def take_over(content: checkpoint.Content | None) -> None:
        if content is not None:
            checkpoint.restore(run, content, run.folder)

    take_over(processes.broadcast(None))
    processes.broadcast_networks(run.state)
    status = "failed"
    with losses_told(run), StopOnSignal(processes) as stop, settled():
        try:
            run.start()
            while run.state.step < run.steps:
                try:
                    training([*run.callbacks, stop])
                except WentBack:
                    rollbacks = run.state.rollbacks + 1
                    take_over(processes.broadcast(None))
                    run.state.rollbacks = rollbacks
            status = "finished"
        except Stopped:
            status = "stopped"
            # torchrun ends all processes as soon as one has left, and the main one is still saving.
            processes.broadcast(None)
            raise SystemExit(128 + (stop.received or 0)) from None
        finally:
            run.finish(status)


@contextmanager
def losses_told(run: Run) -> Iterator[None]:
    """Name the step at which another process was lost, while the block runs."""
    try:
        yield
    except Exception as error:
        if not run.processes.lost(error):
            raise
        raise lost_at(run, error) from error


@dataclass(frozen=True)
class Earlier:
    """A run that this one goes on with.

    Attributes:
        config: what it was trained with, up to its checkpoint.
        changes: what is to be different from there, by key: the old value and the new.
        path, content: its newest checkpoint; None where it ended before its first.
    """

    config: Node
    changes: dict[str, list[Any]]
    path: Path | None = None
    content: checkpoint.Content | None = None


def find_earlier(folder: Path, config: Node) -> Earlier | None:
    """Look for a run to go on with.

    Raises:
        ConfigError: there is one that must not be gone on with, or not under this config.
        DataError: its files are damaged or forged.
    """
    if not holds_run(folder):
        return None
    require_plain(folder)
    if config["resume"] is None or not (folder / ".hydra" / "config.yaml").exists():
        require_new(folder)
    found = checkpoint.newest(folder)
    if found is None:
        saved = load_config(folder)
        changes = check_same(saved, config, config["allow_change"])
        require_unbegun(folder, saved)
        return Earlier(saved, changes)
    path, content = found
    # Not with the file, which an attempt may have changed that then got no further.
    saved = content["config"]
    return Earlier(saved, check_same(saved, config, config["allow_change"]), path, content)


def require_unbegun(folder: Path, saved: Node) -> None:
    """Refuse to begin a run again that has no checkpoint for another reason than an end before its first.

    Raises:
        ConfigError: naming the reason.
    """
    record = load_record(folder)
    status, steps = record.get("status"), record.get("steps", 0)
    # The first may still have been on its way to the disk when the second was due, and no later.
    last = 2 * saved["checkpoint"]["every"] if "checkpoint" in chosen(saved, "callback") else 0
    cut_short = status in (None, "running", "failed") or (status == "stopped" and record.get("error"))
    if not cut_short or not (isinstance(steps, int) and steps < last):
        raise ConfigError(
            f"run_dir={folder} holds a run (run.json: {status}, step {steps}) without a checkpoint to go on from, and "
            "runs are never overwritten; choose another folder, or move that one away."
        )


def go_on(run: Run, record: Record, earlier: Earlier) -> bool:
    """Bring the run to where its last checkpoint stands; False if it has all its steps and is finished.

    A run that was killed before its first checkpoint begins again.

    Raises:
        ConfigError: it has more steps than are asked for, or the data have changed.
        DataError: the checkpoint does not fit.
    """
    remove_temporaries(run.folder)
    path, content = earlier.path, earlier.content
    if path is None or content is None:
        logger.info("%s ended before its first checkpoint; it begins again.", run.folder)
        for pattern in ("samples/step_*.png", "tensorboard/events.out.tfevents.*"):
            for old in run.folder.glob(pattern):
                old.unlink()
        return True
    if run.steps < content["step"]:
        raise ConfigError(f"steps={run.steps}: {run.folder} has {content['step']:,} already; give at least as many.")
    if content["fingerprint"] != run.dataset.fingerprint and "dataset" not in run.config["allow_change"]:
        raise ConfigError(
            f"dataset: {run.folder} was trained on other data than those of dataset={run.dataset.name} now "
            f"(fingerprint {content['fingerprint'][:12]}, now {run.dataset.fingerprint[:12]}); bring them back, or "
            "allow it: 'allow_change=[dataset]'."
        )
    if load_record(run.folder).get("status") == "finished" and content["step"] == run.steps:
        return False
    checkpoint.restore(run, content, path)
    run.earlier, run.earlier_steps, run.seconds_before = earlier.config, content["steps_planned"], content["seconds"]
    record.note("resumed", changes=earlier.changes)
    for name, (old_value, value) in earlier.changes.items():
        logger.info("%s is changed from %s to %s.", name, old_value, value)
    return True


def roll_back(run: Run, record: Record, divergence: DivergedError) -> None:
    """Bring a run that diverged back to its last checkpoint, from where it goes on with other noise.

    Raises:
        DivergedError: this was not asked for, or was done often enough.
    """
    rule, rollbacks, step = run.config["on_divergence"], run.state.rollbacks, run.state.step
    if rule != "rollback" or rollbacks >= run.config["max_rollbacks"]:
        raise divergence
    for callback in run.active:
        if isinstance(callback, Checkpoint):
            with suppress(DivergedError):
                callback.wait()
    found = checkpoint.newest(run.folder)
    if found is None:
        raise divergence
    run.processes.largest(GO_BACK)
    run.processes.broadcast(found[1])
    checkpoint.restore(run, found[1], found[0])
    run.state.rollbacks = rollbacks + 1
    record.note("rolled back", diverged_at=step, reason=str(divergence))
    run.rewind()
    logger.warning(
        "%s Back to step %s, with other noise (%s of at most %s times).",
        *(divergence, run.state.step, run.state.rollbacks, run.config["max_rollbacks"]),
    )


@contextmanager
def settled() -> Iterator[None]:
    """Have Python's search for garbage pass over what is there already: half a million objects that stay to the end."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def recorded(run: Run, record: Record) -> Iterator["StopOnSignal"]:
    """Keep run.json true while the block runs and when it ends, whatever ends it, and let the callbacks finish."""
    status, failure, is_agreed = "failed", None, False
    first_step = run.state.step
    record.write("running")
    with StopOnSignal(run.processes, lambda: record.write("stopped", "stopped at once, by a second signal")) as stop:
        try:
            yield stop
            status = "finished"
        except Stopped:
            status, is_agreed = "stopped", True
        except BaseException as error:
            failure = explained(error, run, first_step)
            status = "diverged" if isinstance(failure, DivergedError) else "failed"
        try:
            run.finish(status)
        except BaseException as error:
            if failure is None:
                failure = explained(error, run, first_step)
                status = "diverged" if isinstance(failure, DivergedError) else "failed"
        try:
            record.write(status, None if failure is None else str(failure) or type(failure).__name__)
        except OSError as error:
            failure = failure or explained(error, run, first_step)
    try:
        conclude(run, stop, status, failure)
    finally:
        if is_agreed:
            with suppress(Exception):
                run.processes.broadcast(None)  # now the others may leave


def conclude(run: Run, stop: "StopOnSignal", status: str, failure: BaseException | None) -> None:
    """End what has been recorded as it has to: by its failure, or by the signal that stopped it, or not at all."""
    if failure is not None:
        raise failure
    if stop.received is not None:
        name = signal.Signals(stop.received).name
        how = f"stopped by {name} after" if status == "stopped" else f"finished, and left by {name}, at"
        saved = checkpoint.paths(run.folder)
        then = f"Go on with: {run.command}" if saved else "The callback checkpoint was left out: nothing is saved."
        text = f"{how} step {run.state.step:,}; it is in {run.folder}. {then}"
        console.print(text, markup=False, soft_wrap=True)
        stop.hand_on()
        raise SystemExit(128 + stop.received)


def explained(error: BaseException, run: Run, first_step: int) -> BaseException:
    """Turn what ended a run into an error for the user, where it is not a fault of gantrain's."""
    if run.processes.lost(error):
        gone = lost_at(run, error)
        gone.__cause__ = error
        return gone
    if isinstance(error, OSError):
        failure = explain_os_error(error, f"Writing to {run.folder}")
        if not run.folder.is_dir():
            failure = GantrainError(
                f"The folder {run.folder} has vanished while the run was writing to it; nothing more can be saved."
            )
        elif checkpoint.paths(run.folder):
            failure = GantrainError(f"{failure} Then go on with: {run.command}")
        failure.__cause__ = error
        return failure
    if isinstance(error, DivergedError) and checkpoint.paths(run.folder):
        advice = f"{run.command} optimizer.lr=... 'allow_change=[optimizer.lr]'"
        return DivergedError(f"{error} The last checkpoint is kept; from there, with other settings: {advice}")
    if isinstance(error, Exception) and not isinstance(error, GantrainError) and run.state.step == first_step:
        reason = (str(error).splitlines() or [""])[0]
        failure = ConfigError(
            f"the first step failed ({type(error).__name__}: {reason}); if memory ran out, take a smaller batch_size "
            "or narrower networks. HYDRA_FULL_ERROR=1 shows where."
        )
        failure.__cause__ = error
        return failure
    return error


def lost(error: BaseException, when: str, place: tuple[Path, str] | None) -> LostError:
    """Say that another process does not answer any more, and how to go on where this one sees a checkpoint."""
    saved = f" Go on with: {place[1]}" if place is not None and checkpoint.paths(place[0]) else ""
    reason = (str(error).splitlines() or [""])[0]
    is_gone = any(word in reason for word in ("by peer", "remote worker"))
    how = "has died" if is_gone else f"does not answer any more ({reason})"
    return LostError(f"Another process of this run {how}, {when}.{saved}")


def lost_at(run: Run, error: BaseException) -> LostError:
    """The same, of a run that has begun."""
    return lost(error, f"at step {run.state.step:,}", (run.folder, run.command))


class StopOnSignal:
    """Turn the first SIGINT, SIGTERM or SIGHUP into the end of the current step; a second one ends the process at once.

    Where several processes train the run, they agree on the step. A signal of the user's kind (SIGUSR1, SIGUSR2) is
    taken where somebody else has a use for it, as a cluster's launcher that puts the run back into the queue; it is
    handed on when the run is saved, and does not count as a second one.

    Args:
        leave: called before that.
    """

    def __init__(self, processes: Processes = ALONE, leave: Callable[[], None] = lambda: None):
        self.processes, self.leave = processes, leave
        self.received: int | None = None

    def __enter__(self) -> "StopOnSignal":
        # Python allows handlers in the main thread alone; elsewhere the caller's own ways of stopping hold.
        on_main = threading.current_thread() is threading.main_thread()
        # nohup has SIGHUP ignored, and so it stays.
        wanted = [
            s
            for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            if on_main and signal.getsignal(s) != signal.SIG_IGN
        ]
        own = {s: signal.getsignal(s) for s in (signal.SIGUSR1, signal.SIGUSR2) if on_main}
        self.awaited = {int(s): handler for s, handler in own.items() if callable(handler)}
        self.previous = {s: signal.signal(s, self.note) for s in (*wanted, *self.awaited)}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self.previous.items():
            signal.signal(signum, handler)

    def note(self, signum: int, _: FrameType | None) -> None:
        """Remember the signal until the step is done."""
        if self.received is None or signum in self.awaited:
            first, self.received = self.received is None, signum
            if not first:
                return
            # Not through the console, which this signal may have interrupted.
            self.tell("\nFinishing the step; once more to stop at once.\n")
            return
        with suppress(Exception):
            self.leave()
        self.tell("Stopped at once; the last checkpoint is whole.\n")
        os._exit(128 + signum)

    def hand_on(self) -> None:
        """Give a signal that somebody else waits for to them."""
        if self.received in self.awaited:
            self.awaited[self.received](self.received, None)

    def tell(self, text: str) -> None:
        """Write to the terminal, unless another process does; the terminal may be gone."""
        if self.processes.is_main:
            with suppress(OSError):
                os.write(2, text.encode())

    def __call__(self, state: TrainState, observations: Observations) -> None:
        """End the run after this step if a signal came, to whichever process.

        Raises:
            Stopped: a signal came.
            WentBack: the main process is going back to the last checkpoint.
        """
        said = self.processes.largest(self.received or 0)
        if said == GO_BACK:
            raise WentBack
        if said:
            self.received = said
            raise Stopped


def save_config(folder: Path, config: Node, typed: list[str]) -> None:
    """Keep the config as it is run, resolved and with one budget, and the overrides that it was composed from."""
    (folder / ".hydra").mkdir(exist_ok=True)
    for name, content in (("overrides", typed), ("config", config)):  # the config last: it marks the folder as a run's
        with atomic_write(folder / ".hydra" / f"{name}.yaml") as file:
            file.write(OmegaConf.to_yaml(OmegaConf.create(content)).encode())


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Keep warnings in the run's folder too.

    Raises:
        ConfigError: the file is a link, which would lead what is written elsewhere.
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
