"""The hinge loss."""

from torch.nn.functional import relu

from gantrain.losses.base import Logits, Scalar


class Hinge:
    """The hinge loss: D pushes real logits above 1 and generated logits below -1; G maximizes its mean logit.

    Source: Lim and Ye 2017 (geometric GAN); Miyato 2018, equations 16 and 17.
    """

    def discriminator(self, real_logits: Logits, fake_logits: Logits) -> Scalar:
        """Return E[max(0, 1 - D(x))] + E[max(0, 1 + D(G(z)))], at least 0; 2 if all logits are 0."""
        return relu(1 - real_logits).mean() + relu(1 + fake_logits).mean()

    def generator(self, fake_logits: Logits) -> Scalar:
        """Return -E[D(G(z))], unbounded."""
        return -fake_logits.mean()
