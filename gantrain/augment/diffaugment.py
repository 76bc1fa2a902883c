"""The differentiable augmentation of DiffAugment."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from gantrain.augment.base import Augment
from gantrain.schedules.base import Clock
from gantrain.seeding import own_rows

Images = Float[Tensor, "n channels height width"]
Uniform = Float[Tensor, " n"]
"""A draw from U[0, 1) for each sample."""

Shift = Int64[Tensor, " n"]
"""A number of pixels for each sample."""

MAX_SHIFT = 1 / 8
"""The largest translation, as a part of the image's height or width."""

CUTOUT = 1 / 2
"""The cutout's height and width, as parts of the image's."""


class DiffAugment(Augment):
    """Change the colors of each image, translate it and cut a block out of it, at random.

    Source: Zhao 2020 (DiffAugment), section 3.2; the order and the rounding of sizes are those of the released code.

    Args:
        policy: any of color, translation and cutout, applied in this order.
        strength: the probability that a sample is augmented at all, in [0, 1]; the paper takes 1.
    """

    def __init__(self, *, policy: Sequence[str], strength: float):
        unknown = [name for name in policy if name not in OPERATIONS]
        if unknown or len(set(policy)) < len(policy):
            raise ValueError(
                f"policy={list(policy)}: names any of {', '.join(OPERATIONS)}, each at most once; "
                "the paper takes all three, or translation and cutout where there is enough data."
            )
        if not 0 <= strength <= 1:
            raise ValueError(
                f"strength={strength}: the probability of an augmentation is in [0, 1] (the paper takes 1)."
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
                f"augment=[diffaugment] changes images [n, channels, height, width], and these samples have the shape "
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
    """Change brightness, then saturation, then contrast, by draws of its own for each sample."""
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
"""What a policy may name."""


def brightness(x: Images, u: Uniform) -> Images:
    """Add a number from [-1/2, 1/2) to all pixels."""
    return x + (per_sample(u) - 0.5)


def saturation(x: Images, u: Uniform) -> Images:
    """Scale each pixel's distance from the mean of its channels by a factor from [0, 2)."""
    gray = x.mean(1, keepdim=True)
    return gray + (x - gray) * (per_sample(u) * 2)


def contrast(x: Images, u: Uniform) -> Images:
    """Scale each pixel's distance from the mean of its image by a factor from [1/2, 3/2)."""
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (x - mean) * (per_sample(u) + 0.5)


def translate(x: Images, rows: Shift, columns: Shift) -> Images:
    """Return y with y[i, j] = x[i + rows, j + columns], and 0 where that is outside of the image."""
    n, num_channels, height, width = x.shape
    i = torch.arange(height, device=x.device) + rows[:, None]
    j = torch.arange(width, device=x.device) + columns[:, None]
    inside = outer((i >= 0) & (i < height), (j >= 0) & (j < width))
    # Pixels outside are read at the border and then multiplied by 0. So no two pixels with a gradient come from the
    # same one, and the backward pass, which adds with atomics on a GPU, is deterministic.
    source = i.clamp(0, height - 1)[:, :, None] * width + j.clamp(0, width - 1)[:, None, :]
    source = source.view(n, 1, height * width).expand(n, num_channels, height * width)
    return x.flatten(2).gather(2, source).view_as(x) * inside.to(x.dtype)


def cut_out(x: Images, rows: Shift, columns: Shift) -> Images:
    """Set a block to 0 whose center is at (rows, columns); what lies outside of the image is not cut out."""
    block = outer(in_block(rows, x.shape[2]), in_block(columns, x.shape[3]))
    return x * (~block).to(x.dtype)


def in_block(center: Shift, size: int) -> Bool[Tensor, "n size"]:
    """Mark the pixels of a cutout along an axis of `size` pixels."""
    start = center[:, None] - block_size(size) // 2
    i = torch.arange(size, device=center.device)
    return (i >= start) & (i < start + block_size(size))


def draw_shift(size: int, device: torch.device) -> Callable[[Sequence[int]], Tensor]:
    """Return what draws translations along an axis of `size` pixels."""
    largest = int(size * MAX_SHIFT + 0.5)
    return partial(torch.randint, -largest, largest + 1, device=device)


def draw_block(size: int, device: torch.device) -> Callable[[Sequence[int]], Tensor]:
    """Return what draws the center of a cutout along an axis of `size` pixels."""
    # A block of an even size has no pixel in its center; with one more place its draws are symmetric.
    return partial(torch.randint, 0, size + 1 - block_size(size) % 2, device=device)


def block_size(size: int) -> int:
    """Compute the cutout's extent along an axis of `size` pixels."""
    return int(size * CUTOUT + 0.5)


def per_sample(u: Uniform) -> Float[Tensor, "n 1 1 1"]:
    """Shape a number for each sample so that it multiplies images."""
    return u.view(-1, 1, 1, 1)


def outer(rows: Bool[Tensor, "n height"], columns: Bool[Tensor, "n width"]) -> Bool[Tensor, "n 1 height width"]:
    """Mark the pixels whose row and column are both marked."""
    return rows[:, None, :, None] & columns[:, None, None, :]
