"""What a schedule is: a function from the training's clock to a number."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, Int64
from torch import Tensor

Number = float | Float[Tensor, ""]
"""A float, or in a captured update a 0-dim tensor that is changed in place between replays."""


class Clock(NamedTuple):
    """How far the training is, before the step that reads it.

    Attributes:
        fraction: of the planned steps, in [0, 1).
        images: batch_size times the steps done, the count of StyleGAN2 and R3GAN; critic updates do not matter.
    """

    fraction: Number
    images: int | Int64[Tensor, ""]


@runtime_checkable
class Schedule(Protocol):
    """A number that changes while training, evaluated on the host before each step.

    Attributes:
        of: the config keys that it drives, for example ["optimizer.lr"].
    """

    of: list[str]

    def __call__(self, clock: Clock) -> float:
        """Return the value at this time."""
        ...


@dataclass(frozen=True)
class Span:
    """A stretch of the training, in its fraction or in images.

    Args:
        begin, end: where it lies: parts of the training in [0, 1], or numbers of images if `unit` is "images".
        unit: "fraction" or "images".

    Raises:
        ValueError: the stretch is empty, or its unit is unknown.
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
        """Return the part of the stretch that is done, in [0, 1]."""
        now = float(clock.fraction if self.unit == "fraction" else clock.images)
        return min(max((now - self.begin) / (self.end - self.begin), 0.0), 1.0)
