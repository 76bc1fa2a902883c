"""Critic weights that are stuck at the bound of weight clipping."""

from typing import Any

import torch
from jaxtyping import Int8
from torch import Tensor, nn
from typing_extensions import override

from gantrain.regularizers.weight_clip import WeightClip
from gantrain.seeding import generator
from gantrain.verdicts.base import Finding, Verdict
from gantrain.verdicts.evidence import Evidence

MAX_WEIGHTS = 10_000
"""Weights that are looked at, chosen at random."""

TOLERANCE = 1e-3
"""Relative distance from the bound within which a weight is at it."""


class Clipping(Verdict):
    """Count the weights of D that are at the bound, and at the same one as at the previous check.

    Biases and the parameters of normalization layers do not count. With regularizer=[weight_clip] only.

    Source: Gulrajani 2017, section 3 and figure 1 (b).

    Args:
        share: in (0, 1), above this share of the weights the critic is stuck.
        checks: number of successive checks.
    """

    def __init__(self, *, share: float, checks: int):
        self.share, self.checks = share, checks
        self.before: Tensor | None = None

    @override
    def __call__(self, evidence: Evidence) -> Finding | None:
        limits = [part.limit for part in evidence.objective.regularizers.values() if isinstance(part, WeightClip)]
        if not limits:
            return None
        limit = min(limits)
        now, before = at_bound(evidence.state.D, limit), self.before
        self.before = now
        if before is None or before.shape != now.shape or not len(now):
            return None
        share = float(((now != 0) & (now == before)).float().mean())
        if share <= self.share:
            return None
        return Finding(
            f"{share:.0%} of D's weights are at the clipping bound of {limit:g}, and were there at the previous check "
            f"(limit {self.share:.0%}), so that D can compute little more than the sign of each weight.",
            "a gradient penalty instead of clipping (model=wgan_gp), another "
            "regularizer.weight_clip.limit, or a lower learning rate of D.",
        )

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"before": self.before}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.before = state.get("before")


def at_bound(D: nn.Module, limit: float) -> Int8[Tensor, " n"]:
    """Return -1 or 1 for each of at most 10,000 weights that are at the lower or the upper bound, else 0."""
    weights = torch.cat([torch.zeros(0), *(p.detach().float().flatten().cpu() for p in D.parameters() if p.dim() > 1)])
    chosen = torch.randperm(len(weights), generator=generator("weights"))[:MAX_WEIGHTS]
    weights = weights[chosen]
    return (weights.sign() * (weights.abs() >= (1 - TOLERANCE) * limit)).to(torch.int8)
