"""CLIP maximum mean discrepancy."""

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize
from typing_extensions import override

from gantrain.metrics.base import Better, FeatureMetric, Need, Statistics
from gantrain.metrics.blocks import sum_over_pairs
from gantrain.metrics.checks import check_at_least, features_of


class CMMD(FeatureMetric):
    """Squared maximum mean discrepancy of unit-norm features with a Gaussian kernel, times 1000; for small sets too.

    The published values have features of CLIP. It is the biased estimate, as in the published code.

    Source: Jayasumana 2024, section 4.

    Args:
        num_samples: number of generated images.
        num_real: number of real images; None: all.
        bandwidth: sigma in exp(-|a - b|^2 / (2 sigma^2)), above 0.
    """

    better: ClassVar[dict[str, Better]] = {"cmmd": "lower"}
    needs: ClassVar[frozenset[Need]] = frozenset({"features"})
    standard: ClassVar[str] = "clip"

    def __init__(self, *, num_samples: int, num_real: int | None, bandwidth: float):
        check_at_least(1, num_samples=num_samples, num_real=num_real)
        if bandwidth <= 0:
            raise ValueError(f"bandwidth={bandwidth}: must be above 0 (10 is usual).")
        self.num_samples, self.num_real, self.bandwidth = num_samples, num_real, bandwidth

    @override
    def compute(self, fake: Statistics, real: Statistics) -> dict[str, float]:
        """Return "cmmd", at least 0.

        Raises:
            ValueError: a set is empty.
        """
        x, y = features_of(fake, "generated", 1), features_of(real, "real", 1)
        return {"cmmd": 1000 * gaussian_mmd(unit_norm(x), unit_norm(y), self.bandwidth)}

    @override
    def options(self) -> dict[str, Any]:
        return {"bandwidth": self.bandwidth}


def unit_norm(x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Divide each row by its norm, in float64; rows of zeros stay."""
    return normalize(x.double(), eps=1e-300)


def gaussian_mmd(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], bandwidth: float) -> float:
    """Return the biased estimate of the squared maximum mean discrepancy, with the kernel exp(-|a - b|^2 / 2 sigma^2).

    Source: Gretton 2012, equation 5.
    """
    n, m = len(x), len(y)

    def kernel_minus_one(a: Tensor, b: Tensor) -> Tensor:
        # The ones cancel in the sum below. Without them unit-norm features lose fewer digits.
        squared = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T
        return (squared.clamp(min=0) / (-2 * bandwidth**2)).expm1()

    within = sum_over_pairs(x, x, kernel_minus_one) / n**2 + sum_over_pairs(y, y, kernel_minus_one) / m**2
    return max(0.0, within - 2 * sum_over_pairs(x, y, kernel_minus_one) / (n * m))
