"""The interface of metrics."""

from collections.abc import Callable
from typing import ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor

from gantrain.datasets.base import Dataset


@runtime_checkable
class Metric(Protocol):
    """Scores the samples of a generator.

    Attributes:
        num_samples: number of generated samples that the metric uses.
        better: for each score, whether higher or lower is better; scores without an entry have no direction.
    """

    num_samples: int
    better: ClassVar[dict[str, Literal["higher", "lower"]]]

    def check(self, real: Dataset) -> None:
        """Check, before the first step, that the metric applies to the data.

        Raises:
            ValueError: it does not; the message names the remedy.
        """
        ...

    def __call__(self, sample: Callable[[int], Tensor], real: Dataset) -> dict[str, float]:
        """Return the scores by name; `sample(n)` returns n generated samples, float32 on the CPU."""
        ...
