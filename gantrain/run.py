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
        active: the callbacks that have started.
    """

    name: str
    folder: Path
    config: dict[str, Any]
    state: TrainState
    dataset: Dataset
    latent: Latent
    device: torch.device
    steps: int
    metrics: dict[str, Metric]
    hyperparameters: dict[str, bool | float | str]
    callbacks: list[Callback]
    started: float = field(default_factory=time.time)
    active: list[Callback] = field(default_factory=list)

    @property
    def images_seen(self) -> int:
        """Real samples shown to the critic so far."""
        return self.state.batches_seen * int(self.config["batch_size"])

    def __post_init__(self) -> None:
        self.callbacks = sorted(self.callbacks, key=lambda callback: not callback.adds_observations)

    def check(self) -> None:
        """Let the callbacks refuse what cannot work, before anything is written."""
        for callback in self.callbacks:
            callback.check(self)

    def start(self) -> None:
        """Start the callbacks; only when all are ready do they begin to publish."""
        for callback in self.callbacks:
            callback.start(self)
            self.active.append(callback)
        for callback in self.callbacks:
            callback.begin(self.state)

    def finish(self, status: str) -> None:
        """Finish the callbacks that have started, in their order; one that fails keeps no other from finishing."""
        with ExitStack() as stack:
            for callback in reversed(self.active):
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

    def __init__(self, run: Run, choices: dict[str, Any]):
        self.run, self.choices = run, choices
        self.last: dict[str, float] = {}
        self.best: dict[str, dict[str, float]] = {}
        self.better = {f"metric/{tag}": sign for m in run.metrics.values() for tag, sign in m.better.items()}
        self.written = 0.0

    @override
    def scalars(self, state: TrainState, scalars: dict[str, float]) -> None:
        self.last |= scalars
        for tag in scalars.keys() & self.better.keys():
            sign = 1 if self.better[tag] == "higher" else -1
            if tag not in self.best or sign * scalars[tag] > sign * self.best[tag]["value"]:
                self.best[tag] = {"value": scalars[tag], "step": state.step}
        if time.monotonic() - self.written > self.SECONDS_BETWEEN_WRITES:
            self.write("running")

    def write(self, status: str, error: str | None = None) -> None:
        """Write the record with the given status: running, finished, stopped, diverged or failed."""
        run, state = self.run, self.run.state
        wall_seconds = time.time() - run.started
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
            "precision": "float32",
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
            "images_per_second": run.images_seen / wall_seconds,
            "wall_seconds": wall_seconds,
            "metrics": {"last": self.last, "best": self.best},
            "started": timestamp(run.started),
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
