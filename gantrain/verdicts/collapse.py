"""Mode collapse: the samples are much more alike than real ones."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from gantrain.verdicts.base import Finding, Verdict
from gantrain.verdicts.evidence import Evidence


class Collapse(Verdict):
    """Compare the mean distance between two samples with that between two real ones, in pixels and in features.

    The distances are those of thumbnails (of the coordinates, for vectors), and of features where metrics use them.
    Features are known only where metrics have been computed; until the next time their last ratio counts.

    Source: for the distance in features Zhang 2018 (its diversity of samples), for that in pixels Salimans 2016,
    section 3.2, where D looks at it.

    Args:
        pixels: in [0, 1], the ratio in pixels below which samples have collapsed.
        features: in [0, 1], the same in features.
        checks: number of successive checks.
        after: number of steps before which samples may be alike.
        after_slow_start: the same while samples have been alike at every check: then G may have learned only what is
            common to all data.
    """

    def __init__(self, *, pixels: float, features: float, checks: int, after: int, after_slow_start: int):
        self.pixels, self.features, self.checks = pixels, features, checks
        self.after, self.after_slow_start = after, after_slow_start
        self.features_ratio: float | None = None
        self.was_diverse = False

    @override
    def __call__(self, evidence: Evidence) -> Finding | None:
        if evidence.features is not None:
            self.features_ratio = ratio(*evidence.features)
        pixels = ratio(evidence.thumbnails, evidence.reference.real_thumbnails)
        features = self.features_ratio
        if pixels >= self.pixels and (features is None or features >= self.features):
            self.was_diverse = True
            return None
        if evidence.step < (self.after if self.was_diverse else self.after_slow_start):
            return None
        shares = [f"{pixels:.0%}{' in pixels' if evidence.is_image else ''} (limit {self.pixels:.0%})"]
        shares += [] if features is None else [f"{features:.0%} in features (limit {self.features:.0%})"]
        return Finding(
            "The samples are too alike: the mean distance between two of them, relative to that between two real "
            f"samples, is {' and '.join(shares)}.",
            "packing=2, another loss (loss=relativistic, or model=wgan_gp), a gradient penalty "
            "(regularizer=[r1]), or a lower learning rate of G.",
        )

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"features_ratio": self.features_ratio, "was_diverse": self.was_diverse}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.features_ratio = state.get("features_ratio")
        self.was_diverse = state.get("was_diverse", False)


def ratio(fake: Float[Tensor, "n d"], real: Float[Tensor, "m d"]) -> float:
    """Return the mean distance between two generated samples, as a fraction of that between two real ones.

    1 if all real samples are equal, because then it is right that samples are.
    """
    of_fake, of_real = (float(torch.pdist(x).mean()) for x in (fake, real))
    return of_fake / of_real if of_real else 1.0
