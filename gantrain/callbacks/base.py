"""What a callback may do, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from jaxtyping import UInt8
from numpy import ndarray
from torch import Tensor

from gantrain.train import Observations, TrainState

if TYPE_CHECKING:
    from gantrain.run import Run


class Callback:
    """Does nothing; override what is needed.

    Attributes:
        order: those of a lower one go first, wherever the config names them; -1 for what puts numbers of its own into a
            step's observations, 1 for what saves the state and needs all others to be done with the step.
        name: what the config calls it; what it remembers is kept under this name.
        shared: whether it acts in every process that trains the run, and not only in the one that writes.
    """

    name: str = ""

    shared: ClassVar[bool] = False

    order: ClassVar[int] = 0

    def check(self, run: Run) -> None:
        """Refuse what cannot work, before anything is written.

        Raises:
            UserError: with the remedy.
        """

    def start(self, run: Run) -> None:
        """Get ready to take things in; the run's state, config and folder are complete."""

    def begin(self, state: TrainState) -> None:
        """Publish what belongs before the first step of a new run; every callback has started."""

    def rewind(self, state: TrainState) -> None:
        """Take back what was written after state.step: the run goes on from there, resumed or rolled back.

        Of that step itself too, what run.stands() denies. Comes after start, in the place of begin.
        """

    def __call__(self, state: TrainState, observations: Observations) -> None:
        """Look at the state after a step. Read a tensor only where something is written: it waits for the device."""

    def scalars(self, state: TrainState, scalars: dict[str, float]) -> None:
        """Take in the numbers of a logged step, by TensorBoard tag."""

    def image(self, state: TrainState, tag: str, image: UInt8[ndarray, "h w 3"]) -> None:
        """Take in a picture that another callback has made."""

    def histogram(self, state: TrainState, tag: str, values: Tensor) -> None:
        """Take in numbers whose distribution is of interest."""

    def finish(self, state: TrainState, status: str) -> None:
        """Write what is still to be written. The status is that of run.json; after an error too this is called."""

    def flush(self) -> None:
        """Put all that was taken in so far into its files: a checkpoint of this moment is about to be written."""

    def state_dict(self) -> dict[str, Any]:
        """Return what it remembers from one step to the next, as tensors, numbers and strings; checkpoints hold it."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what state_dict gave; called before start."""
