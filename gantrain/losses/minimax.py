"""The game of the first GAN, as it stands in the paper."""

from torch.nn.functional import softplus

from gantrain.losses.base import Logits, Scalar


class Minimax:
    """Both players optimise the same value: E[log D(x)] + E[log(1 - D(G(z)))], with D = sigmoid(logits).

    Source: Goodfellow 2014, equation 1.
    """

    def discriminator(self, real_logits: Logits, fake_logits: Logits) -> Scalar:
        """Negative log likelihood of telling real [n] from fake [n]; 2 log 2 where D cannot."""
        return softplus(-real_logits).mean() + softplus(fake_logits).mean()

    def generator(self, fake_logits: Logits) -> Scalar:
        """E[log(1 - D(G(z)))], at most 0; it saturates where D is sure."""
        return -softplus(fake_logits).mean()
