"""Consistency regularization of D, for images: CR and bCR."""

from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from gantrain.datasets.labels import Labels
from gantrain.losses.base import Logits, Scalar
from gantrain.regularizers.base import Critic, Regularizer, UpdateBatch, check_every
from gantrain.schedules.base import Number
from gantrain.seeding import own_rows


class Consistency(Regularizer):
    """Penalize the difference of D's logits of an image and of the same image flipped and shifted at random.

    Each image is mirrored left to right with probability 1/2, and shifted by up to a fraction of its height and width;
    what moves in at the edges is reflected. Only D is regularized: G never sees these images, unlike augmented ones.

    Source: Zhang 2020 (CR), equation 3 and section 3.2; Zhao 2020 (bCR), algorithm 1.

    Args:
        weight_real, weight_fake: weights for real and for generated images; CR has a weight_fake of 0.
        max_shift: largest shift, as a fraction of the height and width.
        every: see Regularizer.

    Raises:
        ValueError: an option is out of its range.
    """

    needs_images: ClassVar[bool] = True
    schedulable: ClassVar[tuple[str, ...]] = ("weight_real", "weight_fake")

    def __init__(self, *, weight_real: float, weight_fake: float, max_shift: float, every: int):
        for name, weight in (("weight_real", weight_real), ("weight_fake", weight_fake)):
            if weight < 0:
                raise ValueError(f"{name}={weight}: the weight of consistency must be at least 0 (10 in the papers).")
        if weight_real == weight_fake == 0:
            raise ValueError("weight_real=0, weight_fake=0: one must be above 0, for example weight_real=10.")
        if not 0 <= max_shift < 1:
            raise ValueError(f"max_shift={max_shift}: must be a fraction of the image in [0, 1) (0.125 is usual).")
        self.weight_real: Number = weight_real
        self.weight_fake: Number = weight_fake
        self.uses_real, self.uses_fake = weight_real > 0, weight_fake > 0
        self.max_shift, self.every = max_shift, check_every(every)

    def discriminator_penalty(self, critic: Critic, batch: UpdateBatch) -> Scalar:
        """Return weight_real * E[(D(x) - D(T(x)))^2] + weight_fake * E[(D(G(z)) - D(T(G(z))))^2]."""
        terms = []
        if self.uses_real:
            terms.append(self.weight_real * self._difference(batch, batch.real, batch.labels, batch.real_logits))
        if self.uses_fake:
            terms.append(self.weight_fake * self._difference(batch, batch.fake, batch.fake_labels, batch.fake_logits))
        return torch.stack(terms).sum()

    def _difference(self, batch: UpdateBatch, x: Tensor, labels: Labels, logits: Logits) -> Scalar:
        changed = batch.logits_of(flip_and_shift(x.detach(), self.max_shift), labels)
        return (logits - changed).square().mean()


def flip_and_shift(x: Float[Tensor, "n c h w"], max_shift: float) -> Float[Tensor, "n c h w"]:
    """Mirror each image left to right with probability 1/2, and shift it by a random number of pixels.

    Args:
        max_shift: largest shift, as a fraction of the height and width.
    """
    n, c, height, width = x.shape
    is_flipped = own_rows(partial(torch.randint, 2, device=x.device), [n]).bool()
    rows, columns = (shifted(size, max_shift, n, x.device) for size in (height, width))
    columns = torch.where(is_flipped[:, None], width - 1 - columns, columns)
    source = rows[:, :, None] * width + columns[:, None, :]
    return x.flatten(2).gather(2, source.flatten(1)[:, None].expand(n, c, -1)).view_as(x)


def shifted(size: int, max_shift: float, n: int, device: torch.device) -> Tensor:
    """Return for each of n samples which of `size` pixels comes at each place [n, size]; the edges are reflected."""
    largest = min(int(size * max_shift), size - 1)
    shift = own_rows(partial(torch.randint, -largest, largest + 1, device=device), [n])
    i = (torch.arange(size, device=device) + shift[:, None]).abs()
    return torch.where(i < size, i, 2 * (size - 1) - i)
