"""A discriminator that has won: its loss is saturated, or the generator's gradient has vanished."""

import statistics
from typing import Any

import torch
from typing_extensions import override

from gantrain.losses.base import Loss, RelativisticLoss
from gantrain.models.interface import heads_of
from gantrain.verdicts.base import Finding, Verdict
from gantrain.verdicts.evidence import Evidence


class DiscriminatorWins(Verdict):
    """Look for a loss of D close to 0, and for a gradient of G that has vanished while D tells all samples apart.

    The first needs a loss that is at least 0, so it never applies to Wasserstein losses. The values are those that
    were logged since the previous check.

    Source: Goodfellow 2014, section 3 (saturation); Arjovsky and Bottou 2017, section 2 (vanishing gradients).

    Args:
        loss: D has won if its mean loss is below this fraction of the loss at equal logits.
        gradient: in (0, 1), the gradient of G has vanished if its median norm is below this fraction of the largest at
            an earlier check.
        checks: number of successive checks.
    """

    def __init__(self, *, loss: float, gradient: float, checks: int):
        self.loss, self.gradient, self.checks = loss, gradient, checks
        self.largest = 0.0

    @override
    def __call__(self, evidence: Evidence) -> Finding | None:
        losses, norms = evidence.logged("loss/discriminator"), evidence.logged("gradient_norm/generator")
        if not losses or not norms:
            return None
        loss, norm, equal = statistics.fmean(losses), statistics.median(norms), loss_at_equal_logits(evidence)
        largest, self.largest = self.largest, max(self.largest, norm)
        is_saturated = 0 <= loss < self.loss * equal
        has_vanished = norm < self.gradient * largest and tells_apart(evidence)
        if not is_saturated and not has_vanished:
            return None
        texts = [f"its mean loss is {loss:.2g} ({equal:.2g} if it could not tell samples apart)"]
        texts += [f"the gradient of G has a norm of {norm:.2g}"]
        texts[1] += f" ({norm / largest:.2g} times its largest so far)" if largest > 0 else ""
        return Finding(
            f"D rejects the samples with certainty, so that G learns little: {', and '.join(texts)}.",
            "a gradient penalty (regularizer=[r1]), noise on D's inputs "
            "(regularizer=[input_noise]), a lower learning rate of D (discriminator_optimizer.lr), or model=wgan_gp.",
        )

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"largest": self.largest}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.largest = state.get("largest", 0.0)


def loss_at_equal_logits(evidence: Evidence) -> float:
    """Return the smallest loss of a D that gives all samples the same logit, of 0 or 1/2; for Wasserstein losses 0.

    With a logit of 0 it is the loss of chance for log losses; with 1/2 that for least squares with the labels 0 and 1.
    The losses of several heads are added.
    """
    loss: Loss | RelativisticLoss = evidence.objective.loss
    smallest = min(float(loss.discriminator(logits, logits)) for logits in (torch.zeros(2), torch.full((2,), 0.5)))
    return smallest * max(1, len(heads_of(evidence.state.D)))


def tells_apart(evidence: Evidence) -> bool:
    """Return whether every real sample has a higher logit than every generated one."""
    return bool(evidence.real_logits.min() > evidence.fake_logits.max())
