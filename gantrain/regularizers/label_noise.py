"""Noise on D's target for real samples."""

from functools import partial
from typing import ClassVar

import torch

from gantrain.losses.base import Scalar
from gantrain.regularizers.base import Critic, Regularizer, UpdateBatch
from gantrain.schedules.base import Number
from gantrain.seeding import own_rows


class LabelNoise(Regularizer):
    """Train D on the target 1 - u for real samples, with u ~ U[0, amount) and `amount` decaying linearly to 0.

    The target 1 - u adds a term to the loss whose derivative with respect to the logit l is u, both for cross entropy
    (softplus(-l) becomes softplus(-l) + u l) and for least squares ((l - 1)^2 / 2 becomes (l - 1)^2 / 2 + u (l - 1) +
    u^2 / 2). So label noise is the same penalty for both losses: E[u D(x)].

    Source: Salimans 2016, section 3.4 (one-sided label smoothing), with noise instead of a constant.

    Raises:
        ValueError: amount is outside of [0, 1].
    """

    schedulable: ClassVar[tuple[str, ...]] = ("amount",)
    follows_fraction: ClassVar[bool] = True

    def __init__(self, *, amount: float):
        if not 0 <= amount <= 1:
            raise ValueError(f"amount={amount}: the amount of label noise must be in [0, 1] (0.2 is usual).")
        self.amount: Number = amount

    def discriminator_penalty(self, critic: Critic, batch: UpdateBatch) -> Scalar:
        """Return E[u D(x)] over the real samples."""
        logits = batch.real_logits
        draw = partial(torch.rand, dtype=logits.dtype, device=logits.device)
        noise = own_rows(draw, logits.shape) * (self.amount * (1 - batch.clock.fraction))
        return (noise * logits).mean()
