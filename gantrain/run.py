"""A run: its folder, what it works on, and the record it keeps of itself."""

import json
import platform
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from numpy import ndarray
from torch import Tensor
from typing_extensions import override

from gantrain.callbacks.base import Callback
from gantrain.datasets.base import Dataset
from gantrain.files import atomic_write
from gantrain.metrics.base import Metric
from gantrain.models.latent import Latent
from gantrain.processes import ALONE, Processes
from gantrain.regularizers.base import Regularizer
from gantrain.runtime import Runtime
from gantrain.train import TrainState


@dataclass
class Run:
    """What the callbacks of one training share.

    Attributes:
        name: what the run is called in records and summaries.
        folder: where everything is written.
        config: the resolved config, plain Python.
        steps: generator updates that the run is to make.
        hyperparameters: what a sweep would compare, flat, by config key.
        command: what goes on with the run, as it would be typed.
        data_place: where the training images lie: "device" or "host".
        processes: those that train it.
        earlier: the config of the part of the run that this one goes on from, where there was one; earlier_steps: how
            many steps that was to make.
        seconds_before: how long the earlier parts took.
        active: the callbacks that have started.
    """

    name: str
    folder: Path
    config: dict[str, Any]
    state: TrainState
    dataset: Dataset
    latent: Latent
    runtime: Runtime
    steps: int
    metrics: dict[str, Metric]
    hyperparameters: dict[str, bool | float | str]
    callbacks: list[Callback]
    regularizers: dict[str, Regularizer] = field(default_factory=dict)
    command: str = ""
    data_place: str = "host"
    processes: Processes = ALONE
    earlier: dict[str, Any] | None = None
    earlier_steps: int = 0
    seconds_before: float = 0.0
    started: float = field(default_factory=time.time)
    active: list[Callback] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.callbacks = sorted(self.callbacks, key=lambda callback: callback.order)

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.runtime.device

    @property
    def images_seen(self) -> int:
        """Real samples shown to the critic so far."""
        return self.state.batches_seen * int(self.config["batch_size"])

    @property
    def seconds(self) -> float:
        """How long all parts of the run have taken so far."""
        return self.seconds_before + time.time() - self.started

    @property
    def better(self) -> dict[str, int]:
        """By number of the metrics, 1 where higher is better and -1 where lower is."""
        signs = {"higher": 1, "lower": -1}
        return {tag: signs[better] for metric in self.metrics.values() for tag, better in metric.better.items()}

    def check(self) -> None:
        """Let the callbacks refuse what cannot work, before anything is written."""
        for callback in self.callbacks:
            callback.check(self)

    def start(self) -> None:
        """Start the callbacks; only when all are ready do they begin to publish, or go on after the run's step."""
        for callback in self.callbacks:
            callback.start(self)
            self.active.append(callback)
        for callback in self.callbacks:
            if self.earlier is None:
                callback.begin(self.state)
            else:
                callback.rewind(self.state)

    def rewind(self) -> None:
        """Take back what the callbacks wrote after the state's step, to which the run went back."""
        self.earlier, self.earlier_steps = self.config, self.steps
        for callback in self.active:
            callback.rewind(self.state)

    def stands(self, step: int, tag: str) -> bool:
        """Whether what was written under the tag at `step` belongs to the run that goes on from the state's step.

        What came later is about to be written again. At that step itself, what was written only because the run was to
        end there, or was stopped there, does not belong to one that goes on.
        """
        if step != self.state.step:
            return step < self.state.step
        if tag.startswith("samples/"):
            return self._was_due(step, "sample_every")
        if step < self.earlier_steps or step == self.steps or (self.metrics and self._was_due(step, "evaluate_every")):
            return True
        return not tag.startswith("metric/") and (step == 1 or self._was_due(step, "log_every"))

    def _was_due(self, step: int, interval: str) -> bool:
        every = (self.earlier or self.config).get(interval)
        return isinstance(every, int) and every > 0 and step % every == 0

    def finish(self, status: str) -> None:
        """Finish all callbacks that have started, even if one fails; that which saves the state comes first."""
        with ExitStack() as stack:
            in_turn = sorted(self.active, key=lambda callback: callback.order <= 0)
            for callback in reversed(in_turn):  # the stack takes the last first
                stack.callback(callback.finish, self.state, status)

    def publish_scalars(self, scalars: dict[str, float]) -> None:
        """Hand the numbers of a logged step to every callback."""
        for callback in self.active:
            callback.scalars(self.state, scalars)

    def publish_image(self, tag: str, image: UInt8[ndarray, "h w 3"]) -> None:
        """Hand a picture to every callback."""
        for callback in self.active:
            callback.image(self.state, tag, image)

    def publish_histogram(self, tag: str, values: Tensor) -> None:
        """Hand a sample of numbers to every callback."""
        for callback in self.active:
            callback.histogram(self.state, tag, values)


