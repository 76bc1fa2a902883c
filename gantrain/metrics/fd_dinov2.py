"""Frechet distance between features of DINOv2."""

from typing import ClassVar

from typing_extensions import override

from gantrain.metrics.base import Better, FeatureMetric, Need, Statistics
from gantrain.metrics.checks import check_at_least
from gantrain.metrics.frechet import frechet_distance_of_statistics


class FrechetDINOv2(FeatureMetric):
    """Frechet distance as FID, but with the features of DINOv2, which agrees better with what people see.

    Source: Stein 2023.

    Args:
        num_samples: number of generated images, at least 2.
        num_real: number of real images, at least 2; None: all.
    """

    better: ClassVar[dict[str, Better]] = {"fd_dinov2": "lower"}
    needs: ClassVar[frozenset[Need]] = frozenset({"moments"})
    standard: ClassVar[str] = "dinov2"
    extractor: ClassVar[str | None] = "dinov2"

    def __init__(self, *, num_samples: int, num_real: int | None):
        check_at_least(2, num_samples=num_samples, num_real=num_real)
        self.num_samples, self.num_real = num_samples, num_real

    @override
    def compute(self, fake: Statistics, real: Statistics) -> dict[str, float]:
        """Return "fd_dinov2"."""
        return {"fd_dinov2": frechet_distance_of_statistics(fake, real)}
