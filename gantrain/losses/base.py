"""The interface of losses: two functions of logits."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

Logits = Float[Tensor, " n"]
Scalar = Float[Tensor, ""]


@runtime_checkable
class Loss(Protocol):
    """The losses of discriminator and generator; both are minimized.

    A loss may have optional attributes:
        needs_lipschitz: whether the critic must be Lipschitz, because the loss estimates a Wasserstein distance; False.
        generator_sees_real: whether generator(fake_logits, real_logits) also takes the logits of a new batch of real
            samples, as in relativistic losses; False.
        sign_means_real: whether D takes samples with positive logits for real ones; True.
    """

    def discriminator(self, real_logits: Logits, fake_logits: Logits) -> Scalar:
        """Return the loss of the discriminator."""
        ...

    def generator(self, fake_logits: Logits) -> Scalar:
        """Return the loss of the generator."""
        ...


@runtime_checkable
class RelativisticLoss(Protocol):
    """A loss that compares real with generated samples in the generator's update too."""

    generator_sees_real: bool

    def discriminator(self, real_logits: Logits, fake_logits: Logits) -> Scalar:
        """Return the loss of the discriminator."""
        ...

    def generator(self, fake_logits: Logits, real_logits: Logits) -> Scalar:
        """Return the loss of the generator."""
        ...


def sees_real(loss: object) -> bool:
    """Return whether the generator loss takes real logits too."""
    return bool(getattr(loss, "generator_sees_real", False))
