"""Distributions of the latent z."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Normal:
    """z ~ N(0, 1) in each dimension, independently."""

    z_dim: int

    def __post_init__(self) -> None:
        _check_dim(self.z_dim)

    def __call__(
        self, n: int, *, device: torch.device, generator: torch.Generator | None = None
    ) -> Float[Tensor, "n z_dim"]:
        """Draw n latents, with torch's default generator if `generator` is None."""
        return torch.randn(n, self.z_dim, device=device, generator=generator)


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """z ~ U[low, high) in each dimension, independently."""

    z_dim: int
    low: float
    high: float

    def __post_init__(self) -> None:
        _check_dim(self.z_dim)
        if not self.low < self.high:
            raise ValueError(f"low={self.low}, high={self.high}: low must be below high, for example -1 and 1.")

    def __call__(
        self, n: int, *, device: torch.device, generator: torch.Generator | None = None
    ) -> Float[Tensor, "n z_dim"]:
        """Draw n latents, with torch's default generator if `generator` is None."""
        return torch.rand(n, self.z_dim, device=device, generator=generator) * (self.high - self.low) + self.low


@dataclass(frozen=True, kw_only=True)
class TruncatedNormal:
    """z ~ N(0, 1) in each dimension, given that it is in [-bound, bound].

    Truncated latents make better, but less diverse samples.

    Source: Brock 2019 (BigGAN), section 3.1 (truncation trick).
    """

    z_dim: int
    bound: float

    def __post_init__(self) -> None:
        _check_dim(self.z_dim)
        if not 0 < self.bound < math.inf:
            raise ValueError(f"bound={self.bound}: must be a number above 0, for example 2, or 0.5 for less diversity.")

    def __call__(
        self, n: int, *, device: torch.device, generator: torch.Generator | None = None
    ) -> Float[Tensor, "n z_dim"]:
        """Draw n latents, with torch's default generator if `generator` is None."""
        u = torch.rand(n, self.z_dim, device=device, generator=generator)
        # The inverse of the distribution function, so that the number of draws does not depend on their values. The
        # limits are for large bounds, whose probability rounds to 1.
        z = math.sqrt(2) * torch.erfinv((2 * u - 1) * math.erf(self.bound / math.sqrt(2)))
        return z.clamp(-self.bound, self.bound)


Latent = Normal | Uniform | TruncatedNormal


def _check_dim(z_dim: int) -> None:
    if z_dim < 1:
        raise ValueError(f"z_dim={z_dim}: the latent needs at least one dimension (100 is usual).")
