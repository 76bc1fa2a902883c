"""The loss that GANs are trained with in practice."""

from torch.nn.functional import softplus

from gantrain.losses.base import Logits, Scalar
from gantrain.losses.minimax import Minimax


class NonSaturating(Minimax):
    """Minimax for D; G maximises E[log D(G(z))], whose gradient does not vanish where D is sure.

    Source: Goodfellow 2014, section 3 and Algorithm 1.
    """

    def generator(self, fake_logits: Logits) -> Scalar:
        """-E[log D(G(z))], at least 0; log 2 where D cannot tell."""
        return softplus(-fake_logits).mean()
