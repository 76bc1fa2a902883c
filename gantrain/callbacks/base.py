"""What a callback may do, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxtyping import UInt8
from numpy import ndarray
from torch import Tensor

from gantrain.train import Observations, TrainState

if TYPE_CHECKING:
    from gantrain.run import Run


class Callback:
    """Does nothing; override what is needed.

    The order of a run's callbacks is that of the config's list: what one adds to the observations of a step, those
    after it see.
    """

    def start(self, run: Run) -> None:
        """Get ready, before the first step; the run's state, config and folder are complete.

        The last of the list starts first, so that what another publishes in its start arrives.
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
