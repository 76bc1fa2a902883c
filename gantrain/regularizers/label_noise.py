"""Noise on the labels "real" that D is trained on."""

from functools import partial

import torch

from gantrain.losses.base import Scalar
from gantrain.regularizers.base import Critic, Regularizer, UpdateBatch
from gantrain.schedules.base import Number
from gantrain.seeding import own_rows


class LabelNoise(Regularizer):
    """Give each real sample the label 1 - u, u uniform in [0, amount), with `amount` decaying linearly to 0.

    The loss with such a label differs from the loss with label 1 by a term whose gradient in the logit l is u, both for
    cross entropy (softplus(-l) becomes softplus(-l) + u l) and for least squares (1/2 (l - 1)^2 becomes
    1/2 (l - 1)^2 + u (l - 1) + u^2 / 2). So label noise is the same penalty for every loss: E[u D(x)].

    Source: Salimans 2016, section 3.4 (one-sided smoothing), with noise in place of a constant.
    """

    def __init__(self, *, amount: float):
        if not 0 <= amount <= 1:
            raise ValueError(f"amount={amount}: label noise is a part of the label, in [0, 1] (0.2 is usual).")
        self.amount: Number = amount

    def discriminator_penalty(self, critic: Critic, batch: UpdateBatch) -> Scalar:
        """Return E[u D(x)] over the real samples."""
        logits = batch.real_logits
        draw = partial(torch.rand, dtype=logits.dtype, device=logits.device)
        noise = own_rows(draw, logits.shape) * (self.amount * (1 - batch.clock.fraction))
        return (noise * logits).mean()
