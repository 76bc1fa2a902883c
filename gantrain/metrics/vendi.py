"""Vendi score."""

import math
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn.functional import normalize
from typing_extensions import override

from gantrain.metrics.base import Better, FeatureMetric, Need, Statistics
from gantrain.metrics.blocks import blocks
from gantrain.metrics.checks import check_at_least, features_of


class Vendi(FeatureMetric):
    """The effective number of different images, by the cosine similarity of their features; from 1 to num_samples.

    It does not see real images: compare it with its value of as many real ones.

    Source: Friedman 2023, definition 3.1; Pasarkar 2024 for other orders.

    Args:
        num_samples: number of generated images.
        num_real: number of real images whose scores are shown beside; None: all.
        order: q of the Renyi entropy, at least 0; 1: Shannon's; a higher order sees the frequent images more.
    """

    better: ClassVar[dict[str, Better]] = {"vendi": "higher"}
    needs: ClassVar[frozenset[Need]] = frozenset({"features"})
    compares: ClassVar[bool] = False

    def __init__(self, *, num_samples: int, num_real: int | None, order: float):
        check_at_least(1, num_samples=num_samples, num_real=num_real)
        if not order >= 0:
            raise ValueError(f"order={order}: must be at least 0 (1 is usual; .inf is allowed).")
        self.num_samples, self.num_real, self.order = num_samples, num_real, order

    @override
    def compute(self, fake: Statistics, real: Statistics) -> dict[str, float]:
        """Return "vendi".

        Raises:
            ValueError: there are no generated images.
        """
        return {"vendi": vendi(features_of(fake, "generated", 1), self.order)}

    @override
    def options(self) -> dict[str, Any]:
        return {"order": self.order}


def vendi(x: Float[Tensor, "n d"], order: float) -> float:
    """Return exp(Renyi entropy of the eigenvalues of K / n), where K is the cosine similarity of all pairs of rows.

    K has the same eigenvalues above 0 as the [d, d] Gram matrix of the rows; the smaller one is used. Eigenvalues below
    size * eps, which are rounding errors, count as 0. Rows of zeros are equal to each other, and similar to no others.
    """
    gram = _similarities(x) if len(x) <= x.shape[1] else _sum_of_outer_products(x)
    of_zeros = (x == 0).all(1).double().mean()[None]
    eigenvalues = torch.cat([torch.linalg.eigvalsh(gram / len(x)), of_zeros])
    p = eigenvalues[eigenvalues > len(gram) * torch.finfo(torch.float64).eps]
    if order == 1:
        return float(torch.special.entr(p).sum().exp().item())
    if math.isinf(order):
        return 1 / p.max().item()
    return float(p.pow(order).sum().item() ** (1 / (1 - order)))


def _similarities(x: Float[Tensor, "n d"]) -> Float64[Tensor, "n n"]:
    unit = normalize(x.double(), eps=1e-300)
    return unit @ unit.T


def _sum_of_outer_products(x: Float[Tensor, "n d"]) -> Float64[Tensor, "d d"]:
    """Sum the outer products of the unit-norm rows, in blocks."""
    total = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64, device=x.device)
    for rows in blocks(len(x)):
        unit = normalize(x[rows].double(), eps=1e-300)
        total.addmm_(unit.T, unit)
    return total
