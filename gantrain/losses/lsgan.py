"""Least squares."""

from gantrain.losses.base import Logits, Scalar


class LeastSquares:
    """D regresses `real_label` for real and `fake_label` for fake; G wants `generator_label`; both 1/2-weighted.

    Source: Mao 2017, equation 2 (labels a, b, c), and equation 9 for the labels 0, 1, 1.
    """

    def __init__(self, *, fake_label: float, real_label: float, generator_label: float):
        self.fake_label, self.real_label, self.generator_label = fake_label, real_label, generator_label

    def discriminator(self, real_logits: Logits, fake_logits: Logits) -> Scalar:
        """Half the mean squared distance from the labels, real [n] and fake [n] added."""
        real_error, fake_error = real_logits - self.real_label, fake_logits - self.fake_label
        return real_error.square().mean() / 2 + fake_error.square().mean() / 2

    def generator(self, fake_logits: Logits) -> Scalar:
        """Half the mean squared distance of the fakes [n] from the generator's label."""
        return (fake_logits - self.generator_label).square().mean() / 2
