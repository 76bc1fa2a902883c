"""The minimax loss of the original GAN."""

from torch.nn.functional import softplus

from gantrain.losses.base import Logits, Scalar


class Minimax:
    """D maximizes, and G minimizes, the same value: E[log D(x)] + E[log(1 - D(G(z)))], with D = sigmoid(logits).

    Source: Goodfellow 2014, equation 1.
    """

    def discriminator(self, real_logits: Logits, fake_logits: Logits) -> Scalar:
        """Return the cross entropy of classifying real [n] and generated samples [n]; 2 log 2 where D cannot tell."""
        return softplus(-real_logits).mean() + softplus(fake_logits).mean()

    def generator(self, fake_logits: Logits) -> Scalar:
        """Return E[log(1 - D(G(z)))], at most 0; its gradient vanishes where D is sure."""
        return -softplus(fake_logits).mean()
