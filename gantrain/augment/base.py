"""What an augmentation is: a random, differentiable change of every image that D is shown."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from gantrain.losses.base import Logits
from gantrain.schedules.base import Clock, Number


class Augment:
    """Leaves images as they are; override __call__, and observe where the strength adapts.

    D sees real and generated images through it, also in the generator's step and in penalties, so that the generator
    does not learn the augmentation (Zhao 2020, Karras 2020). What it draws for each sample it draws by
    seeding.own_rows. State that changes from step to step is held in tensors and changed in place, so that an update
    can be captured as a CUDA graph.

    Attributes:
        strength: the probability that a sample is changed, in [0, 1]; a schedule may drive it.
    """

    strength: Number = 1.0

    def __call__(self, x: Float[Tensor, "n *shape"], clock: Clock) -> Float[Tensor, "n *shape"]:
        """Return the augmented samples; gradients flow through to x."""
        return x

    def observe(self, real_logits: Logits) -> None:
        """Take in D's logits of a whole batch of real samples [n], those of all processes, after each update of D."""

    def state_dict(self) -> dict[str, Any]:
        """Return what changes from step to step, as tensors and numbers; checkpoints hold it."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what state_dict returned."""
