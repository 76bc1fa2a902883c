"""The differentiable augmentation of DiffAugment."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from gantrain.augment.base import Augment
from gantrain.schedules.base import Clock
from gantrain.seeding import own_rows

Images = Float[Tensor, "n channels height width"]
Uniform = Float[Tensor, " n"]
"""A random number from U[0, 1) for each sample."""

Shift = Int64[Tensor, " n"]
"""A number of pixels for each sample."""

MAX_SHIFT = 1 / 8
"""Maximum translation, as a fraction of the image's height or width."""

CUTOUT = 1 / 2
"""Height and width of the cutout, as fractions of those of the image."""


class DiffAugment(Augment):
    """Randomly change the colors of each image, translate it, and cut a block out of it.

    Source: Zhao 2020 (DiffAugment), section 3.2; the order and the rounding of sizes are those of the released code.

    Args:
        policy: any of color, translation and cutout, applied in this order.
        strength: probability that a sample is augmented at all, in [0, 1]; 1 in the paper.

    Raises:
        ValueError: the policy has unknown or repeated names, or strength is outside of [0, 1].
    """

    needs_images: ClassVar[bool] = True

    def __init__(self, *, policy: Sequence[str], strength: float):
        unknown = [name for name in policy if name not in OPERATIONS]
        if unknown or len(set(policy)) < len(policy):
            raise ValueError(
                f"policy={list(policy)}: must be a list of some of {', '.join(OPERATIONS)}, each at most once; "
                "the paper uses all three, or translation and cutout if there is enough data."
            )
        if not 0 <= strength <= 1:
            raise ValueError(
                f"strength={strength}: the probability of an augmentation must be in [0, 1] (1 in the paper)."
            )
        self.policy = list(policy)
        self.strength = float(strength)

    def __call__(self, x: Float[Tensor, "n *shape"], clock: Clock) -> Float[Tensor, "n *shape"]:
        """Return the augmented images [n, channels, height, width].

        Raises:
            ValueError: the samples are not images.
        """
        if x.dim() != 4:
            raise ValueError(
                f"augment=[diffaugment] needs images [n, channels, height, width], but these samples have the shape "
                f"{list(x.shape)}; leave it out (augment=[]) for data that are not images."
            )
        augmented = x
        for name in self.policy:
            augmented = OPERATIONS[name](augmented)
        if isinstance(self.strength, Tensor) or self.strength != 1.0:
            coin = own_rows(partial(torch.rand, dtype=x.dtype, device=x.device), [len(x), 1, 1, 1])
            augmented = torch.where(coin < self.strength, augmented, x)
        return augmented


def color(x: Images) -> Images:
    """Change brightness, then saturation, then contrast, each by a random amount per sample."""
    for change in (brightness, saturation, contrast):
        x = change(x, own_rows(partial(torch.rand, dtype=x.dtype, device=x.device), [len(x)]))
    return x


def translation(x: Images) -> Images:
    """Translate each sample by up to 1/8 of its height and width."""
    rows, columns = (own_rows(draw_shift(size, x.device), [len(x)]) for size in x.shape[2:])
    return translate(x, rows, columns)


def cutout(x: Images) -> Images:
    """Cut a block of half the height and width out of each sample."""
    rows, columns = (own_rows(draw_block(size, x.device), [len(x)]) for size in x.shape[2:])
    return cut_out(x, rows, columns)


OPERATIONS: dict[str, Callable[[Images], Images]] = {"color": color, "translation": translation, "cutout": cutout}
"""The operations that a policy can name."""


def brightness(x: Images, u: Uniform) -> Images:
    """Add u - 1/2, in [-1/2, 1/2), to all pixels of an image."""
    return x + (per_sample(u) - 0.5)


def saturation(x: Images, u: Uniform) -> Images:
    """Scale each pixel's distance from the mean of its channels by 2 u, in [0, 2)."""
    gray = x.mean(1, keepdim=True)
    return gray + (x - gray) * (per_sample(u) * 2)


def contrast(x: Images, u: Uniform) -> Images:
    """Scale each pixel's distance from the mean of its image by u + 1/2, in [1/2, 3/2)."""
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (x - mean) * (per_sample(u) + 0.5)


def translate(x: Images, rows: Shift, columns: Shift) -> Images:
    """Return y with y[i, j] = x[i + rows, j + columns], or 0 where that is outside of the image."""
    n, num_channels, height, width = x.shape
    i = torch.arange(height, device=x.device) + rows[:, None]
    j = torch.arange(width, device=x.device) + columns[:, None]
    inside = outer((i >= 0) & (i < height), (j >= 0) & (j < width))
    # Pixels outside are replaced by border pixels and multiplied by 0. So at most one summand of each gradient is not
    # zero, and the backward pass, which uses atomic additions on a GPU, is deterministic.
    source = i.clamp(0, height - 1)[:, :, None] * width + j.clamp(0, width - 1)[:, None, :]
    source = source.view(n, 1, height * width).expand(n, num_channels, height * width)
    return x.flatten(2).gather(2, source).view_as(x) * inside.to(x.dtype)


def cut_out(x: Images, rows: Shift, columns: Shift) -> Images:
    """Set a block with its center at (rows, columns) to 0; it may extend beyond the image."""
    block = outer(in_block(rows, x.shape[2]), in_block(columns, x.shape[3]))
    return x * (~block).to(x.dtype)


def in_block(center: Shift, size: int) -> Bool[Tensor, "n size"]:
    """Return a mask of the cutout along an axis of `size` pixels."""
    start = center[:, None] - block_size(size) // 2
    i = torch.arange(size, device=center.device)
    return (i >= start) & (i < start + block_size(size))


def draw_shift(size: int, device: torch.device) -> Callable[[Sequence[int]], Tensor]:
    """Return a function that draws translations along an axis of `size` pixels."""
    largest = int(size * MAX_SHIFT + 0.5)
    return partial(torch.randint, -largest, largest + 1, device=device)


def draw_block(size: int, device: torch.device) -> Callable[[Sequence[int]], Tensor]:
    """Return a function that draws the centers of cutouts along an axis of `size` pixels."""
    # A block of even size has no pixel at its center; one more position makes the distribution symmetric.
    return partial(torch.randint, 0, size + 1 - block_size(size) % 2, device=device)


def block_size(size: int) -> int:
    """Return the number of pixels of the cutout along an axis of `size` pixels."""
    return int(size * CUTOUT + 0.5)


def per_sample(u: Uniform) -> Float[Tensor, "n 1 1 1"]:
    """Reshape one number per sample, so that it can be multiplied with images."""
    return u.view(-1, 1, 1, 1)


def outer(rows: Bool[Tensor, "n height"], columns: Bool[Tensor, "n width"]) -> Bool[Tensor, "n 1 height width"]:
    """Return a mask of the pixels whose row and column are both in the masks."""
    return rows[:, None, :, None] & columns[:, None, None, :]
