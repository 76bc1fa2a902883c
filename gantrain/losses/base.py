"""What a loss is: two functions of logits."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

Logits = Float[Tensor, " n"]
Scalar = Float[Tensor, ""]


@runtime_checkable
class Loss(Protocol):
    """An adversarial objective; both functions are minimised.

    One that is a distance only for a Lipschitz discriminator says so by `needs_lipschitz = True`.
    """

    def discriminator(self, real_logits: Logits, fake_logits: Logits) -> Scalar:
        """Loss of the discriminator."""
        ...

    def generator(self, fake_logits: Logits) -> Scalar:
        """Loss of the generator."""
        ...
