"""Critic weights that are stuck at the bound of weight clipping."""

from torch import nn
from typing_extensions import override

from gantrain.regularizers.weight_clip import WeightClip
from gantrain.verdicts.base import Finding, Verdict
from gantrain.verdicts.evidence import Evidence

TOLERANCE = 1e-3
"""Relative distance from the bound within which a weight is at it."""


class Clipping(Verdict):
    """Count the weights of D that are at the bound; with regularizer=[weight_clip] only.

    Biases and the parameters of normalization layers do not count.

    Source: Gulrajani 2017, section 3 and figure 1 (b).

    Args:
        share: in (0, 1), above this share of the weights the critic is stuck.
        checks: number of successive checks.
    """

    def __init__(self, *, share: float, checks: int):
        self.share, self.checks = share, checks

    @override
    def __call__(self, evidence: Evidence) -> Finding | None:
        limits = [part.limit for part in evidence.objective.regularizers.values() if isinstance(part, WeightClip)]
        if not limits:
            return None
        limit = min(limits)
        share = share_at_bound(evidence.state.D, limit)
        if share <= self.share:
            return None
        return Finding(
            f"{share:.0%} of D's weights are at the clipping bound of {limit:g} (limit {self.share:.0%}), so that D "
            "can compute little more than the signs of its weights, and its gradients vanish or explode.",
            "a gradient penalty instead of clipping (model=wgan_gp), a larger regularizer.weight_clip.limit, or a "
            "lower learning rate of D (discriminator_optimizer.lr).",
        )


def share_at_bound(D: nn.Module, limit: float) -> float:
    """Return the share of the weights whose absolute value is the limit; 0 without weights."""
    weights = [parameter.detach() for parameter in D.parameters() if parameter.dim() > 1]
    num = sum(weight.numel() for weight in weights)
    at_bound = sum(int((weight.abs() >= (1 - TOLERANCE) * limit).sum()) for weight in weights)
    return at_bound / num if num else 0.0
