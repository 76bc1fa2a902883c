"""What a loss is: two functions of logits."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

Logits = Float[Tensor, " n"]
Scalar = Float[Tensor, ""]


@runtime_checkable
class Loss(Protocol):
    """An adversarial objective; both functions are minimized.

    A loss may have two more attributes, both False where it has none:
        needs_lipschitz: it estimates a Wasserstein distance, which holds only for a Lipschitz critic.
        generator_sees_real: its generator(fake_logits, real_logits) also takes the logits of a fresh batch of real
            samples, as relativistic losses do.
    """

    def discriminator(self, real_logits: Logits, fake_logits: Logits) -> Scalar:
        """Return the loss of the discriminator."""
        ...

    def generator(self, fake_logits: Logits) -> Scalar:
        """Return the loss of the generator."""
        ...


@runtime_checkable
class RelativisticLoss(Protocol):
    """A loss that compares real with generated samples, in the generator's step as well."""

    generator_sees_real: bool

    def discriminator(self, real_logits: Logits, fake_logits: Logits) -> Scalar:
        """Return the loss of the discriminator."""
        ...

    def generator(self, fake_logits: Logits, real_logits: Logits) -> Scalar:
        """Return the loss of the generator."""
        ...


def sees_real(loss: object) -> bool:
    """Tell whether the loss's generator takes real logits too."""
    return bool(getattr(loss, "generator_sees_real", False))