class Record(Callback):
    """run.json: what the run is, how far it came and how it ended; whole at any moment.

    Not a choice of the config: no run is without it.
    """

    SECONDS_BETWEEN_WRITES = 10.0

    name = "run.json"

    def __init__(self, run: Run, choices: dict[str, Any], *, earlier: dict[str, Any] | None = None):
        self.run, self.choices = run, choices
        self.last: dict[str, float] = {}
        self.best: dict[str, dict[str, float]] = {}
        self.first_started = str((earlier or {}).get("started") or timestamp(run.started))
        history = (earlier or {}).get("history")
        self.history: list[Any] = list(history) if isinstance(history, list) else []
        self.written = 0.0

    @override
    def scalars(self, state: TrainState, scalars: dict[str, float]) -> None:
        self.last |= scalars
        for name, sign in self.run.better.items():
            tag = f"metric/{name}"
            if tag in scalars and (tag not in self.best or sign * scalars[tag] > sign * self.best[tag]["value"]):
                self.best[tag] = {"value": scalars[tag], "step": state.step}
        if time.monotonic() - self.written > self.SECONDS_BETWEEN_WRITES:
            self.write("running")

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"last": dict(self.last), "best": {tag: dict(best) for tag, best in self.best.items()}}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.last, self.best = dict(state.get("last", {})), dict(state.get("best", {}))

    def note(self, event: str, **facts: object) -> None:
        """Add to the run's history: that it was resumed, with which changes, or rolled back, and why."""
        self.history.append({"event": event, "step": self.run.state.step, "time": timestamp(time.time()), **facts})

    def write(self, status: str, error: str | None = None) -> None:
        """Write the record with the given status: running, finished, stopped, diverged or failed."""
        run, state, seconds = self.run, self.run.state, self.run.seconds
        content = {
            "name": run.name,
            "status": status,
            "error": error,
            "command": sys.argv,
            "versions": {
                "gantrain": version("gantrain"),
                "python": platform.python_version(),
                "torch": torch.__version__,
            },
            "device": device_name(run.device),
            "precision": run.runtime.precision,
            "acceleration": run.runtime.acceleration,
            "layout": run.runtime.layout,
            "data": run.data_place,
            "threads": run.runtime.threads or torch.get_num_threads(),
            "processes": run.processes.size,
            "seed": run.config["seed"],
            "choices": self.choices,
            "dataset": {
                "name": run.dataset.name,
                "num_images": run.dataset.num_images,
                "image_shape": list(run.dataset.image_shape),
                "fingerprint": run.dataset.fingerprint,
            },
            "parameters": {"generator": num_parameters(state.G), "discriminator": num_parameters(state.D)},
            "steps": state.step,
            "steps_planned": run.steps,
            "images_seen": run.images_seen,
            "images_per_second": run.images_seen / seconds,
            "wall_seconds": seconds,
            "metrics": {"last": self.last, "best": self.best},
            "history": self.history,
            "started": self.first_started,
            "ended": None if status == "running" else timestamp(time.time()),
        }
        with atomic_write(run.folder / "run.json") as file:
            file.write(json.dumps(content, indent=2).encode() + b"\n")
        self.written = time.monotonic()


def num_parameters(module: torch.nn.Module) -> int:
    """Count the trained numbers."""
    return sum(p.numel() for p in module.parameters())


def device_name(device: torch.device) -> str:
    """Say what computes, for example "cpu" or "cuda (NVIDIA H200)"."""
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def timestamp(seconds: float) -> str:
    """ISO 8601, UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
