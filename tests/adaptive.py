"""An augmentation whose strength adapts, as a user would write it in a module outside of the package."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gantrain.augment.base import Augment
from gantrain.losses.base import Logits
from gantrain.schedules.base import Clock
from gantrain.seeding import own_rows


class Adaptive(Augment):
    """Negate a sample with a probability that follows D's mean probability that real samples are real.

    This is the idea of adaptive augmentation (Karras 2020, ADA): the more D overfits, the stronger the augmentation.
    """

    def __init__(self, *, decay: float):
        self.decay, self.strength = decay, torch.zeros(())

    def __call__(self, x: Tensor, clock: Clock) -> Tensor:
        ones: Sequence[int] = [1] * (x.dim() - 1)
        coin = own_rows(partial(torch.rand, dtype=x.dtype, device=x.device), [len(x), *ones])
        return torch.where(coin < self.strength, -x, x)

    def observe(self, real_logits: Logits) -> None:
        self.strength.lerp_(real_logits.sigmoid().mean().to(self.strength), 1 - self.decay)

    def state_dict(self) -> dict[str, Any]:
        return {"strength": self.strength}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.strength.copy_(state["strength"])
