"""task=train: build everything, say what will run, run it, and leave a record however it ends."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from omegaconf import OmegaConf

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
from gantrain.cli import Job
from gantrain.config import Node, check, count_steps, critic_schedule, hyperparameters, settle_budget
from gantrain.console import console
from gantrain.datasets.batches import make_batches
from gantrain.errors import DivergedError
from gantrain.files import atomic_write
from gantrain.run import Record, Run
from gantrain.summary import closing, summary
from gantrain.train import Observations, TrainState
from gantrain.train import train as run_algorithm

logger = logging.getLogger(__name__)


class Stopped(Exception):
    """A signal asked the run to end after the step that it was in."""

    def __init__(self, signum: int):
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.exit_status = 128 + signum


def train(job: Job) -> None:
    """Train the networks of the config in the job's folder.

    Raises:
        UserError: the config or the data is wrong; found before the first step.
        DivergedError: the training left the finite numbers.
        SystemExit: a signal stopped the run; 128 + its number.
    """
    with log_file(job.folder / "gantrain.log"):
        run_recorded(job)


def run_recorded(job: Job) -> None:
    """Build what the config names and train it, under a record."""
    config = settle_budget(job.config, job.typed) | {"run_dir": str(job.folder)}
    check(config)
    device = build_device(config["runtime"])
    loss, regularizers = build_loss(config), build_regularizers(config)
    metrics, callbacks = build_metrics(config), build_callbacks(config)
    latent = build_latent(config)
    dataset = build_dataset(config)
    state = build_state(config, dataset.image_shape, latent, device)
    check_cross(state.D, loss, regularizers, config["allow"])
    count_steps(config, dataset.num_images)  # refuses epochs of what has none, before anything is decoded
    dataset.prepare()
    run = Run(
        name=job.name,
        folder=job.folder,
        config=config,
        state=state,
        dataset=dataset,
        latent=latent,
        device=device,
        steps=count_steps(config, dataset.num_images),
        metrics=metrics,
        hyperparameters=hyperparameters(config, job.choices, job.typed),
        callbacks=callbacks,
    )
    run.check()
    save_config(job.folder, config)
    with recorded(run, Record(run, job.choices)) as stop:
        console.print(summary(run, job.choices))
        run.start()
        run_algorithm(
            state,
            make_batches(dataset, batch_size=config["batch_size"], seed=config["seed"], device=device),
            latent,
            loss,
            regularizers,
            steps=run.steps,
            n_critic=critic_schedule(config),
            seed=config["seed"],
            device=device,
            ema=build_ema(config),
            callbacks=[*run.callbacks, stop],
        )
    console.print(closing(run), markup=False, soft_wrap=True)


@contextmanager
def recorded(run: Run, record: Record) -> Iterator["StopOnSignal"]:
    """Keep run.json true while the block runs and when it ends, whatever ends it, and let the callbacks finish."""
    run.callbacks.append(record)
    record.write("running")
    status, error, farewell = "failed", None, ""
    try:
        with StopOnSignal() as stop:
            yield stop
        status = "finished"
    except Stopped as stopped:
        status = "stopped"
        farewell = f"{stopped} after step {run.state.step}; what was written is in {run.folder}"
        raise SystemExit(stopped.exit_status) from None
    except DivergedError as diverged:
        status, error = "diverged", str(diverged)
        raise
    except BaseException as failure:
        error = f"{type(failure).__name__}: {failure}"
        raise
    finally:
        try:
            run.finish(status)
        except BaseException as failure:
            status, error = "failed", f"{type(failure).__name__}: {failure}"
            raise
        finally:
            record.write(status, error)
        if farewell:
            console.print(farewell, markup=False, soft_wrap=True)


class StopOnSignal:
    """Turn the first SIGINT or SIGTERM into the end of the current step; a second one acts at once."""

    def __init__(self) -> None:
        self.received: int | None = None

    def __enter__(self) -> "StopOnSignal":
        # Python allows handlers in the main thread alone; elsewhere the caller's own ways of stopping hold.
        on_main = threading.current_thread() is threading.main_thread()
        self.previous = {s: signal.signal(s, self.note) for s in (signal.SIGINT, signal.SIGTERM) if on_main}
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()

    def restore(self) -> None:
        """Put the earlier handlers back."""
        for signum, handler in self.previous.items():
            signal.signal(signum, handler)

    def note(self, signum: int, _: FrameType | None) -> None:
        """Remember the signal until the step is done."""
        self.received = signum
        self.restore()

    def __call__(self, state: TrainState, observations: Observations) -> None:
        """End the run after this step if a signal came.

        Raises:
            Stopped: a signal came.
        """
        if self.received is not None:
            raise Stopped(self.received)


def save_config(folder: Path, config: Node) -> None:
    """Put the config as it is run in the place of the one that Hydra composed: resolved, with one budget."""
    (folder / ".hydra").mkdir(exist_ok=True)
    with atomic_write(folder / ".hydra" / "config.yaml") as file:
        file.write(OmegaConf.to_yaml(config).encode())


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Keep warnings in the run's folder too."""
    handler = logging.FileHandler(path, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
