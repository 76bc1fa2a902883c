"""Kernel Inception distance."""

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from gantrain.metrics.base import Better, FeatureMetric, Need, Statistics
from gantrain.metrics.blocks import sum_over_pairs
from gantrain.metrics.checks import check_at_least, features_of
from gantrain.seeding import generator


class KID(FeatureMetric):
    """Squared maximum mean discrepancy with the kernel (ab / d + 1)^3: mean and standard deviation over random subsets.

    The estimate is unbiased, so it can be compared between different numbers of images, and can be below 0. The subsets
    depend only on the numbers of images.

    Source: Binkowski 2018, section 3.

    Args:
        num_samples: number of generated images.
        num_real: number of real images; None: all.
        subset_size: images of a subset, at least 2; both sets need as many.
        num_subsets: number of subsets.
    """

    better: ClassVar[dict[str, Better]] = {"kid": "lower"}
    needs: ClassVar[frozenset[Need]] = frozenset({"features"})

    def __init__(self, *, num_samples: int, num_real: int | None, subset_size: int, num_subsets: int):
        check_at_least(2, subset_size=subset_size)
        check_at_least(1, num_subsets=num_subsets)
        check_at_least(subset_size, num_samples=num_samples, num_real=num_real)
        self.num_samples, self.num_real = num_samples, num_real
        self.subset_size, self.num_subsets = subset_size, num_subsets

    @property
    @override
    def min_images(self) -> int:
        return self.subset_size

    @override
    def compute(self, fake: Statistics, real: Statistics) -> dict[str, float]:
        """Return "kid", and "kid_std", the standard deviation of a single subset's value (divided by num_subsets).

        Raises:
            ValueError: there are fewer than subset_size images in a set.
        """
        x = features_of(fake, "generated", self.subset_size)
        y = features_of(real, "real", self.subset_size)
        values = torch.tensor(
            [
                unbiased_mmd(x[self._subset(len(x), "generated", i)], y[self._subset(len(y), "real", i)])
                for i in range(self.num_subsets)
            ],
            dtype=torch.float64,
        )
        return {"kid": values.mean().item(), "kid_std": values.std(correction=0).item()}

    def _subset(self, num: int, kind: str, index: int) -> Tensor:
        return torch.randperm(num, generator=generator("kid", kind, index))[: self.subset_size]

    @override
    def options(self) -> dict[str, Any]:
        return {"subset_size": self.subset_size, "num_subsets": self.num_subsets}


def unbiased_mmd(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> float:
    """Return the unbiased estimate of the squared maximum mean discrepancy, of at least 2 rows each.

    Source: Gretton 2012, equation 3.
    """
    n, m, d = len(x), len(y), x.shape[1]

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / d + 1) ** 3

    def without_diagonal(z: Tensor) -> float:
        diagonal = (z.double().square().sum(1) / d + 1) ** 3
        return sum_over_pairs(z, z, kernel) - diagonal.sum().item()

    within = without_diagonal(x) / (n * (n - 1)) + without_diagonal(y) / (m * (m - 1))
    return within - 2 * sum_over_pairs(x, y, kernel) / (n * m)
