"""A run: its folder, what it works on, and who listens to it."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import UInt8
from numpy import ndarray
from torch import Tensor

from gantrain.config import Config
from gantrain.datasets.base import Dataset
from gantrain.ema import EMA
from gantrain.engine.distributed import SINGLE, Processes
from gantrain.engine.runtime import Runtime
from gantrain.game import Objective
from gantrain.metrics.base import Metric
from gantrain.models.latent import Latent
from gantrain.train import TrainState


@runtime_checkable
@runtime_checkable
class Listener(Protocol):
    """What a run needs to know of a callback: where to send what is published, and which records survive a rewind."""

    name: str
    every: int | None
    tags: ClassVar[tuple[str, ...]]
    owns_scalars: ClassVar[bool]

    def scalars(self, state: TrainState, scalars: dict[str, float]) -> None:
        """Receive the numbers of a logged step, by TensorBoard tag."""
        ...

    def image(self, state: TrainState, tag: str, image: UInt8[ndarray, "h w 3"]) -> None:
        """Receive a picture."""
        ...

    def histogram(self, state: TrainState, tag: str, values: Tensor) -> None:
        """Receive numbers whose distribution is of interest."""
        ...

    def flush(self) -> None:
        """Write everything received so far to disk."""
        ...

    def survives_rewind(self, step: int) -> bool:
        """Tell whether what it published at the step that the run is resumed from was due there."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what changes from step to step."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what state_dict returned."""
        ...


@dataclass
class Previous:
    """The part of a run that was trained before it was resumed or rolled back.

    Attributes:
        planned_steps: how many steps it was to make.
        seconds: how long it took.
        intervals: of its callbacks, in steps, by name.
    """

    planned_steps: int
    seconds: float = 0.0
    intervals: dict[str, int] = field(default_factory=dict)


@dataclass
class Run:
    """What the callbacks of one training share.

    Attributes:
        name: what the run is called in records and summaries.
        folder: where everything is written.
        steps: generator updates that the run is to make.
        hyperparameters: what a sweep would compare, flat, by config key.
        command: resumes the run, as it would be typed.
        data_location: where the training images are stored: "device" or "host".
        processes: those that train the run.
        class_counts: how many samples the data have of each class, or None.
        previous: the part of the run before it was resumed; None in a new run.
        listeners: the callbacks, in the order in which they are called.
    """

    name: str
    folder: Path
    config: Config
    state: TrainState
    dataset: Dataset
    latent: Latent
    objective: Objective
    runtime: Runtime
    steps: int
    metrics: dict[str, Metric]
    hyperparameters: dict[str, bool | float | str]
    ema: EMA | None = None
    command: str = ""
    data_location: str = "host"
    processes: Processes = SINGLE
    class_counts: list[int] | None = None
    previous: Previous | None = None
    started: float = field(default_factory=time.time)
    listeners: list[Listener] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.runtime.device

    @property
    def images_seen(self) -> int:
        """Real samples shown to the critic so far."""
        return self.state.batches_seen * self.config.batch_size

    @property
    def seconds(self) -> float:
        """How long all parts of the run have taken so far."""
        return (self.previous.seconds if self.previous else 0.0) + time.time() - self.started

    @property
    def better(self) -> dict[str, int]:
        """By number of the metrics, 1 where higher is better and -1 where lower is."""
        signs = {"higher": 1, "lower": -1}
        return {tag: signs[better] for metric in self.metrics.values() for tag, better in metric.better.items()}

    def survives_rewind(self, step: int, tag: str, *, is_scalar: bool = True) -> bool:
        """Tell whether what was written under the tag at a step survives resuming at the state's step.

        What came later is about to be written again. At that step itself, the callback that publishes the tag decides:
        what was written only because the run was to end there, or was stopped there, is removed.
        """
        if step != self.state.step:
            return step < self.state.step
        owners = [listener for listener in self.listeners if listener.tags and tag.startswith(listener.tags)]
        if not owners and is_scalar:
            owners = [listener for listener in self.listeners if listener.owns_scalars]
        return all(owner.survives_rewind(step) for owner in owners)

    def intervals(self) -> dict[str, int]:
        """Return the interval of every callback that has one, in steps, by name."""
        return {listener.name: listener.every for listener in self.listeners if listener.every is not None}

    def publish_scalars(self, scalars: dict[str, float]) -> None:
        """Send the numbers of a logged step to every callback."""
        for listener in self.listeners:
            listener.scalars(self.state, scalars)

    def publish_image(self, tag: str, image: UInt8[ndarray, "h w 3"]) -> None:
        """Send a picture to every callback."""
        for listener in self.listeners:
            listener.image(self.state, tag, image)

    def publish_histogram(self, tag: str, values: Tensor) -> None:
        """Send numbers whose distribution is of interest to every callback."""
        for listener in self.listeners:
            listener.histogram(self.state, tag, values)
