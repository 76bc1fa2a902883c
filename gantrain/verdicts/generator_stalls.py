"""A generator that has stopped moving: its samples from the same latents no longer change."""

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from gantrain.verdicts.base import Finding, Verdict
from gantrain.verdicts.evidence import Evidence

NUM_KEPT = 32
"""Samples that are kept from check to check, in checkpoints too."""


class GeneratorStalls(Verdict):
    """Measure how far the samples of the current weights have moved since the previous check.

    The distance is the mean of ||G_now(z) - G_before(z)||, as a fraction of the mean distance between two real
    samples, both between thumbnails. Nothing is found where a schedule has lowered G's learning rate to less than
    a tenth of the largest so far.

    Args:
        distance: in [0, 1], below this fraction G has stopped.
        checks: number of successive checks.
    """

    def __init__(self, *, distance: float, checks: int):
        self.distance, self.checks = distance, checks
        self.before: Tensor | None = None
        self.before_step = 0
        self.largest_rate = 0.0

    @override
    def __call__(self, evidence: Evidence) -> Finding | None:
        now, before, since = evidence.current_thumbnails[:NUM_KEPT], self.before, self.before_step
        self.before, self.before_step = now, evidence.step
        rate = float(evidence.state.G_optimizer.param_groups[0].get("lr", 0.0))
        self.largest_rate = max(rate, self.largest_rate)
        scale = float(torch.pdist(evidence.reference.real_thumbnails).mean())
        if before is None or before.shape != now.shape or rate < self.largest_rate / 10 or not scale:
            return None
        moved = float((now - before).norm(dim=1).mean()) / scale
        if moved >= self.distance:
            return None
        return Finding(
            f"G has stopped moving: since step {since:,} its samples from the same latents have moved by "
            f"{moved:.2g} of the mean distance between two real samples (limit {self.distance:g}).",
            "a higher learning rate (optimizer.lr), another loss if D has won (loss=nonsaturating "
            "instead of minimax), or another activation if G's units are dead; if the samples are good, stop here.",
        )

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"before": self.before, "before_step": self.before_step, "largest_rate": self.largest_rate}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.before, self.before_step = state.get("before"), state.get("before_step", 0)
        self.largest_rate = state.get("largest_rate", 0.0)
