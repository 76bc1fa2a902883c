"""A run: its folder, config, state and parts, and the callbacks that receive what is published."""

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
from gantrain.engine.distributed import SINGLE_PROCESS, Processes
from gantrain.engine.runtime import Runtime
from gantrain.evaluation.evaluator import Evaluator
from gantrain.evaluation.receipts import Receipt
from gantrain.game import Objective
from gantrain.models.latent import Latent
from gantrain.schedules.base import Clock
from gantrain.train import TrainState
from gantrain.verdicts.base import Verdict


@runtime_checkable
class Listener(Protocol):
    """The part of a callback's interface that a run uses; see callbacks.base.Callback."""

    name: str
    every: int | None
    tags: ClassVar[tuple[str, ...]]
    owns_scalars: ClassVar[bool]

    def scalars(self, state: TrainState, scalars: dict[str, float]) -> None:
        """Receive the scalars of a logged step, by TensorBoard tag."""
        ...

    def image(self, state: TrainState, tag: str, image: UInt8[ndarray, "h w 3"]) -> None:
        """Receive a picture."""
        ...

    def histogram(self, state: TrainState, tag: str, values: Tensor) -> None:
        """Receive values for a histogram."""
        ...

    def markdown(self, state: TrainState, tag: str, text: str) -> None:
        """Receive a text in Markdown."""
        ...

    def progress(self, what: str, done: int, total: int) -> None:
        """Receive the progress of work between two steps."""
        ...

    def flush(self) -> None:
        """Write everything received so far to disk."""
        ...

    def survives_rewind(self, step: int) -> bool:
        """Return whether what it published at the step where the run is resumed is kept."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the state that changes from step to step."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that state_dict returned."""
        ...


@dataclass
class PreviousSession:
    """The session of a run before it was resumed or rolled back.

    Attributes:
        planned_steps: the number of steps that were planned.
        seconds: how long it took.
        intervals: the interval of each of its callbacks, in steps, by name.
    """

    planned_steps: int
    seconds: float = 0.0
    intervals: dict[str, int] = field(default_factory=dict)


@dataclass
class Run:
    """Everything that the callbacks and the tools of a run share.

    Attributes:
        name: name of the run in run.json and the progress bar.
        folder: where everything is written.
        steps: total number of generator updates.
        evaluator: computes the metrics.
        receipts: how the last value under each tag metric/<name> was measured.
        hyperparameters: the values that the HParams tab compares, by config key.
        typed: the overrides that the config was composed from.
        command: the shell command that resumes the run.
        data_location: where the training images are stored: "device" or "host".
        processes: the processes that train the run.
        class_counts: number of samples of each class in the data; None if the run does not use labels.
        previous: the session before the run was resumed or rolled back; None in a new run.
        started: time at which this session started, in seconds since 1970.
        listeners: the callbacks, in the order in which they are called.
        verdicts: by name.
        findings: what the verdicts have found, as in run.json.
        wasserstein: the critic's last estimate and its reliability, as in run.json; None: there is none.
        stopped_by: the verdict that ends the run after this step, on rank 0; None: the run goes on.
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
    evaluator: Evaluator
    hyperparameters: dict[str, bool | float | str]
    ema: EMA | None = None
    typed: list[str] = field(default_factory=list)
    command: str = ""
    data_location: str = "host"
    processes: Processes = SINGLE_PROCESS
    class_counts: list[int] | None = None
    previous: PreviousSession | None = None
    started: float = field(default_factory=time.time)
    listeners: list[Listener] = field(default_factory=list)
    receipts: dict[str, Receipt] = field(default_factory=dict)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    findings: list[dict[str, Any]] = field(default_factory=list)
    wasserstein: dict[str, Any] | None = None
    stopped_by: str | None = None

    @property
    def device(self) -> torch.device:
        """The device of the networks."""
        return self.runtime.device

    @property
    def images_seen(self) -> int:
        """Real samples shown to the critic so far."""
        return self.state.batches_seen * self.config.batch_size

    @property
    def seconds(self) -> float:
        """Duration of all sessions of the run so far, in seconds."""
        return (self.previous.seconds if self.previous else 0.0) + time.time() - self.started

    @property
    def clock(self) -> Clock:
        """The progress of the training before the next step."""
        return Clock(self.state.step / self.steps, self.state.step * self.config.batch_size)

    @property
    def better(self) -> dict[str, int]:
        """For each name of a metric's value, 1 if higher is better and -1 if lower is better."""
        signs = {"higher": 1, "lower": -1}
        return {name: signs[better] for name, better in self.evaluator.better.items()}

    def survives_rewind(self, step: int, tag: str, *, is_scalar: bool = True) -> bool:
        """Return whether a record, written under a tag at a step, is kept when the run is resumed at the state's step.

        Records of earlier steps are kept; those of later steps are removed, because they will be written again. At the
        state's step, the callback that publishes the tag decides: a record that was written only because the run ended
        or was stopped there is removed.
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
        """Send the scalars of a logged step to every callback."""
        for listener in self.listeners:
            listener.scalars(self.state, scalars)

    def publish_image(self, tag: str, image: UInt8[ndarray, "h w 3"]) -> None:
        """Send a picture to every callback."""
        for listener in self.listeners:
            listener.image(self.state, tag, image)

    def publish_histogram(self, tag: str, values: Tensor) -> None:
        """Send values for a histogram to every callback."""
        for listener in self.listeners:
            listener.histogram(self.state, tag, values)

    def publish_progress(self, what: str, done: int, total: int) -> None:
        """Send the progress of work between two steps, such as an evaluation, to every callback."""
        for listener in self.listeners:
            listener.progress(what, done, total)

    def publish_markdown(self, tag: str, text: str) -> None:
        """Send a text in Markdown to every callback."""
        for listener in self.listeners:
            listener.markdown(self.state, tag, text)
