"""Improved precision and recall."""

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from gantrain.metrics.base import Better, FeatureMetric, Need, Statistics
from gantrain.metrics.blocks import rounding_error, squared_distances, squared_radii
from gantrain.metrics.checks import check_at_least, features_of


class PrecisionRecall(FeatureMetric):
    """The fraction of generated images that look real, and the fraction of real images that the generator covers.

    A set covers an image that is in the ball of one of its images, whose radius is the distance to the k-th nearest
    neighbor within the set. An image on the surface is in the ball (<=).

    Source: Kynkaanniemi 2019, equations 1 and 2.

    Args:
        num_samples: number of generated images, more than k.
        num_real: number of real images, more than k; None: all.
        k: number of neighbors.
    """

    better: ClassVar[dict[str, Better]] = {"precision": "higher", "recall": "higher"}
    needs: ClassVar[frozenset[Need]] = frozenset({"features"})

    def __init__(self, *, num_samples: int, num_real: int | None, k: int):
        check_at_least(1, k=k)
        check_at_least(k + 1, num_samples=num_samples, num_real=num_real)
        self.num_samples, self.num_real, self.k = num_samples, num_real, k

    @property
    @override
    def min_images(self) -> int:
        return self.k + 1

    @override
    def compute(self, fake: Statistics, real: Statistics) -> dict[str, float]:
        """Return "precision" and "recall", in [0, 1].

        Raises:
            ValueError: there are at most k images in a set.
        """
        x, y = features_of(fake, "generated", self.k + 1), features_of(real, "real", self.k + 1)
        precision, recall = precision_recall(x, y, self.k)
        return {"precision": precision, "recall": recall}

    @override
    def options(self) -> dict[str, Any]:
        return {"k": self.k}


def precision_recall(fake: Float[Tensor, "n d"], real: Float[Tensor, "m d"], k: int) -> tuple[float, float]:
    """Return the fraction of fake rows that the real ones cover, and the fraction of real rows that the fake ones do.

    Distances that are equal within the rounding error count as equal.
    """
    rounding = rounding_error(fake, real)
    fake_radii, real_radii = squared_radii(fake, k) + rounding, squared_radii(real, k) + rounding
    fake_covered = torch.zeros(len(fake), dtype=torch.bool, device=fake.device)
    real_covered = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for rows, columns, distances in squared_distances(fake, real):
        fake_covered[rows] |= (distances <= real_radii[columns]).any(1)
        real_covered[columns] |= (distances <= fake_radii[rows, None]).any(0)
    return fake_covered.double().mean().item(), real_covered.double().mean().item()
