"""Memorization: samples are copies of training images."""

import math

from typing_extensions import override

from gantrain.verdicts.base import Finding, Verdict
from gantrain.verdicts.evidence import Evidence
from gantrain.verdicts.reference import Neighbors


class Memorization(Verdict):
    """Count samples whose nearest training image is closer than training images are to each other.

    A sample counts as a copy if its distance to the nearest training image is below nearly all the distances between
    a training image and its nearest neighbor, and also much smaller than the distance to the second-nearest. The first
    alone would count blurred samples, which are close to many images. Compares thumbnails with at most 10,000 training
    images, chosen at random; vectors have no training set that could be memorized.

    Source: Meehan 2020 (nearest neighbors compared with those of real data); Yoon 2023 (ratio of the two distances).

    Args:
        quantile: in (0, 1), the quantile of the distances between training images below which a sample is a copy.
        ratio: in (0, 1), the largest ratio of the two distances of a copy.
        share: in (0, 1), the share of copies above which G has memorized, in addition to the share among training
            images themselves, where near-duplicates count.
        checks: number of successive checks.
    """

    def __init__(self, *, quantile: float, ratio: float, share: float, checks: int):
        self.quantile, self.ratio, self.share, self.checks = quantile, ratio, share, checks

    @override
    def __call__(self, evidence: Evidence) -> Finding | None:
        nearest = evidence.reference.neighbors(evidence.thumbnails)
        if nearest is None or self.share_of_copies(nearest, math.inf) <= self.share:
            return None  # whatever the limit, so that the distances between training images need not be computed
        training = evidence.reference.neighbors_of_training
        assert training is not None
        limit = float(training.first.quantile(self.quantile))
        share, usual = (self.share_of_copies(neighbors, limit) for neighbors in (nearest, training))
        if share <= self.share + usual:
            return None
        return Finding(
            f"{share:.0%} of the samples are nearly copies of a training image (limit {self.share + usual:.0%}): their "
            f"median distance to the nearest one is {nearest.first.median():.3g}, that between training images is "
            f"{training.first.median():.3g}.",
            "more data, augmentation (augment=[diffaugment]), smaller networks, or fewer steps; "
            "dataset.holdout=0.1 shows whether D overfits too.",
        )

    def share_of_copies(self, neighbors: Neighbors, limit: float) -> float:
        """Return the share of copies: those with a distance below the limit, and below `ratio` times the second."""
        is_copy = (neighbors.first < limit) & (neighbors.first < self.ratio * neighbors.second)
        return int(is_copy.sum()) / len(is_copy)
