"""The image-space filtering of ADA's augmentation (Karras 2020): change the gains of frequency bands of each image."""

from functools import cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from gantrain.augment.ada_operations import Draws, Images, Open, without_tf32

HALF_BAND = (-1 / 32, 0.0, 9 / 32, 16 / 32, 9 / 32, 0.0, -1 / 32)
"""H(z) H(1/z) / 2, where H is the low-pass filter of the wavelet sym2: it halves the bandwidth without a shift."""

NUM_BANDS = 4
EXPECTED_POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)
"""Of the bands, from low to high frequencies, in an image with a 1/f spectrum and the power 1."""

MIN_SIZE = 22
"""Pixels along an axis: reflected edges need one more than the 21 pixels to each side that the filters reach."""


def change_bands(x: Images, draws: Draws, is_open: Open, ranges: dict[str, float]) -> Images:
    """Filter the rows and columns of images of at least 22 x 22 pixels, whose edges are reflected.

    As matrices, the filters have no padding, and derivatives of any order are matrix products.

    Source: Karras 2020 (StyleGAN2-ADA), appendix B.
    """
    gains = band_gains(draws["filter"], is_open["filter"], std=ranges["filter"])
    with without_tf32():
        rows, columns = (
            (gains @ band_matrices(size, x).flatten(1)).view(-1, 1, size, size)  # one matrix for each image
            for size in x.shape[2:]
        )
        return rows @ (x @ columns.mT)


def band_gains(
    normal: Float[Tensor, "n bands"], is_open: Bool[Tensor, "n bands"], *, std: float
) -> Float[Tensor, "n bands"]:
    """Return the gains of the bands, of which each is amplified where its gate is open.

    For each amplified band all are scaled so that the expected power stays 1, as if it were the only one: over many
    draws of several bands the power is 1.03.

    Args:
        std: standard deviation of the binary logarithm of an amplification.
    """
    amplified = torch.where(is_open, torch.exp2(std * normal), 1.0)
    scale = torch.ones_like(amplified[:, 0])
    for power, gain in zip(EXPECTED_POWER, amplified.unbind(1), strict=True):
        scale = scale * (1 + power * (gain.square() - 1)).sqrt()
    return amplified / scale[:, None]


def band_matrices(size: int, like: Tensor) -> Float[Tensor, "bands size size"]:
    """Return the matrix of each band's filter along an axis, in the precision and on the device of a tensor."""
    return _band_matrices(size, like.dtype, like.device)


@cache
def _band_matrices(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    # Computed once, because a captured update must not copy from the host.
    bank = filter_bank()
    reach = bank.shape[1] // 2
    to = np.arange(size)
    matrices = np.zeros((NUM_BANDS, size, size))
    for k, taps in enumerate(bank.T):
        source = np.abs(to + k - reach)
        source = np.minimum(source, 2 * (size - 1) - source)
        matrices[:, to, source] += taps[:, None]
    return torch.tensor(matrices, dtype=dtype).to(device)


def filter_bank() -> Float64[np.ndarray, "bands taps"]:
    """Return the filters of the bands, from low to high frequencies; their sum changes nothing.

    With P = HALF_BAND and Q = 1 - P they are P(z) P(z^2) P(z^4), P(z) P(z^2) Q(z^4), P(z) Q(z^2) and Q(z).
    """
    bands, rest = [], np.ones(1)
    for level in range(NUM_BANDS - 1):
        low = np.zeros(2**level * (len(HALF_BAND) - 1) + 1)
        low[:: 2**level] = HALF_BAND
        high = -low
        high[len(high) // 2] += 1
        bands.append(np.convolve(rest, high))
        rest = np.convolve(rest, low)
    bands.append(rest)
    return np.stack([np.pad(band, (len(rest) - len(band)) // 2) for band in reversed(bands)])
