"""Density and coverage."""

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from gantrain.metrics.base import Better, FeatureMetric, Need, Statistics
from gantrain.metrics.blocks import rounding_error, squared_distances, squared_radii
from gantrain.metrics.checks import check_at_least, features_of


class DensityCoverage(FeatureMetric):
    """How densely real images surround the generated ones, and the fraction of real images with a generated one near.

    Unlike precision and recall they do not depend on the balls of generated images, so outliers do not raise them. The
    ball of a real image has the distance to its k-th nearest real neighbor as radius; its surface does not belong to it
    (<).

    Source: Naeem 2020, equations 4 and 6.

    Args:
        num_samples: number of generated images.
        num_real: number of real images, more than k; None: all.
        k: number of neighbors.
    """

    better: ClassVar[dict[str, Better]] = {"density": "higher", "coverage": "higher"}
    needs: ClassVar[frozenset[Need]] = frozenset({"features"})

    def __init__(self, *, num_samples: int, num_real: int | None, k: int):
        check_at_least(1, k=k, num_samples=num_samples)
        check_at_least(k + 1, num_real=num_real)
        self.num_samples, self.num_real, self.k = num_samples, num_real, k

    @property
    @override
    def min_images(self) -> int:
        return self.k + 1

    @override
    def compute(self, fake: Statistics, real: Statistics) -> dict[str, float]:
        """Return "density", at least 0 and about 1 for a perfect generator, and "coverage", in [0, 1].

        Raises:
            ValueError: there are at most k real images, or no generated ones.
        """
        x, y = features_of(fake, "generated", 1), features_of(real, "real", self.k + 1)
        density, coverage = density_coverage(x, y, self.k)
        return {"density": density, "coverage": coverage}

    @override
    def options(self) -> dict[str, Any]:
        return {"k": self.k}


def density_coverage(fake: Float[Tensor, "n d"], real: Float[Tensor, "m d"], k: int) -> tuple[float, float]:
    """Return the mean number of real balls that contain a fake row, divided by k, and the fraction of non-empty balls.

    Distances that are equal within the rounding error count as equal.
    """
    radii = squared_radii(real, k) - rounding_error(fake, real)
    num_inside, covered = 0, torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for _, columns, distances in squared_distances(fake, real):
        inside = distances < radii[columns]
        num_inside += int(inside.sum())
        covered[columns] |= inside.any(0)
    return num_inside / (k * len(fake)), covered.double().mean().item()
