"""The base class of callbacks, and the list of a run's callbacks."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, ClassVar

from jaxtyping import UInt8
from numpy import ndarray
from torch import Tensor

from gantrain.session.run import PreviousSession, Run
from gantrain.train import TrainState
from gantrain.updates import Logs


class Callback:
    """Base class of callbacks, which does nothing; override the methods that you need.

    A callback with an interval takes it as its option `every`, stores it as self.every, and calls is_due. Then the
    records that it publishes under `tags` are exact after resuming: a record at the step of the checkpoint is kept only
    if the callback was due at that step.

    Attributes:
        every: interval in steps; None if the callback has no interval.
        tags: prefixes of the TensorBoard tags that it publishes, for example ("metric/",).
        owns_scalars: whether it decides at which steps the scalars that belong to no callback's `tags` are logged.
        order: callbacks with a lower order are called first, independent of the config: -1 for those that add values to
            the logs of a step, 1 for those that save the state after all others have handled the step.
        name: name in the config, or else name of the class; checkpoints keep the state of the callback under it.
        shared: whether it runs on every rank; otherwise it runs only on rank 0, which writes files.
    """

    every: int | None = None
    name: str = ""
    tags: ClassVar[tuple[str, ...]] = ()
    owns_scalars: ClassVar[bool] = False
    order: ClassVar[int] = 0
    shared: ClassVar[bool] = False

    run: Run
    """The run of the callback; set by Callbacks.append."""

    def check(self, run: Run) -> None:
        """Check the options before anything is written.

        Raises:
            UserError: the callback cannot work with these options.
        """

    def start(self, run: Run) -> None:
        """Prepare for the run, whose state, config and folder are complete."""

    def begin(self, state: TrainState) -> None:
        """Publish what precedes the first step of a new run; called after the start of all callbacks."""

    def rewind(self, state: TrainState) -> None:
        """Remove the records after state.step, the step that the run resumes from or was rolled back to.

        Also remove a record at state.step if run.survives_rewind() returns False. In a resumed run this is called
        instead of begin.
        """

    def __call__(self, state: TrainState, logs: Logs) -> None:
        """Run after a step. Read tensors only when they are written somewhere, because reading waits for the device."""

    def scalars(self, state: TrainState, scalars: dict[str, float]) -> None:
        """Receive the scalars of a logged step, by TensorBoard tag."""

    def image(self, state: TrainState, tag: str, image: UInt8[ndarray, "h w 3"]) -> None:
        """Receive a picture that a callback publishes."""

    def histogram(self, state: TrainState, tag: str, values: Tensor) -> None:
        """Receive values for a histogram."""

    def markdown(self, state: TrainState, tag: str, text: str) -> None:
        """Receive a text in Markdown."""

    def progress(self, what: str, done: int, total: int) -> None:
        """Receive the progress of work between two steps, for example ("generated samples", 640, 50000)."""

    def finish(self, state: TrainState, status: str) -> None:
        """Write the remaining output at the end of the run, also after an error.

        Args:
            status: as in run.json: finished, stopped, diverged or failed.
        """

    def flush(self) -> None:
        """Write everything received so far to disk, because a checkpoint is about to be written."""

    def is_due(self, step: int) -> bool:
        """Return whether the interval ends at this step."""
        return self.every is not None and step % self.every == 0

    def was_due(self, step: int) -> bool:
        """Return whether the callback was due at a step of the previous session, by the interval at that time."""
        previous = self.run.previous
        every = self.every if previous is None else previous.intervals.get(self.name, self.every)
        return every is not None and step % every == 0

    def survives_rewind(self, step: int) -> bool:
        """Return whether what it published at the step where the run is resumed is kept."""
        return self.was_due(step)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that changes from step to step, for checkpoints: tensors, numbers and strings."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that state_dict returned; called before start."""


class Callbacks:
    """The callbacks of a run, in the order in which they are called."""

    def __init__(self, run: Run, callbacks: Sequence[Callback]):
        self.run = run
        self.all: list[Callback] = []
        self.started: list[Callback] = []
        for callback in callbacks:
            self.append(callback)

    def __iter__(self) -> Iterator[Callback]:
        return iter(self.all)

    def append(self, callback: Callback) -> None:
        """Add a callback, and sort the callbacks by their order."""
        callback.run = self.run
        callback.name = callback.name or type(callback).__name__
        self.all = sorted([*self.all, callback], key=lambda callback: callback.order)
        self.run.listeners = list(self.all)

    def check(self) -> None:
        """Let every callback check its options, before anything is written."""
        for callback in self.all:
            callback.check(self.run)

    def start(self) -> None:
        """Start all callbacks; then call begin in a new run, or rewind in a resumed one."""
        for callback in self.all:
            callback.start(self.run)
            self.started.append(callback)
        for callback in self.all:
            if self.run.previous is None:
                callback.begin(self.run.state)
            else:
                callback.rewind(self.run.state)

    def rewind(self) -> None:
        """Rewind all callbacks after a rollback to the state's step."""
        previous = self.run.previous or PreviousSession(planned_steps=0)
        self.run.previous = replace(previous, planned_steps=self.run.steps, intervals=self.run.intervals())
        for callback in self.started:
            callback.rewind(self.run.state)

    def finish(self, status: str) -> None:
        """Finish all callbacks that have started, even if one fails; those that save the state are first."""
        with ExitStack() as stack:
            in_order = sorted(self.started, key=lambda callback: callback.order <= 0)
            for callback in reversed(in_order):  # the stack calls the last first
                stack.callback(callback.finish, self.run.state, status)


def is_regular_record(run: Run, step: int) -> bool:
    """Return whether an uninterrupted run would also have the record at `step`, where this run is resumed.

    If the previous session was planned to end at this step, the record may exist only because of that; then it is kept
    only if the run still ends there.
    """
    return step == run.steps or (run.previous is not None and step < run.previous.planned_steps)
