"""The Wasserstein loss: the dual form of the Wasserstein-1 distance."""

from typing import ClassVar

from gantrain.losses.base import Logits, Scalar


class Wasserstein:
    """The critic maximizes E[D(x)] - E[D(G(z))], the generator minimizes it.

    It estimates the distance only if a regularizer keeps the critic Lipschitz (gradient_penalty, weight_clip).
    Source: Arjovsky 2017, equation 3 and Algorithm 1.
    """

    needs_lipschitz: ClassVar[bool] = True

    def discriminator(self, real_logits: Logits, fake_logits: Logits) -> Scalar:
        """Return minus the estimate of the distance, from unbounded logits [n] and [n]."""
        return fake_logits.mean() - real_logits.mean()

    def generator(self, fake_logits: Logits) -> Scalar:
        """Return minus the mean logit of the generated samples [n]."""
        return -fake_logits.mean()
