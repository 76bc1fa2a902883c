"""The Frechet distance between two Gaussians."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from gantrain.metrics.base import Statistics
from gantrain.metrics.checks import Kind


def frechet_distance(
    mean_a: Float64[Tensor, " d"],
    covariance_a: Float64[Tensor, "d d"],
    mean_b: Float64[Tensor, " d"],
    covariance_b: Float64[Tensor, "d d"],
) -> float:
    """Return |mean_a - mean_b|^2 + Tr A + Tr B - 2 Tr sqrt(A B), for the covariances A and B.

    With factors A = L L^T and B = M M^T, Tr sqrt(A B) is the sum of the singular values of L^T M. Unlike sqrtm(A B), it
    takes no root of the rounding error of an eigenvalue near 0. So it is right to about 10 digits, also of singular
    covariances, which fewer images than dimensions have.

    Raises:
        ValueError: a mean or a covariance contains NaN or Inf.

    Source: Heusel 2017, equation 6; Dowson 1982.
    """
    for name, values in (("mean", mean_a + mean_b), ("covariance", covariance_a + covariance_b)):
        if not values.isfinite().all():
            raise ValueError(f"the {name} of the features contains NaN or Inf; check the images that were generated.")
    overlap = nuclear_norm(factor(covariance_a).T @ factor(covariance_b))
    means = (mean_a - mean_b).square().sum()
    return (means + covariance_a.trace() + covariance_b.trace()).item() - 2 * overlap


def frechet_distance_of_features(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> float:
    """Return the Frechet distance between Gaussians with the means and the unbiased covariances of the rows.

    With at most as many rows as columns, the centered features themselves are the factors of the covariances; the time
    then grows with d instead of its cube.

    Args:
        x, y: at least 2 rows each.
    """
    if max(len(x), len(y)) > x.shape[1]:
        x, y = x.double(), y.double()
        return frechet_distance(x.mean(0), torch.cov(x.T), y.mean(0), torch.cov(y.T))
    mean_x, factor_x = _center(x)
    mean_y, factor_y = _center(y)
    traces = factor_x.square().sum() + factor_y.square().sum()
    return ((mean_x - mean_y).square().sum() + traces).item() - 2 * nuclear_norm(factor_x @ factor_y.T)


def _center(x: Float[Tensor, "n d"]) -> tuple[Float64[Tensor, " d"], Float64[Tensor, "n d"]]:
    """Return the mean of the rows, and F such that F^T F is their covariance."""
    mean = x.double().mean(0)
    return mean, (x.double() - mean) / (len(x) - 1) ** 0.5


def factor(covariance: Float64[Tensor, "d d"]) -> Float64[Tensor, "d rank"]:
    """Return L such that L L^T is the covariance.

    L is the Cholesky factor, or if the matrix is numerically singular, its eigenvectors scaled by the roots of its
    eigenvalues. Eigenvalues below d * eps * (largest eigenvalue) are rounding errors, and count as 0; eps = 2.2e-16.
    """
    noise = len(covariance) * torch.finfo(torch.float64).eps
    lower: Tensor
    lower, failure = torch.linalg.cholesky_ex(covariance)
    # A singular matrix may have a factor whose last pivots are rounding errors.
    if not failure and lower.diagonal().square().min() > noise * covariance.diagonal().max():
        return lower
    eigenvalues, eigenvectors = torch.linalg.eigh(covariance)
    kept = eigenvalues > noise * eigenvalues[-1]
    scaled: Tensor = eigenvectors[:, kept] * eigenvalues[kept].sqrt()
    return scaled


def nuclear_norm(matrix: Float64[Tensor, "n m"]) -> float:
    """Return the sum of the singular values; 0 of a matrix without rows or columns."""
    return torch.linalg.svdvals(matrix).sum().item() if matrix.numel() else 0.0


def frechet_distance_of_statistics(fake: Statistics, real: Statistics) -> float:
    """Return the Frechet distance between the features of two sets of images.

    Raises:
        ValueError: there are fewer than 2 images in a set, or their moments are missing.
    """
    return frechet_distance(*_moments(fake, "generated"), *_moments(real, "real"))


def _moments(images: Statistics, kind: Kind) -> tuple[Float64[Tensor, " d"], Float64[Tensor, "d d"]]:
    if images.num < 2:
        raise ValueError(f"there are {images.num} {kind} images, but a covariance needs at least 2; use more.")
    if images.mean is None or images.covariance is None:
        raise ValueError(f"the {kind} images have no mean and covariance; list 'moments' in the metric's `needs`.")
    return images.mean, images.covariance
