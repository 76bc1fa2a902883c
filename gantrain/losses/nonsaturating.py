"""The non-saturating loss."""

from torch.nn.functional import softplus

from gantrain.losses.base import Logits, Scalar
from gantrain.losses.minimax import Minimax


class NonSaturating(Minimax):
    """D as in minimax; G maximizes E[log D(G(z))], whose gradient does not vanish where D rejects a sample.

    Source: Goodfellow 2014, section 3 and Algorithm 1.
    """

    def generator(self, fake_logits: Logits) -> Scalar:
        """Return -E[log D(G(z))], at least 0; log 2 if all logits are 0."""
        return softplus(-fake_logits).mean()
