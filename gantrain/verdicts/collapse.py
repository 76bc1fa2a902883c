"""Mode collapse: the samples are much more alike than real ones, or repeat a few images."""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from gantrain.verdicts.base import UNDECIDED, Finding, Undecided, Verdict
from gantrain.verdicts.evidence import Evidence
from gantrain.verdicts.reference import NUM_SAMPLES

MIN_IMAGES = 4 * NUM_SAMPLES
"""Training images below which repeated samples are not looked for, because G may know as few images as there are."""

WHAT = {
    "mean": "The samples are too alike: the mean distance between two of them, relative to that between two real ones,",
    "nearest": "The samples repeat a few images: their median distance to the nearest other sample, relative to that "
    "among as many real ones,",
}
"""For each kind of distance, the start of the sentence that reports it."""

Distance = Callable[[Tensor], float]
"""A distance between samples [n, d]."""

Ratios = dict[str, float]
"""Distances between samples as fractions of those between real ones: "mean", and "nearest" where it is judged."""


class Collapse(Verdict):
    """Compare distances between samples with those between real ones, in pixels and in features.

    The distances are those of thumbnails (of the coordinates, for vectors), and of features where metrics use them. The
    mean distance shows samples that are all alike; it hardly falls if they are a few different images. The median
    distance to the nearest other sample shows that, too. It is judged for images only, because samples of a young
    generator of vectors lie on a curve, as those of a small network do whose images have never been varied: there the
    limit is lower. Features are measured only where metrics are; at other checks a failure in them is undecided.

    Source: for the distance in features Zhang 2018 (its diversity of samples), for that in pixels Salimans 2016,
    section 3.2, where D looks at it; for nearest neighbors Lopez-Paz and Oquab 2017 (two-sample test: samples whose
    nearest neighbors are samples).

    Args:
        pixels: in [0, 1], the ratio of the mean distances in pixels below which samples have collapsed.
        features: in [0, 1], the same in features.
        nearest: in [0, 1], the ratio of the distances to the nearest below which samples have collapsed that have been
            varied before, in pixels or in features.
        varied: at least `nearest`, the ratio from which on samples are varied.
        nearest_slow_start: in [0, 1], the same as `nearest` if samples have never been varied.
        checks: number of successive checks.
        after: number of steps before which samples may be alike.
        after_slow_start: the same while samples have been alike at every check, or never varied: then G may have
            learned only what is common to all data.
    """

    def __init__(
        self,
        *,
        pixels: float,
        features: float,
        nearest: float,
        varied: float,
        nearest_slow_start: float,
        checks: int,
        after: int,
        after_slow_start: int,
    ):
        self.mean = {"pixels": pixels, "features": features}
        self.nearest, self.varied, self.nearest_slow_start = nearest, varied, nearest_slow_start
        self.checks, self.after, self.after_slow_start = checks, after, after_slow_start
        # The last ratios in pixels and in features, and whether those in features were below a limit.
        self.known: dict[str, Ratios] = {}
        self.features_failed = self.was_diverse = False
        # Where samples have been varied: pixels, features.
        self.was_varied: set[str] = set()

    @override
    def __call__(self, evidence: Evidence) -> Finding | Undecided | None:
        measured = measure(evidence)
        known = self.known = {**self.known, **measured}
        self.was_varied |= {space for space, ratios in measured.items() if ratios.get("nearest", 0.0) >= self.varied}
        self.was_diverse |= all(ratios["mean"] >= self.mean[space] for space, ratios in known.items())
        failed = {space: self.failed(space, ratios, evidence.step) for space, ratios in measured.items()}
        kinds = [kind for kind in WHAT if any(kind in found for found in failed.values())]
        if "features" in measured:
            self.features_failed = bool(failed["features"])
        if not kinds:
            # A finding in features must be measured anew to count once more.
            return UNDECIDED if self.features_failed and "features" not in measured else None
        return Finding(
            " ".join(self.describe(kind, known, is_image=evidence.is_image) for kind in kinds),
            "packing=2, another loss (loss=relativistic, or model=wgan_gp), a gradient penalty "
            "(regularizer=[r1]), or a lower learning rate of G.",
        )

    def failed(self, space: str, ratios: Ratios, step: int) -> list[str]:
        """List the kinds of distances whose ratios are below their limits at this step."""
        starts = {
            "mean": self.after if self.was_diverse else self.after_slow_start,
            "nearest": self.after if space in self.was_varied else self.after_slow_start,
        }
        return [kind for kind, x in ratios.items() if step >= starts[kind] and x < self.limit(kind, space)]

    def limit(self, kind: str, space: str) -> float:
        """Return the limit of a ratio."""
        if kind == "mean":
            return self.mean[space]
        return self.nearest if space in self.was_varied else self.nearest_slow_start

    def describe(self, kind: str, known: dict[str, Ratios], *, is_image: bool) -> str:
        """Return a sentence with the ratios of the last measurements and their limits."""
        shares = [
            f"{ratios[kind]:.0%}{f' in {space}' if is_image else ''} (limit {self.limit(kind, space):.0%})"
            for space, ratios in known.items()
            if kind in ratios
        ]
        return f"{WHAT[kind]} is {' and '.join(shares)}."

    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            "known": self.known,
            "features_failed": self.features_failed,
            "was_diverse": self.was_diverse,
            "was_varied": sorted(self.was_varied),
        }

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.known = state.get("known", {})
        self.features_failed = state.get("features_failed", False)
        self.was_diverse = state.get("was_diverse", False)
        self.was_varied = set(state.get("was_varied", []))


def measure(evidence: Evidence) -> dict[str, Ratios]:
    """Return the ratios in pixels, and in features if they are available at this check."""
    pairs = {"pixels": (evidence.thumbnails, evidence.reference.real_thumbnails)}
    if evidence.features is not None:
        pairs["features"] = evidence.features
    can_repeat = evidence.is_image and (evidence.reference.dataset.num_images or 0) >= MIN_IMAGES
    kinds: dict[str, Distance] = (
        {"mean": mean_distance, "nearest": nearest_distance} if can_repeat else {"mean": mean_distance}
    )
    return {space: {kind: ratio(of, *pair) for kind, of in kinds.items()} for space, pair in pairs.items()}


def ratio(distance: Distance, fake: Float[Tensor, "n d"], real: Float[Tensor, "m d"]) -> float:
    """Return a distance between generated samples, as a fraction of that between real ones.

    1 if that is 0, because then it is right that samples are equal.
    """
    of_fake, of_real = distance(fake), distance(real)
    return of_fake / of_real if of_real else 1.0


def mean_distance(x: Float[Tensor, "n d"]) -> float:
    """Return the mean distance between two samples."""
    return float(torch.pdist(x).mean())


def nearest_distance(x: Float[Tensor, "n d"]) -> float:
    """Return the median over the samples of the distance to the nearest other sample."""
    distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(math.inf)
    return float(distances.min(1).values.median())
