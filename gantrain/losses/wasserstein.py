"""The Wasserstein-1 distance in its dual form."""

from typing import ClassVar

from gantrain.losses.base import Logits, Scalar


class Wasserstein:
    """The critic widens E[D(x)] - E[D(G(z))], the generator narrows it.

    It estimates a distance only while something keeps the critic Lipschitz (gradient_penalty, weight_clip).
    Source: Arjovsky 2017, equation 3 and Algorithm 1.
    """

    needs_lipschitz: ClassVar[bool] = True

    def discriminator(self, real_logits: Logits, fake_logits: Logits) -> Scalar:
        """Minus the estimate of the distance; logits are unbounded scores."""
        return fake_logits.mean() - real_logits.mean()

    def generator(self, fake_logits: Logits) -> Scalar:
        """Minus the mean score of the fakes."""
        return -fake_logits.mean()
