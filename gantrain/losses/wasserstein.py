"""The Wasserstein loss: the dual form of the Wasserstein-1 distance."""

from typing import ClassVar

from gantrain.losses.base import Logits, Scalar


class Wasserstein:
    """The critic maximizes E[D(x)] - E[D(G(z))]; the generator minimizes it.

    The value estimates the distance only if something bounds the critic's Lipschitz constant: gradient_penalty,
    weight_clip or spectral normalization.

    Source: Arjovsky 2017, equation 3 and Algorithm 1.
    """

    needs_lipschitz: ClassVar[bool] = True
    sign_means_real: ClassVar[bool] = False

    def discriminator(self, real_logits: Logits, fake_logits: Logits) -> Scalar:
        """Return E[D(G(z))] - E[D(x)], unbounded: the negative estimate of the distance."""
        return fake_logits.mean() - real_logits.mean()

    def generator(self, fake_logits: Logits) -> Scalar:
        """Return -E[D(G(z))], unbounded."""
        return -fake_logits.mean()
