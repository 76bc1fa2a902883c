"""The gradient penalty of DRAGAN."""

from functools import partial
from typing import ClassVar, Literal

import torch

from gantrain.losses.base import Scalar
from gantrain.regularizers.base import Critic, Regularizer, UpdateBatch, check_every
from gantrain.regularizers.input_gradient import gradient_norms
from gantrain.schedules.base import Number
from gantrain.seeding import own_rows, whole_batch


class DRAGAN(Regularizer):
    """Pull the norm of D's gradient in each sample towards 1, at points near the real samples.

    A point is the real sample plus a * std / 2 * u: `std` over all entries of the whole batch of real samples
    (unbiased, over all processes), u uniform in [0, 1) for each entry, a uniform in [0, 1) for each sample.

    It does not bound the Lipschitz constant for a Wasserstein loss: nothing holds the slope away from the real data.
    Source: Kodali 2017, section 2.3; the noise is that of the author's code, which is not centred.
    """

    # As with gradient_penalty.
    with_batch_norm: ClassVar[Literal["wrong"]] = "wrong"

    couples_samples: ClassVar[bool] = True

    def __init__(self, *, weight: float, every: int):
        if weight < 0:
            raise ValueError(f"weight={weight}: a gradient penalty is at least 0 (the paper takes 10).")
        self.weight: Number = weight
        self.every = check_every(every)

    def discriminator_penalty(self, critic: Critic, batch: UpdateBatch) -> Scalar:
        """Return weight * E[(|grad D(x_hat)| - 1)^2], x_hat near the real samples."""
        real = batch.real.detach()
        draw = partial(torch.rand, dtype=real.dtype, device=real.device)
        noise = own_rows(draw, real.shape)
        distance = own_rows(draw, [len(real)] + [1] * (real.dim() - 1))
        std = whole_batch(real).std()
        norms = gradient_norms(critic, real + distance * (0.5 * std * noise), batch.labels)
        return self.weight * (norms - 1).square().mean()
