"""The minimax loss of the original GAN."""

from torch.nn.functional import softplus

from gantrain.losses.base import Logits, Scalar


class Minimax:
    """D maximizes and G minimizes E[log D(x)] + E[log(1 - D(G(z)))], where D(x) is the sigmoid of the logit.

    Source: Goodfellow 2014, equation 1.
    """

    def discriminator(self, real_logits: Logits, fake_logits: Logits) -> Scalar:
        """Return -E[log D(x)] - E[log(1 - D(G(z)))], at least 0; 2 log 2 if all logits are 0."""
        return softplus(-real_logits).mean() + softplus(fake_logits).mean()

    def generator(self, fake_logits: Logits) -> Scalar:
        """Return E[log(1 - D(G(z)))], at most 0; its gradient vanishes where D rejects a sample with certainty."""
        return -softplus(fake_logits).mean()
