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
    """Pull the norm of D's gradient with respect to its input towards 1, at points near the real samples.

    A point is x + a * std / 2 * u for a real sample x, with u ~ U[0, 1) for each entry and a ~ U[0, 1) for each sample
    (with packing: for each pack). `std` is the unbiased standard deviation of all entries of the batch of real samples,
    over all processes.

    This does not bound the Lipschitz constant for a Wasserstein loss, because it does not act far from the real data.

    Source: Kodali 2017, section 2.3; the noise is not centered, as in the author's code.

    Raises:
        ValueError: weight is negative, or every is below 1.
    """

    # For the same reason as in gradient_penalty.
    with_batch_norm: ClassVar[Literal["wrong"]] = "wrong"

    couples_samples: ClassVar[bool] = True
    schedulable: ClassVar[tuple[str, ...]] = ("weight",)

    def __init__(self, *, weight: float, every: int):
        if weight < 0:
            raise ValueError(f"weight={weight}: the weight of a gradient penalty must be at least 0 (10 in the paper).")
        self.weight: Number = weight
        self.every = check_every(every)

    def discriminator_penalty(self, critic: Critic, batch: UpdateBatch) -> Scalar:
        """Return weight * E[(|grad D(x_hat)| - 1)^2], with x_hat near the real samples."""
        real = batch.real.detach()
        draw = partial(torch.rand, dtype=real.dtype, device=real.device)
        noise = own_rows(draw, real.shape)
        distance = batch.draw_uniform(real)
        std = whole_batch(real).std()
        norms = gradient_norms(critic, real + distance * (0.5 * std * noise), batch.labels)
        return self.weight * (norms - 1).square().mean()
