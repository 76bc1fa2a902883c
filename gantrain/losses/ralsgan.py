"""The relativistic average least-squares loss (RaLSGAN)."""

from typing import ClassVar

from gantrain.losses.base import Logits, Scalar
from gantrain.seeding import whole_batch


class RelativisticAverageLeastSquares:
    """D regresses each real logit to the mean generated logit + 1, and each generated logit to the mean real logit - 1.

    G does the opposite. The means are over the whole batch of all processes, and gradients flow through them. Both
    losses are at least 0, and 1 if all logits are equal.

    Source: Jolicoeur-Martineau 2018, RaLSGAN, with the factor 1/2 of the author's code.
    """

    generator_sees_real: ClassVar[bool] = True
    sign_means_real: ClassVar[bool] = False
    couples_samples: ClassVar[bool] = True

    def discriminator(self, real_logits: Logits, fake_logits: Logits) -> Scalar:
        """Return half of E[(D(x) - E[D(G(z))] - 1)^2] + E[(D(G(z)) - E[D(x)] + 1)^2]; real [n], generated [n]."""
        return _half_squared_errors(higher=real_logits, lower=fake_logits)

    def generator(self, fake_logits: Logits, real_logits: Logits) -> Scalar:
        """Return the discriminator loss with real and generated logits exchanged."""
        return _half_squared_errors(higher=fake_logits, lower=real_logits)


def _half_squared_errors(*, higher: Logits, lower: Logits) -> Scalar:
    above = higher - whole_batch(lower).mean()
    below = lower - whole_batch(higher).mean()
    return ((above - 1).square().mean() + (below + 1).square().mean()) / 2
