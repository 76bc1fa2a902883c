"""Compare mean and standard deviation of generated vectors with those of the data."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from gantrain.datasets.base import Dataset, Distribution
from gantrain.metrics.base import Better
from gantrain.seeding import generator

NUM_REAL = 100_000
"""Real samples drawn without a closed form; the standard error of their mean is 1/300 of a standard deviation."""


class Moments:
    """Measures mean and std of each coordinate, and their largest absolute error over the coordinates.

    Args:
        num_samples: number of generated samples, at least 2.
    """

    better: ClassVar[dict[str, Better]] = {"mean_error": "lower", "std_error": "lower"}

    def __init__(self, *, num_samples: int):
        if num_samples < 2:
            raise ValueError(f"num_samples={num_samples}: a standard deviation needs at least 2 (10000 is usual).")
        self.num_samples = num_samples

    def check(self, real: Dataset) -> None:
        """Check that the data consists of vectors.

        Raises:
            ValueError: the dataset is not a distribution over vectors.
        """
        vectors(real)

    def __call__(self, sample: Callable[[int], Tensor], real: Dataset) -> dict[str, float]:
        """Return "mean", "std" (for several coordinates "mean_0", ...), "mean_error" and "std_error"."""
        fake = sample(self.num_samples).double()
        scores: dict[str, float] = {}
        for name, values, target in zip(("mean", "std"), (fake.mean(0), fake.std(0)), moments(real), strict=True):
            for i, value in enumerate(values.tolist()):
                scores[name if len(values) == 1 else f"{name}_{i}"] = value
            scores[f"{name}_error"] = (values - target).abs().max().item()
        return scores


def moments(real: Dataset) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each coordinate of the data [d], in closed form or from a large sample."""
    distribution = vectors(real)
    if distribution.mean is not None and distribution.std is not None:
        return torch.tensor(distribution.mean).double(), torch.tensor(distribution.std).double()
    drawn = distribution.sample(NUM_REAL, generator("moments")).double()
    return drawn.mean(0), drawn.std(0)


def vectors(real: Dataset) -> Distribution:
    """Return the dataset itself, checked to be a distribution over vectors.

    Raises:
        ValueError: it is not one.
    """
    if not isinstance(real, Distribution):
        raise ValueError(
            f"dataset={real.name} has images, but the metrics moments, modes and wasserstein need vectors; remove them "
            "from metric=[...] or choose a dataset such as gaussian."
        )
    return real
