"""How many of a mixture's modes the generator finds."""

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from gantrain.datasets.base import Dataset
from gantrain.metrics.moments import vectors


class Modes:
    """Modes covered, and the share of samples near any mode.

    Source: Lin 2018 (PacGAN), section 4.1, after Srivastava 2017 (VEEGAN): a sample within 3 standard deviations of a
    mode is of high quality, and a mode that has one is covered; 2,500 samples.

    Args:
        radius_stds: how near a sample must be, in the mode's standard deviations.
    """

    better: ClassVar[dict[str, Literal["higher", "lower"]]] = {"modes_covered": "higher", "high_quality": "higher"}

    def __init__(self, *, num_samples: int, radius_stds: float):
        if num_samples < 1 or radius_stds <= 0:
            raise ValueError(
                f"num_samples={num_samples}, radius_stds={radius_stds}: both must be positive (2500 and 3 are usual)."
            )
        self.num_samples, self.radius_stds = num_samples, radius_stds

    def check(self, real: Dataset) -> None:
        """Refuse data without modes.

        Raises:
            ValueError: the dataset is no mixture.
        """
        mixture(real)

    def __call__(self, sample: Callable[[int], Tensor], real: Dataset) -> dict[str, float]:
        """Judge by "modes_covered", a count, and "high_quality", a share in [0, 1]."""
        modes, std = mixture(real)
        distance, nearest = torch.cdist(sample(self.num_samples), modes).min(1)
        good = distance <= self.radius_stds * std
        return {
            "modes_covered": float(len(set(nearest[good].tolist()))),
            "high_quality": good.float().mean().item(),
        }


def mixture(real: Dataset) -> tuple[Float[Tensor, "k d"], float]:
    """Return the data's modes and the standard deviation around each.

    Raises:
        ValueError: the dataset is no mixture.
    """
    distribution = vectors(real)
    if distribution.modes is None or distribution.mode_std is None:
        raise ValueError(
            f"dataset={real.name}: it has no separate modes to count; leave modes out of metric=[...] or choose a "
            "mixture of Gaussians."
        )
    return distribution.modes, distribution.mode_std
