"""Frechet Inception distance."""

from typing import ClassVar

from typing_extensions import override

from gantrain.metrics.base import Better, FeatureMetric, Need, Statistics
from gantrain.metrics.checks import check_at_least
from gantrain.metrics.frechet import frechet_distance_of_statistics


class FID(FeatureMetric):
    """Frechet distance between the features of generated and real images, as Gaussians; 0 for equal moments.

    It depends on the number of images: with fewer it is higher. 50,000 are usual.

    Source: Heusel 2017, equation 6.

    Args:
        num_samples: number of generated images, at least 2.
        num_real: number of real images, at least 2; None: all.
    """

    better: ClassVar[dict[str, Better]] = {"fid": "lower"}
    needs: ClassVar[frozenset[Need]] = frozenset({"moments"})

    def __init__(self, *, num_samples: int, num_real: int | None):
        check_at_least(2, num_samples=num_samples, num_real=num_real)
        self.num_samples, self.num_real = num_samples, num_real

    @override
    def compute(self, fake: Statistics, real: Statistics) -> dict[str, float]:
        """Return "fid"."""
        return {"fid": frechet_distance_of_statistics(fake, real)}
