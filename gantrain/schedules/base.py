"""The interface of schedules: functions from the progress of the training to a number."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, Int64
from torch import Tensor

Number = float | Float[Tensor, ""]
"""A float, or in a captured update a 0-dimensional tensor that is changed in place between replays."""


class Clock(NamedTuple):
    """The progress of the training before the current step.

    Attributes:
        fraction: steps done, as a fraction of all steps of the run, in [0, 1).
        images: batch_size times the steps done, as in StyleGAN2 and R3GAN; it does not depend on n_critic.
    """

    fraction: Number
    images: int | Int64[Tensor, ""]


@runtime_checkable
class Schedule(Protocol):
    """A number that changes during training; it is computed on the host before each step.

    Attributes:
        of: the config keys that the schedule changes, for example ["optimizer.lr"].
    """

    of: list[str]

    def __call__(self, clock: Clock) -> float:
        """Return the value at this time."""
        ...


@dataclass(frozen=True)
class Span:
    """An interval of the training.

    Args:
        begin, end: fractions of the training in [0, 1], or numbers of images if `unit` is "images".
        unit: "fraction" or "images".

    Raises:
        ValueError: the interval is empty or out of range, or the unit is unknown.
    """

    begin: float
    end: float
    unit: str = "fraction"

    def __post_init__(self) -> None:
        if self.unit not in ("fraction", "images"):
            raise ValueError(f"unit={self.unit}: must be fraction (of the training) or images.")
        if not 0 <= self.begin < self.end or (self.unit == "fraction" and self.end > 1):
            limit = " <= 1" if self.unit == "fraction" else ""
            raise ValueError(f"begin={self.begin}, end={self.end}: 0 <= begin < end{limit} must hold, in {self.unit}.")

    def done(self, clock: Clock) -> float:
        """Return the fraction of the interval that is done, in [0, 1]."""
        now = float(clock.fraction if self.unit == "fraction" else clock.images)
        return min(max((now - self.begin) / (self.end - self.begin), 0.0), 1.0)
