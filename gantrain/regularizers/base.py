"""What a regularizer may do, and when."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, nn

from gantrain.losses.base import Logits, Scalar

Progress = float | Float[Tensor, ""]
"""The part of the training that is done, in [0, 1); a tensor in a captured step, which is to see it change."""


@dataclass(frozen=True)
class CriticBatch:
    """What the critic was shown in one of its updates, and what it said.

    Attributes:
        real, fake: [n, ...], the fakes without gradient to G.
        real_logits, fake_logits: [n], with gradient to the critic.
        progress: see Progress.
    """

    real: Float[Tensor, "n *shape"]
    fake: Float[Tensor, "n *shape"]
    real_logits: Logits
    fake_logits: Logits
    progress: Progress


class Regularizer:
    """Does nothing; override what is needed.

    What it draws at random for each sample it draws by seeding.own_rows, so that several processes make the same run.

    Attributes:
        with_batch_norm: whether the theory allows batch normalization in the critic.
    """

    with_batch_norm: ClassVar[Literal["fine", "doubtful", "wrong"]] = "fine"
    bounds_lipschitz: ClassVar[bool] = False

    def perturb(self, x: Float[Tensor, "n *shape"], progress: Progress) -> Float[Tensor, "n *shape"]:
        """Return what the critic is shown in place of x, real or fake."""
        return x

    def penalty(self, critic: nn.Module, batch: CriticBatch) -> Scalar | None:
        """Return what is added to the critic's loss, weighted."""
        return None

    def project(self, critic: nn.Module) -> None:
        """Change the critic in place after its optimizer's step."""

    def state_dict(self) -> dict[str, Any]:
        """Return what it remembers from one step to the next, as tensors and numbers; checkpoints hold it."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what state_dict gave."""
