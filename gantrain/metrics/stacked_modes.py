"""Count the modes of stacked MNIST that the generator covers."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from typing_extensions import override

from gantrain.metrics.base import Better, FeatureMetric, Need, Statistics
from gantrain.metrics.checks import check_at_least, logits_of

DIGITS = 10
CHANNELS = 3
HITS = 5
"""Hits of a mode that wrong classifications alone hardly make."""


class StackedModes(FeatureMetric):
    """Counts the triples of digits in the channels of stacked MNIST, and compares their frequencies with equal ones.

    With errors of 1 % the classifier makes 100 modes look like 500, so read the modes with 5 hits or more, and the KL
    divergence. Of 26,000 perfect samples the latter is about 999 / (2 * 26000) = 0.019.

    Source: Metz 2017 (Unrolled GANs); Lin 2018 (PacGAN), section 4.1, for the protocol: 26,000 samples.

    Args:
        num_samples: number of generated images.
        num_real: number of real images whose scores are shown beside; None: all.
    """

    better: ClassVar[dict[str, Better]] = {"modes": "higher", "modes_5_hits": "higher", "kl_uniform": "lower"}
    needs: ClassVar[frozenset[Need]] = frozenset({"logits"})
    compares: ClassVar[bool] = False
    standard: ClassVar[str] = "stacked_digits"

    def __init__(self, *, num_samples: int, num_real: int | None):
        check_at_least(1, num_samples=num_samples, num_real=num_real)
        self.num_samples, self.num_real = num_samples, num_real

    @override
    def check(self, *, num_logits: int | None, class_counts: Sequence[int] | None) -> None:
        if num_logits != CHANNELS * DIGITS:
            raise ValueError(
                f"it needs 10 logits for each of 3 channels, but the features have {num_logits or 'none'}; use it with "
                "dataset=stacked_mnist features=auto, or remove it from metric=[...]."
            )

    @override
    def compute(self, fake: Statistics, real: Statistics) -> dict[str, float]:
        """Return "modes" and "modes_5_hits", counts up to 1000, and "kl_uniform", KL(generated || uniform) in nats.

        Raises:
            ValueError: there are not 10 logits for each of 3 channels.
        """
        logits = logits_of(fake, "generated", 1)
        self.check(num_logits=logits.shape[1], class_counts=None)
        digits = logits.view(-1, CHANNELS, DIGITS).argmax(2)
        places = torch.tensor([DIGITS**2, DIGITS, 1], device=digits.device)
        counts = (digits * places).sum(1).cpu().bincount(minlength=DIGITS**CHANNELS)
        p = counts[counts > 0].double() / len(logits)
        return {
            "modes": float(len(p)),
            "modes_5_hits": float((counts >= HITS).sum()),
            "kl_uniform": (p * (p * len(counts)).log()).sum().item(),
        }
