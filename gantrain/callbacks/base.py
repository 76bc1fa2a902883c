"""What a callback may do, and when; and the callbacks of a run together."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, ClassVar

from jaxtyping import UInt8
from numpy import ndarray
from torch import Tensor

from gantrain.session.run import Previous, Run
from gantrain.train import TrainState
from gantrain.updates import Logs


class Callback:
    """Does nothing; override what is needed.

    A callback with an interval takes it as its option `every`, keeps it as self.every, and asks is_due. Records that it
    publishes under `tags` are then exact when the run is resumed: those at the step of the checkpoint are kept only if
    the interval was due there.

    Attributes:
        every: steps between two calls in which it does something; None: it has no interval.
        tags: beginnings of the TensorBoard tags that it publishes, for example ("metric/",).
        owns_scalars: whether scalars under tags of no callback are logged when it is due.
        order: those with a lower one are called first, wherever the config names them: -1 for what adds numbers to a
            step's logs, 1 for what saves the state and needs all others to be done with the step.
        name: what the config calls it, or else its class's name; checkpoints keep its state under this name.
        shared: whether it runs on every rank, and not only on rank 0, which writes.
    """

    every: int | None = None
    name: str = ""
    tags: ClassVar[tuple[str, ...]] = ()
    owns_scalars: ClassVar[bool] = False
    order: ClassVar[int] = 0
    shared: ClassVar[bool] = False

    run: Run
    """Set when the run takes the callback."""

    def check(self, run: Run) -> None:
        """Refuse what cannot work, before anything is written.

        Raises:
            UserError: with the remedy.
        """

    def start(self, run: Run) -> None:
        """Prepare; the run's state, config and folder are complete."""

    def begin(self, state: TrainState) -> None:
        """Publish what belongs before the first step of a new run; every callback has started."""

    def rewind(self, state: TrainState) -> None:
        """Remove what was written after state.step: the run was resumed there, or rolled back.

        Of that step itself, remove what run.survives_rewind() denies. Called after start, in the place of begin.
        """

    def __call__(self, state: TrainState, logs: Logs) -> None:
        """Look at the state after a step. Read a tensor only where something is written: it waits for the device."""

    def scalars(self, state: TrainState, scalars: dict[str, float]) -> None:
        """Receive the numbers of a logged step, by TensorBoard tag."""

    def image(self, state: TrainState, tag: str, image: UInt8[ndarray, "h w 3"]) -> None:
        """Receive a picture that another callback has made."""

    def histogram(self, state: TrainState, tag: str, values: Tensor) -> None:
        """Receive numbers whose distribution is of interest."""

    def finish(self, state: TrainState, status: str) -> None:
        """Write what is still to be written. The status is that of run.json; after an error too this is called."""

    def flush(self) -> None:
        """Write everything received so far to disk: a checkpoint of this moment is about to be written."""

    def is_due(self, step: int) -> bool:
        """Tell whether its interval ends at this step."""
        return self.every is not None and step % self.every == 0

    def was_due(self, step: int) -> bool:
        """Tell whether its interval ended at a step of the part of the run that was resumed."""
        previous = self.run.previous
        every = self.every if previous is None else previous.intervals.get(self.name, self.every)
        return every is not None and step % every == 0

    def survives_rewind(self, step: int) -> bool:
        """Tell whether what it published at the step that the run is resumed from was due there."""
        return self.was_due(step)

    def state_dict(self) -> dict[str, Any]:
        """Return what changes from step to step, as tensors, numbers and strings; checkpoints hold it."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what state_dict returned; called before start."""


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
        """Add a callback, in its place by order."""
        callback.run = self.run
        callback.name = callback.name or type(callback).__name__
        self.all = sorted([*self.all, callback], key=lambda callback: callback.order)
        self.run.listeners = list(self.all)

    def check(self) -> None:
        """Let the callbacks refuse what cannot work, before anything is written."""
        for callback in self.all:
            callback.check(self.run)

    def start(self) -> None:
        """Start the callbacks; when all are ready, they publish what belongs before the first step, or rewind."""
        for callback in self.all:
            callback.start(self.run)
            self.started.append(callback)
        for callback in self.all:
            if self.run.previous is None:
                callback.begin(self.run.state)
            else:
                callback.rewind(self.run.state)

    def rewind(self) -> None:
        """Have the callbacks remove what they wrote after the state's step, to which the run was rolled back."""
        previous = self.run.previous or Previous(planned_steps=0)
        self.run.previous = replace(previous, planned_steps=self.run.steps, intervals=self.run.intervals())
        for callback in self.started:
            callback.rewind(self.run.state)

    def finish(self, status: str) -> None:
        """Finish all callbacks that have started, even if one fails; the one that saves the state comes first."""
        with ExitStack() as stack:
            in_turn = sorted(self.started, key=lambda callback: callback.order <= 0)
            for callback in reversed(in_turn):  # the stack calls the last first
                stack.callback(callback.finish, self.run.state, status)


def not_because_of_the_end(run: Run, step: int) -> bool:
    """Tell whether a record at the step that a run is resumed from was not written only because the run ended there."""
    return step == run.steps or (run.previous is not None and step < run.previous.planned_steps)
