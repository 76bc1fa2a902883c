"""What a metric is."""

from collections.abc import Callable
from typing import ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor

from gantrain.datasets.base import Dataset


@runtime_checkable
class Metric(Protocol):
    """A judgement of the generator by its samples.

    Attributes:
        num_samples: how many samples it wants.
        better: by number that it returns, whether higher or lower is better.
    """

    num_samples: int
    better: ClassVar[dict[str, Literal["higher", "lower"]]]

    def check(self, real: Dataset) -> None:
        """Refuse data that it cannot judge, before the first step; ValueError names the remedy."""
        ...

    def __call__(self, sample: Callable[[int], Tensor], real: Dataset) -> dict[str, float]:
        """Judge; `sample(n)` gives n samples on the CPU, float32, as the generator makes them."""
        ...
