"""The least-squares loss (LSGAN)."""

from gantrain.losses.base import Logits, Scalar


class LeastSquares:
    """D regresses `real_label` on real and `fake_label` on generated samples; G wants D to output `generator_label`.

    Source: Mao 2017, equation 2 (with the labels a, b, c), and equation 9 for the labels 0, 1, 1.
    """

    def __init__(self, *, fake_label: float, real_label: float, generator_label: float):
        self.fake_label, self.real_label, self.generator_label = fake_label, real_label, generator_label

    @property
    def sign_means_real(self) -> bool:
        """Whether 0 is in the middle between the labels of real and generated samples."""
        return self.fake_label + self.real_label == 0

    def discriminator(self, real_logits: Logits, fake_logits: Logits) -> Scalar:
        """Return E[(D(x) - real_label)^2] / 2 + E[(D(G(z)) - fake_label)^2] / 2, at least 0."""
        real_error, fake_error = real_logits - self.real_label, fake_logits - self.fake_label
        return real_error.square().mean() / 2 + fake_error.square().mean() / 2

    def generator(self, fake_logits: Logits) -> Scalar:
        """Return E[(D(G(z)) - generator_label)^2] / 2, at least 0."""
        return (fake_logits - self.generator_label).square().mean() / 2
