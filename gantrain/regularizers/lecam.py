"""LeCam regularization, for training on little data."""

from typing import Any, ClassVar

import torch
from torch.nn.functional import relu

import gantrain.seeding as seeding
from gantrain.losses.base import Scalar
from gantrain.regularizers.base import Critic, Regularizer, UpdateBatch, check_every
from gantrain.schedules.base import Number


class LeCam(Regularizer):
    """Penalize real logits above the EMA of the generated logits, and generated logits below the EMA of the real ones.

    The EMAs are those of D's mean logits over the batch of all processes. They are updated with the means of the
    current batch before the penalty is computed, and have no gradient.

    Args:
        weight: weight of the penalty.
        decay: decay of the EMAs per update, in [0, 1).
        start: step from which the EMAs decay. Before it, they are the means of the current batch. With start=0 they
            start at 0.
        every: see Regularizer.

    Source: Tseng 2021, section 3.2; max(0, .) as in the authors' code.

    Raises:
        ValueError: an option is out of its range.
    """

    couples_samples: ClassVar[bool] = True
    schedulable: ClassVar[tuple[str, ...]] = ("weight",)

    def __init__(self, *, weight: float, decay: float, start: int, every: int):
        if weight < 0:
            raise ValueError(f"weight={weight}: the weight of LeCam must be at least 0 (0.3 is usual with loss=hinge).")
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay}: the decay of LeCam's averages must be in [0, 1) (0.99 is usual).")
        if start < 0:
            raise ValueError(
                f"start={start}: the step from which LeCam's averages decay must be at least 0 (1000 is usual)."
            )
        self.weight: Number = weight
        self.decay, self.start = decay, start
        self.every = check_every(every)
        self.averages = torch.zeros(2)  # [2]: of the real logits, of the generated logits

    def discriminator_penalty(self, critic: Critic, batch: UpdateBatch) -> Scalar:
        """Return weight * (E[max(0, D(x) - fake average)^2] + E[max(0, real average - D(G(z)))^2])."""
        self._update(batch)
        real_average, fake_average = self.averages.clone()  # a copy, because the averages change in place
        above = relu(batch.real_logits - fake_average).square().mean()
        below = relu(real_average - batch.fake_logits).square().mean()
        return self.weight * (above + below)

    @torch.no_grad()
    def _update(self, batch: UpdateBatch) -> None:
        means = seeding.whole_batch(torch.stack([batch.real_logits, batch.fake_logits], dim=1)).mean(0)
        self.averages = self.averages.to(means)  # moves them to the device in the first update, which is not captured
        batch_size = len(batch.real) * seeding.shard.num_shards
        before_start = torch.as_tensor(batch.clock.images < self.start * batch_size, device=means.device)
        weight = means.new_full((), 1 - self.decay).masked_fill_(before_start, 1.0)
        self.averages.lerp_(means, weight)

    def state_dict(self) -> dict[str, Any]:
        """Return the averages."""
        return {"averages": self.averages}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the averages in place; an empty state, from a run without LeCam, is ignored."""
        if state:
            self.averages.copy_(state["averages"])
