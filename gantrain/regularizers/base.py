"""What a regularizer may do, and when."""

from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar, Literal

from jaxtyping import Float, Int64
from torch import Tensor, nn

from gantrain.losses.base import Logits, Scalar
from gantrain.schedules.base import Clock

Labels = Int64[Tensor, " n"] | None
Auxiliary = dict[str, Tensor]
"""What a discriminator returns besides its logits, by name, each [n, ...]."""

Critic = Callable[[Tensor, Labels], Logits]
"""x [n, ...] before augmentation, and its labels, to logits [n]: the augmentation is part of it."""

Judge = Callable[[Tensor, Labels], tuple[Logits, Auxiliary]]
Draw = Callable[[int], tuple[Float[Tensor, "n z_dim"], Labels]]
"""Draws n latents with labels for them (None where G is unconditional)."""


class UpdateBatch:
    """The samples of one update of a player, and what D says of them, computed when first asked for.

    An update that D judges anyway fills in the logits; a penalty with an interval of its own (`every` > 1) pays only
    for what it reads.

    Attributes:
        clock: how far the training is.
        real, fake: [n, ...] in D's input space, before augmentation. In D's updates the fakes carry no gradient to G.
        labels, fake_labels: int64 [n], or None where neither network is conditional.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        real: Callable[[], tuple[Tensor, Labels]],
        fake: Callable[[], tuple[Tensor, Labels]],
        augment: Callable[[Tensor], Tensor],
        judge: Judge,
    ):
        self.clock = clock
        self._draw_real, self._draw_fake, self._augment, self._judge = real, fake, augment, judge

    @cached_property
    def _real(self) -> tuple[Tensor, Labels]:
        return self._draw_real()

    @cached_property
    def _fake(self) -> tuple[Tensor, Labels]:
        return self._draw_fake()

    @property
    def real(self) -> Float[Tensor, "n *shape"]:
        """Real samples, before augmentation."""
        return self._real[0]

    @property
    def labels(self) -> Labels:
        """Labels of the real samples."""
        return self._real[1]

    @property
    def fake(self) -> Float[Tensor, "n *shape"]:
        """Generated samples, before augmentation."""
        return self._fake[0]

    @property
    def fake_labels(self) -> Labels:
        """Labels that the generated samples were made for."""
        return self._fake[1]

    @cached_property
    def real_shown(self) -> Float[Tensor, "n *shape"]:
        """Real samples as D is shown them, augmented."""
        return self._augment(self.real)

    @cached_property
    def fake_shown(self) -> Float[Tensor, "n *shape"]:
        """Generated samples as D is shown them, augmented."""
        return self._augment(self.fake)

    @cached_property
    def real_judged(self) -> tuple[Logits, Auxiliary]:
        """D's logits and auxiliary outputs for the real samples."""
        return self._judge(self.real_shown, self.labels)

    @cached_property
    def fake_judged(self) -> tuple[Logits, Auxiliary]:
        """D's logits and auxiliary outputs for the generated samples."""
        return self._judge(self.fake_shown, self.fake_labels)

    @property
    def real_logits(self) -> Logits:
        """[n]."""
        return self.real_judged[0]

    @property
    def fake_logits(self) -> Logits:
        """[n]."""
        return self.fake_judged[0]

    def logits(self) -> dict[str, Tensor]:
        """Return D's logits by the tags that they are logged under."""
        return {"logits/real": self.real_logits.detach(), "logits/fake": self.fake_logits.detach()}

    @property
    def real_aux(self) -> Auxiliary:
        """D's auxiliary outputs for the real samples."""
        return self.real_judged[1]

    @property
    def fake_aux(self) -> Auxiliary:
        """D's auxiliary outputs for the generated samples."""
        return self.fake_judged[1]


class Regularizer:
    """Does nothing; override what is needed.

    What it draws at random for each sample it draws by seeding.own_rows, so that several processes make the same run.
    What it remembers from step to step it holds in tensors that it changes in place, so that an update can be captured.

    Attributes:
        every: 1: the penalties join their player's loss. k > 1: lazy regularization (Karras 2020, StyleGAN2, appendix
            B): at every k-th update of the player an optimizer step of their own, with the gradient times k.
        with_batch_norm: whether the theory allows batch normalization in the critic.
        bounds_lipschitz: whether it keeps the critic Lipschitz, as a Wasserstein loss needs.
        couples_samples: whether it takes statistics over a batch, which are those of a micro-batch when accumulating.
    """

    every: int = 1
    with_batch_norm: ClassVar[Literal["fine", "doubtful", "wrong"]] = "fine"
    bounds_lipschitz: ClassVar[bool] = False
    couples_samples: ClassVar[bool] = False

    def perturb(self, x: Float[Tensor, "n *shape"], clock: Clock) -> Float[Tensor, "n *shape"]:
        """Return what D is given in place of x, real or generated, before augmentation."""
        return x

    def discriminator_penalty(self, critic: Critic, batch: UpdateBatch) -> Scalar | None:
        """Return what is added to D's loss, weighted; None: nothing."""
        return None

    def generator_penalty(self, G: Callable[..., Tensor], draw: Draw, batch: UpdateBatch) -> Scalar | None:
        """Return what is added to G's loss, weighted; None: nothing.

        Args:
            G: z, or z and labels, to samples.
            draw: draws fresh latents.
        """
        return None

    def project(self, D: nn.Module) -> None:
        """Change D in place after each step of its optimizer."""

    def state_dict(self) -> dict[str, Any]:
        """Return what changes from step to step, as tensors and numbers; checkpoints hold it."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what state_dict returned."""


def overrides(regularizer: Regularizer, method: str) -> bool:
    """Tell whether the regularizer has a penalty of its own: "discriminator_penalty" or "generator_penalty"."""
    return getattr(type(regularizer), method) is not getattr(Regularizer, method)


def check_every(every: int) -> int:
    """Return the interval of a penalty.

    Raises:
        ValueError: it is below 1.
    """
    if every < 1:
        raise ValueError(f"every={every}: a penalty is taken at every update (1) or at every k-th (16 for R1).")
    return every
