"""Count the modes of a mixture that the generator covers."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from gantrain.datasets.base import Dataset
from gantrain.metrics.base import Better
from gantrain.metrics.moments import vectors


class Modes:
    """Counts the modes covered, and measures the fraction of high-quality samples.

    A sample within radius_stds standard deviations of a mode is of high quality; a mode with such a sample is covered.
    The paper uses 3 standard deviations and 2,500 samples.

    Source: Lin 2018 (PacGAN), section 4.1, after Srivastava 2017 (VEEGAN).

    Args:
        num_samples: number of generated samples.
        radius_stds: maximum distance of a high-quality sample from its mode, in standard deviations of the mode.
    """

    better: ClassVar[dict[str, Better]] = {"modes_covered": "higher", "high_quality": "higher"}

    def __init__(self, *, num_samples: int, radius_stds: float):
        if num_samples < 1 or radius_stds <= 0:
            raise ValueError(
                f"num_samples={num_samples}, radius_stds={radius_stds}: both must be positive (2500 and 3 are usual)."
            )
        self.num_samples, self.radius_stds = num_samples, radius_stds

    def options(self) -> dict[str, Any]:
        """Return the options that the scores depend on, for their receipts."""
        return {"radius_stds": self.radius_stds}

    def check(self, real: Dataset) -> None:
        """Check that the data has modes.

        Raises:
            ValueError: the dataset is not a mixture.
        """
        mixture(real)

    def __call__(self, sample: Callable[[int], Tensor], real: Dataset) -> dict[str, float]:
        """Return "modes_covered", a count, and "high_quality", a fraction in [0, 1]."""
        modes, std = mixture(real)
        samples = sample(self.num_samples).double()
        # The default uses matrix products, whose rounding errors grow with the distance from the origin.
        distances = torch.cdist(samples, modes.double(), compute_mode="donot_use_mm_for_euclid_dist")
        distance, nearest = distances.min(1)
        high_quality = distance <= self.radius_stds * std
        return {
            "modes_covered": float(len(set(nearest[high_quality].tolist()))),
            "high_quality": high_quality.double().mean().item(),
        }


def mixture(real: Dataset) -> tuple[Float[Tensor, "k d"], float]:
    """Return the centers and the standard deviation of the modes.

    Raises:
        ValueError: the dataset is not a mixture.
    """
    distribution = vectors(real)
    if distribution.modes is None or distribution.mode_std is None:
        raise ValueError(
            f"dataset={real.name} has no separate modes to count; remove modes from metric=[...] or choose a mixture "
            "such as dataset=gaussians_25."
        )
    return distribution.modes, distribution.mode_std
