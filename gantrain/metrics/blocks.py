"""Sums and distances over all pairs of two sets of features, in blocks, so that no n x n matrix is in memory."""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Float64
from torch import Tensor

ROWS = 2048
"""Rows of a block. A block of pairs takes 34 MB in float64."""

ROUNDING = 1e-13
"""Bound of the rounding error of a squared distance |a|^2 + |b|^2 - 2ab in float64, relative to |a|^2 + |b|^2."""


def blocks(num: int) -> Iterator[slice]:
    """Yield slices of at most ROWS rows that together are all rows."""
    for first in range(0, num, ROWS):
        yield slice(first, min(num, first + ROWS))


def sum_over_pairs(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], kernel: Callable[[Tensor, Tensor], Tensor]
) -> float:
    """Sum kernel(a, b), which maps float64 rows [n, d] and [m, d] to [n, m], over all pairs of rows."""
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for rows in blocks(len(x)):
        a = x[rows].double()
        for columns in blocks(len(y)):
            total += kernel(a, y[columns].double()).sum()
    return total.item()


def squared_distances(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]
) -> Iterator[tuple[slice, slice, Float64[Tensor, "rows columns"]]]:
    """Yield blocks of pairs: which rows of x, which rows of y, and their squared distances."""
    for rows in blocks(len(x)):
        a = x[rows].double()
        for columns in blocks(len(y)):
            b = y[columns].double()
            norms = a.square().sum(1)[:, None] + b.square().sum(1)
            yield rows, columns, norms.addmm_(a, b.T, alpha=-2).clamp_(min=0)


def rounding_error(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> float:
    """Return a bound of the rounding errors of squared distances; distances that differ less count as equal."""
    largest = max(z[rows].double().square().sum(1).max().item() for z in (x, y) for rows in blocks(len(z)))
    return 2 * ROUNDING * largest


def squared_radii(x: Float[Tensor, "n d"], k: int) -> Float64[Tensor, " n"]:
    """Return the squared distance of each row to its k-th nearest other row; equal rows count as others.

    Args:
        k: at least 1 and less than n.
    """
    # One more than k, because each row is the nearest to itself.
    nearest = torch.full((len(x), k + 1), torch.inf, dtype=torch.float64, device=x.device)
    for rows, _, distances in squared_distances(x, x):
        of_block = distances.topk(min(k + 1, distances.shape[1]), largest=False).values
        nearest[rows] = torch.cat([nearest[rows], of_block], 1).topk(k + 1, largest=False).values
    return nearest.max(1).values
