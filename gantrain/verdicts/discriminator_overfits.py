"""A discriminator that overfits: it takes held-out images for generated ones."""

import math

from typing_extensions import override

from gantrain.evaluation.critic import overfitting_ratio
from gantrain.losses.base import Logits
from gantrain.verdicts.base import Finding, Verdict
from gantrain.verdicts.evidence import Evidence

MIN_LOGITS = 8
"""Minimum number of logits of each kind."""


class DiscriminatorOverfits(Verdict):
    """Compare D's logits of held-out images with those of training images and of samples.

    With the means of the logits, r = (training - held-out) / (training - generated) is 0 if D treats held-out images
    as it treats training images, and 1 if it treats them as samples. Needs dataset.holdout.

    Source: Karras 2020 (ADA), equation 1.

    Args:
        ratio: in (0, 1), above this r D overfits.
        errors: the difference of training and held-out images must also be larger than this number of its standard
            errors. Few training images are all looked at, and their mean has no error.
        checks: number of successive checks.
    """

    def __init__(self, *, ratio: float, errors: float, checks: int):
        self.ratio, self.errors, self.checks = ratio, errors, checks

    @override
    def __call__(self, evidence: Evidence) -> Finding | None:
        held_out = evidence.held_out_logits
        if held_out is None or min(len(held_out), len(evidence.real_logits)) < MIN_LOGITS:
            return None
        real, fake = evidence.real_logits, evidence.fake_logits
        difference, r = float(real.mean() - held_out.mean()), overfitting_ratio(real, held_out, fake)
        if r <= self.ratio or difference <= self.errors * self.standard_error(evidence, held_out):
            return None
        return Finding(
            f"D has learned the training images by heart: its mean logit is {real.mean():.3g} for them, "
            f"{held_out.mean():.3g} for held-out images and {fake.mean():.3g} for samples, so held-out images are "
            f"{r:.0%} of the way to samples (limit {self.ratio:.0%}).",
            "augmentation (augment=[diffaugment]), more data (horizontal_flip=true where it fits), "
            "regularizer=[r1] or regularizer=[lecam], a smaller D, or fewer steps.",
        )

    def standard_error(self, evidence: Evidence, held_out: Logits) -> float:
        """Return the standard error of the difference of the means of training and held-out logits."""
        real, reference = evidence.real_logits, evidence.reference
        seen = len(reference.real.x) / (reference.dataset.num_images or math.inf)
        variance = real.var() / len(real) * max(0.0, 1 - seen) + held_out.var() / len(held_out)
        return math.sqrt(float(variance))
