"""The interface of augmentations: random, differentiable changes of all samples shown to D."""

from collections.abc import Sequence
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from gantrain.losses.base import Logits
from gantrain.schedules.base import Clock, Number


class Augment:
    """An augmentation that does nothing; subclasses override __call__, and observe if the strength is adaptive.

    Real and generated samples are augmented in all updates and penalties, so that the generator does not learn to
    produce augmented samples (Zhao 2020, Karras 2020). Draw the random numbers of each sample with seeding.own_rows.
    Keep state that changes from step to step in tensors and change it in place, so that updates can be captured as CUDA
    graphs.

    Attributes:
        strength: probability that a sample is changed, in [0, 1]; a schedule may change it.
        adapts: whether it changes its strength itself; then no schedule may.
        reads_signs: whether it adapts by the signs of D's logits.
        needs_images: whether it applies only to images [n, c, h, w], not to vectors [n, d].
    """

    strength: Number = 1.0
    adapts: bool = False
    reads_signs: bool = False
    needs_images: ClassVar[bool] = False

    def __call__(self, x: Float[Tensor, "n *shape"], clock: Clock) -> Float[Tensor, "n *shape"]:
        """Return the augmented samples, differentiable with respect to x."""
        return x

    def check_shape(self, shape: Sequence[int]) -> None:
        """Check, before the first step, that it can change images of a shape [c, h, w].

        Raises:
            ValueError: it cannot; the message names the shape, the rule and the remedy.
        """

    def observe(self, real_logits: Logits) -> None:
        """Receive D's logits [n] of the real samples of all processes, after each update of D."""

    def observes(self) -> bool:
        """Return whether it needs the logits: whether it overrides observe."""
        return type(self).observe is not Augment.observe

    def logs(self) -> dict[str, Tensor | float]:
        """Return values to log, by name; the TensorBoard tags are augment/<name of the augmentation>/<name>."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return the state that changes from step to step, as tensors and numbers; checkpoints contain it."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what state_dict returned."""
