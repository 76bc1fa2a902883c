"""Inception score."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from gantrain.metrics.base import Better, FeatureMetric, Need, Statistics
from gantrain.metrics.checks import check_at_least, logits_of


class InceptionScore(FeatureMetric):
    """exp of the mean KL(p(class | image) || p(class)): from 1 to the number of classes; it does not see real images.

    Source: Salimans 2016, section 4; Barratt 2018 for its limits.

    Args:
        num_samples: number of generated images; 50,000 are usual.
        num_real: number of real images whose scores are shown beside; None: all.
        splits: parts of equal size; the score is the mean over them.
        shuffle_seed: seed of the order of the images before they are split, for numpy's MT19937, so that the value
            equals torch-fidelity's, whose seed is 2020; None: not shuffled.
    """

    better: ClassVar[dict[str, Better]] = {"inception_score": "higher"}
    needs: ClassVar[frozenset[Need]] = frozenset({"logits"})
    compares: ClassVar[bool] = False

    def __init__(self, *, num_samples: int, num_real: int | None, splits: int, shuffle_seed: int | None):
        check_at_least(1, splits=splits)
        check_at_least(splits, num_samples=num_samples, num_real=num_real)
        check_at_least(0, shuffle_seed=shuffle_seed)
        self.num_samples, self.num_real = num_samples, num_real
        self.splits, self.shuffle_seed = splits, shuffle_seed

    @property
    @override
    def min_images(self) -> int:
        return self.splits

    @override
    def check(self, *, num_logits: int | None, class_counts: Sequence[int] | None) -> None:
        if num_logits is None:
            raise ValueError(
                "the features are those of no classifier; choose features=inception, or remove inception_score from "
                "metric=[...]."
            )

    @override
    def compute(self, fake: Statistics, real: Statistics) -> dict[str, float]:
        """Return "inception_score", and "inception_score_std", the standard deviation over the splits.

        Raises:
            ValueError: the extractor has no logits, or there are fewer images than splits.
        """
        logits = logits_of(fake, "generated", self.splits)
        order = np.arange(len(logits))
        if self.shuffle_seed is not None:
            order = np.random.RandomState(self.shuffle_seed).permutation(len(logits))
        bounds = [i * len(logits) // self.splits for i in range(self.splits + 1)]
        parts = [torch.from_numpy(order[bounds[i] : bounds[i + 1]]) for i in range(self.splits)]
        scores = torch.tensor([inception_score(logits[part]) for part in parts], dtype=torch.float64)
        return {"inception_score": scores.mean().item(), "inception_score_std": scores.std(correction=0).item()}

    @override
    def options(self) -> dict[str, Any]:
        return {"splits": self.splits, "shuffle_seed": self.shuffle_seed}


def inception_score(logits: Float[Tensor, "n classes"]) -> float:
    """Return exp(mean over images of KL(p(class | image) || mean of p)), of at least one image."""
    log_p = logits.double().log_softmax(1)
    log_mean = log_p.logsumexp(0) - np.log(len(log_p))
    divergence = (log_p.exp() * (log_p - log_mean)).sum(1).mean()
    return float(divergence.exp().item())
