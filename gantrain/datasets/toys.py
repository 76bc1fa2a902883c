"""Distributions in one and two dimensions, on which mode collapse and other failures of a GAN are easy to see."""

import hashlib
import json
import math
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from gantrain.datasets.base import Distribution
from gantrain.datasets.checks import check_finite, check_non_negative, check_positive


def gaussian(*, mean: float, std: float) -> Distribution:
    """Make a one-dimensional Gaussian with this mean and standard deviation.

    Raises:
        ConfigError: mean is not finite, or std is not above 0.
    """
    check_finite("mean", mean)
    check_positive("std", std)
    return _Gaussian(float(mean), float(std))


def gaussians_8(*, radius: float, std: float, scale: float) -> Distribution:
    """Make a mixture of eight equal Gaussians on a circle; centers and noise are divided by `scale`.

    Raises:
        ConfigError: std is negative, or radius or scale is not above 0.

    Source: Gulrajani 2017, the toy data of the published code.
    """
    check_positive("radius", radius)
    angles = [math.pi * k / 4 for k in range(8)]
    centers = [(radius * math.cos(angle), radius * math.sin(angle)) for angle in angles]
    return _Mixture("gaussians_8", centers, std, scale)


def gaussians_25(*, spacing: float, std: float, scale: float) -> Distribution:
    """Make a mixture of 25 equal Gaussians on a square grid; centers and noise are divided by `scale`.

    Raises:
        ConfigError: std is negative, or spacing or scale is not above 0.

    Source: Gulrajani 2017, the toy data of the published code.
    """
    check_positive("spacing", spacing)
    centers = [(spacing * i, spacing * j) for i, j in product(range(-2, 3), repeat=2)]
    return _Mixture("gaussians_25", centers, std, scale)


def swiss_roll(*, std: float, scale: float) -> Distribution:
    """Make the spiral (t cos t, t sin t) for t uniform in [1.5 pi, 4.5 pi), plus noise, divided by `scale`.

    Raises:
        ConfigError: std is negative, or scale is not above 0.

    Source: Gulrajani 2017, the toy data of the published code.
    """
    return _SwissRoll(std, scale)


class _Gaussian(Distribution):
    name = "gaussian"
    image_shape = (1,)
    mean: tuple[float]
    std: tuple[float]

    def __init__(self, mean: float, std: float):
        self.mean, self.std = (mean,), (std,)
        self.fingerprint = _hash(self.name, mean, std)

    def sample(self, n: int, generator: torch.Generator) -> Float[Tensor, "n 1"]:
        return self.mean[0] + self.std[0] * torch.randn(n, 1, generator=generator)


class _Mixture(Distribution):
    image_shape = (2,)
    modes: Float[Tensor, "k 2"]
    mode_std: float

    def __init__(self, name: str, centers: list[tuple[float, float]], std: float, scale: float):
        check_non_negative("std", std)
        check_positive("scale", scale)
        self.name = name
        self.modes = torch.tensor(centers) / scale
        self.mode_std = std / scale
        variances = self.modes.double().var(dim=0, correction=0) + self.mode_std**2
        self.mean = (0.0, 0.0)  # the centers are symmetric
        self.std = tuple(variances.sqrt().tolist())
        self.fingerprint = _hash(name, centers, float(std), float(scale))

    def sample(self, n: int, generator: torch.Generator) -> Float[Tensor, "n 2"]:
        which = torch.randint(len(self.modes), (n,), generator=generator)
        return self.modes[which] + self.mode_std * torch.randn(n, 2, generator=generator)


class _SwissRoll(Distribution):
    name = "swiss_roll"
    image_shape = (2,)

    def __init__(self, std: float, scale: float):
        check_non_negative("std", std)
        check_positive("scale", scale)
        self.noise_std, self.scale = float(std), float(scale)
        # Closed-form means of t cos t, t sin t and their squares over [1.5 pi, 4.5 pi).
        mean = (2.0, 2 / (3 * math.pi))
        square = (4.875 * math.pi**2 - 0.25, 4.875 * math.pi**2 + 0.25)
        self.mean = tuple(m / scale for m in mean)
        self.std = tuple(math.sqrt(s - m**2 + std**2) / scale for m, s in zip(mean, square, strict=True))
        self.fingerprint = _hash(self.name, self.noise_std, self.scale)

    def sample(self, n: int, generator: torch.Generator) -> Float[Tensor, "n 2"]:
        t = 1.5 * math.pi * (1 + 2 * torch.rand(n, generator=generator))
        roll = torch.stack([t * t.cos(), t * t.sin()], dim=1)
        return (roll + self.noise_std * torch.randn(n, 2, generator=generator)) / self.scale


def _hash(*parameters: object) -> str:
    return hashlib.sha256(json.dumps(parameters).encode()).hexdigest()
