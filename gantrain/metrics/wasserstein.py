"""Exact Wasserstein-1 distance between vectors."""

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from gantrain.datasets.base import Dataset
from gantrain.metrics.base import Better
from gantrain.metrics.checks import check_at_least
from gantrain.metrics.moments import vectors
from gantrain.seeding import generator


class Wasserstein:
    """Measures the Wasserstein-1 distance between generated and real vectors.

    It is the exact distance of two finite samples, with the Euclidean distance as cost. So it is above 0 for a perfect
    generator too: it should be compared with the distance of two real samples of the same size, in its receipt.

    Source: Villani 2009, definition 6.1; Crouse 2016 for the assignment.

    Args:
        num_samples: number of generated and of real vectors, at least 1; the time grows with its cube, but in one
            dimension only as fast as that of sorting.

    Attributes:
        num_real: number of real vectors, equal to num_samples.
    """

    better: ClassVar[dict[str, Better]] = {"wasserstein": "lower"}

    def __init__(self, *, num_samples: int):
        check_at_least(1, num_samples=num_samples)
        self.num_samples = self.num_real = num_samples

    def check(self, real: Dataset) -> None:
        """Check that the data consists of vectors.

        Raises:
            ValueError: the dataset is not a distribution over vectors.
        """
        vectors(real)

    def __call__(self, sample: Callable[[int], Tensor], real: Dataset) -> dict[str, float]:
        """Return "wasserstein"; NaN if a sample contains NaN or Inf."""
        of_real = vectors(real).sample(self.num_real, generator("wasserstein", "real"))
        return {"wasserstein": wasserstein(sample(self.num_samples), of_real)}


def wasserstein(x: Float[Tensor, "n d"], y: Float[Tensor, "n d"]) -> float:
    """Return the mean distance of the best assignment of the rows of x to those of y; NaN if any is NaN or Inf."""
    from scipy.optimize import linear_sum_assignment  # here, because every run imports this module: takes a second
    from scipy.stats import wasserstein_distance

    if not (x.isfinite().all() and y.isfinite().all()):
        return math.nan
    x, y = x.double(), y.double()
    if x.shape[1] == 1:
        return float(wasserstein_distance(x[:, 0].numpy(), y[:, 0].numpy()))
    costs = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").numpy()
    return float(costs[linear_sum_assignment(costs)].mean())
