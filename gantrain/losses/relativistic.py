"""The relativistic pairing loss (RpGAN)."""

from typing import ClassVar

from torch.nn.functional import softplus

from gantrain.losses.base import Logits, Scalar


class Relativistic:
    """D ranks each real sample above the generated sample in the same row of the batch; G does the opposite.

    The losses depend only on differences of logits. Both are log 2 if all logits are equal.

    Source: Jolicoeur-Martineau 2018, section 4.1 (RSGAN); Huang 2024 (R3GAN), equation 2 with
    f(t) = -log(1 + exp(-t)).
    """

    generator_sees_real: ClassVar[bool] = True
    sign_means_real: ClassVar[bool] = False

    def discriminator(self, real_logits: Logits, fake_logits: Logits) -> Scalar:
        """Return -E[log sigmoid(D(x) - D(G(z)))] over the pairs (real [n], generated [n]), at least 0."""
        return softplus(-(real_logits - fake_logits)).mean()

    def generator(self, fake_logits: Logits, real_logits: Logits) -> Scalar:
        """Return -E[log sigmoid(D(G(z)) - D(x))] over the pairs, at least 0."""
        return softplus(-(fake_logits - real_logits)).mean()
