"""What a callback may do, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from jaxtyping import UInt8
from numpy import ndarray
from torch import Tensor

from gantrain.train import Observations, TrainState

if TYPE_CHECKING:
    from gantrain.run import Run


class Callback:
    """Does nothing; override what is needed.

    Attributes:
        adds_observations: whether it puts numbers of its own into a step's observations; it then goes before those
            that read them, wherever the config names it.
    """

    adds_observations: ClassVar[bool] = False

    def check(self, run: Run) -> None:
        """Refuse what cannot work, before anything is written.

        Raises:
            UserError: with the remedy.
        """

    def start(self, run: Run) -> None:
        """Get ready to take things in; the run's state, config and folder are complete."""

    def begin(self, state: TrainState) -> None:
        """Publish what belongs before the first step; every callback has started."""

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
