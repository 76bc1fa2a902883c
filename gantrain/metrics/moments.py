"""Mean and standard deviation of vectors."""

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor

from gantrain.datasets.base import Dataset, Distribution
from gantrain.seeding import generator

NUM_REAL = 100_000
"""Real samples drawn where no closed form is known: their error is a 300th of a standard deviation."""


class Moments:
    """mean and std of each coordinate, and how far the worst of them is from the data's."""

    better: ClassVar[dict[str, Literal["higher", "lower"]]] = {"mean_error": "lower", "std_error": "lower"}

    def __init__(self, *, num_samples: int):
        if num_samples < 2:
            raise ValueError(f"num_samples={num_samples}: a standard deviation needs at least 2 (10000 is usual).")
        self.num_samples = num_samples

    def check(self, real: Dataset) -> None:
        """Refuse images.

        Raises:
            ValueError: the dataset is no distribution over vectors.
        """
        vectors(real)

    def __call__(self, sample: Callable[[int], Tensor], real: Dataset) -> dict[str, float]:
        """Judge by "mean" and "std" (with coordinates "mean_0", ...), "mean_error" and "std_error"."""
        fake = sample(self.num_samples).double()
        numbers: dict[str, float] = {}
        for name, values, target in zip(("mean", "std"), (fake.mean(0), fake.std(0)), moments(real), strict=True):
            for i, value in enumerate(values.tolist()):
                numbers[name if len(values) == 1 else f"{name}_{i}"] = value
            numbers[f"{name}_error"] = (values - target).abs().max().item()
        return numbers


def moments(real: Dataset) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the data's coordinates: in closed form, else of a large sample."""
    distribution = vectors(real)
    if distribution.mean is not None and distribution.std is not None:
        return torch.tensor(distribution.mean).double(), torch.tensor(distribution.std).double()
    drawn = distribution.sample(NUM_REAL, generator("moments")).double()
    return drawn.mean(0), drawn.std(0)


def vectors(real: Dataset) -> Distribution:
    """Return the dataset as what it is, if it is a distribution over vectors.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(real, Distribution):
        raise ValueError(
            f"dataset={real.name}: moments and modes are those of vectors, and this one has images; leave them out of "
            "metric=[...] or choose data such as dataset=gaussian."
        )
    return real
