"""The interface of regularizers: perturbations, penalties and projections."""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gantrain.datasets.labels import Labels
from gantrain.losses.base import Logits, Scalar
from gantrain.regularizers.input_gradient import TwiceDifferentiable, gradients_by_logit
from gantrain.schedules.base import Clock
from gantrain.seeding import own_rows

Auxiliary = dict[str, Tensor]
"""The outputs of a discriminator besides its logits, by name, each [n, ...]."""

Critic = Callable[[Tensor, Labels], Logits]
"""Computes logits [n] from samples [n, ...] and their labels: augments the samples, then applies D."""

DiscriminatorOutput = tuple[Logits, Auxiliary]
Discriminate = Callable[[Tensor, Labels], DiscriminatorOutput]
"""Computes D's output from augmented samples [n, ...] and their labels."""

Draw = Callable[[int], tuple[Float[Tensor, "n z_dim"], Labels]]
"""Draws n latents with labels for them, which are None if the networks are unconditional."""


class UpdateBatch:
    """The samples of one update of D or G, and D's outputs for them, computed at their first use.

    A lazy penalty (`every` > 1) costs only what it uses.

    Attributes:
        clock: progress of the training.
        real, fake: [n, ...], after perturbations and before augmentation. In D's updates, `fake` has no gradient to G.
        labels, fake_labels: int64 [n], or None if neither network is conditional.
        num_fake: number of generated samples.
        packing: number of consecutive samples that D takes as one input; 1 without packing.

    Args:
        discriminate_fake: D for generated samples, if it omits some auxiliary outputs for them; None: D is the same.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        real: Callable[[], tuple[Tensor, Labels]],
        fake: Callable[[], tuple[Tensor, Labels]],
        augment: Callable[[Tensor], Tensor],
        discriminate: Discriminate,
        discriminate_fake: Discriminate | None = None,
        packing: int = 1,
        num_fake: int | None = None,
    ):
        self.clock, self.packing, self._num_fake = clock, packing, num_fake
        self._draw_real, self._draw_fake, self._augment, self._discriminate = real, fake, augment, discriminate
        self._discriminate_fake = discriminate_fake or discriminate
        self._gradients: dict[str, Tensor] = {}

    @cached_property
    def _real(self) -> tuple[Tensor, Labels]:
        return self._draw_real()

    @cached_property
    def _fake(self) -> tuple[Tensor, Labels]:
        return self._draw_fake()

    @property
    def real(self) -> Float[Tensor, "n *shape"]:
        """Real samples before augmentation."""
        return self._real[0]

    @property
    def labels(self) -> Labels:
        """Labels of the real samples."""
        return self._real[1]

    @property
    def fake(self) -> Float[Tensor, "n *shape"]:
        """Generated samples before augmentation."""
        return self._fake[0]

    @property
    def num_fake(self) -> int:
        """Number of generated samples, which need not be generated for it."""
        return len(self.fake) if self._num_fake is None else self._num_fake

    @property
    def fake_labels(self) -> Labels:
        """Labels of the generated samples."""
        return self._fake[1]

    @cached_property
    def real_augmented(self) -> Float[Tensor, "n *shape"]:
        """Real samples after augmentation: the input of D."""
        return self._augment(self.real)

    @cached_property
    def fake_augmented(self) -> Float[Tensor, "n *shape"]:
        """Generated samples after augmentation: the input of D."""
        return self._augment(self.fake)

    @cached_property
    def real_output(self) -> DiscriminatorOutput:
        """D's logits and auxiliary outputs for the real samples."""
        return self._discriminate(self.real_augmented, self.labels)

    @cached_property
    def fake_output(self) -> DiscriminatorOutput:
        """D's logits and auxiliary outputs for the generated samples."""
        return self._discriminate_fake(self.fake_augmented, self.fake_labels)

    @property
    def real_logits(self) -> Logits:
        """D's logits [n] for the real samples."""
        return self.real_output[0]

    @property
    def fake_logits(self) -> Logits:
        """D's logits [n] for the generated samples."""
        return self.fake_output[0]

    def compute_jointly(self) -> None:
        """Compute D's outputs for real and generated samples in a single forward pass, which is faster than two."""
        labels = [y for y in (self.labels, self.fake_labels) if y is not None]
        real, fake = self.real_augmented, self.fake_augmented
        logits, aux = self._discriminate(torch.cat([real, fake]), torch.cat(labels) if labels else None)
        self.real_output, self.fake_output = split_rows(logits, aux, [len(real), len(fake)])

    def compute_with_gradients(self, compute: Callable[[], object]) -> None:
        """Compute D's outputs, and from the same forward pass the gradients of its logits, which R1 and R2 need.

        Args:
            compute: computes the outputs for real and generated samples.
        """
        given = self._real, self._fake
        self._real, self._fake = ((x.detach().requires_grad_(), y) for x, y in given)
        with TwiceDifferentiable() as operations:
            compute()
            total = self.real_logits.sum() + self.fake_logits.sum()
        with operations.inputs_only():
            real, fake = torch.autograd.grad(total, [self.real, self.fake], create_graph=True)
        num = len(self.real_logits)
        self._gradients = {"real": real.reshape(num, -1), "fake": fake.reshape(num, -1)}
        self._real, self._fake = given

    def gradients(self, of: Literal["real", "fake"], critic: Critic) -> Float[Tensor, "m d"]:
        """Return the gradient of each of D's logits with respect to its sample (or pack) before augmentation.

        Args:
            critic: the function to differentiate, if the update has not computed the gradients.
        """
        if of in self._gradients:
            return self._gradients[of]
        return gradients_by_logit(critic, *(self._real if of == "real" else self._fake))

    def logits_of(self, x: Float[Tensor, "n *shape"], labels: Labels) -> Logits:
        """Return D's logits [n] for other samples, after augmentation."""
        return self._discriminate_fake(self._augment(x), labels)[0]

    def draw_uniform(self, x: Float[Tensor, "n *shape"]) -> Float[Tensor, "n *ones"]:
        """Draw a number from U[0, 1) for each input of D among the samples x: for each sample, or each pack of samples.

        Returns:
            [n, 1, ..., 1], with as many dimensions as x; the samples of a pack have the same number.
        """
        draw = partial(torch.rand, dtype=x.dtype, device=x.device)
        u = own_rows(draw, [len(x)] + [1] * (x.dim() - 1))
        return u if self.packing == 1 else u[:: self.packing].repeat_interleave(self.packing, dim=0)

    def logits(self) -> dict[str, Tensor]:
        """Return D's logits by the tags under which they are logged."""
        return {"logits/real": self.real_logits.detach(), "logits/fake": self.fake_logits.detach()}

    @property
    def real_aux(self) -> Auxiliary:
        """D's auxiliary outputs for the real samples."""
        return self.real_output[1]

    @property
    def fake_aux(self) -> Auxiliary:
        """D's auxiliary outputs for the generated samples."""
        return self.fake_output[1]


def split_rows(
    logits: Float[Tensor, " both"], aux: Auxiliary, sizes: Sequence[int]
) -> tuple[DiscriminatorOutput, DiscriminatorOutput]:
    """Split D's output for real and generated samples into the two."""
    real_logits, fake_logits = torch.split_with_sizes(logits, list(sizes))
    parts = {name: torch.split_with_sizes(value, list(sizes)) for name, value in aux.items()}
    return (
        (real_logits, {name: real for name, (real, _) in parts.items()}),
        (fake_logits, {name: fake for name, (_, fake) in parts.items()}),
    )


class Regularizer:
    """A regularizer that does nothing; subclasses override the methods that they need.

    Draw the random numbers of each sample with seeding.own_rows, so that they do not depend on the number of processes,
    and one number for each input of D with batch.draw_uniform, so that it is the same for the samples of a pack.
    Keep state that changes from step to step in tensors and change it in place, so that updates can be captured as CUDA
    graphs.

    Attributes:
        every: 1: penalties are added to the player's loss at every update. k > 1: lazy regularization, where every k-th
            update of the player is followed by an optimizer step for k times the penalty (Karras 2020, StyleGAN2,
            appendix B).
        with_batch_norm: whether batch normalization in the critic is "fine", "doubtful" or "wrong" by theory.
        bounds_lipschitz: whether the regularizer bounds the critic's Lipschitz constant, which Wasserstein losses need.
        needs_gradients: the samples at which the penalty on D needs batch.gradients(...). If those of all samples are
            needed at every update, they come from the forward pass of the loss.
        schedulable: names of the numbers that a schedule may change; they can be floats or tensors on the device.
        couples_samples: whether the regularizer computes statistics over a batch; with accumulation they are those of
            each micro-batch.
        follows_fraction: whether it changes with clock.fraction, and so with the planned number of steps.
        needs_images: whether it applies only to images [n, c, h, w], not to vectors [n, d].
        needs_styles: whether it needs a generator with styles, such as StyleGAN2's.
    """

    every: int = 1
    with_batch_norm: ClassVar[Literal["fine", "doubtful", "wrong"]] = "fine"
    bounds_lipschitz: ClassVar[bool] = False
    needs_gradients: ClassVar[Literal["real", "fake"] | None] = None
    schedulable: ClassVar[tuple[str, ...]] = ()
    couples_samples: ClassVar[bool] = False
    follows_fraction: ClassVar[bool] = False
    needs_images: ClassVar[bool] = False
    needs_styles: ClassVar[bool] = False

    def perturb_real(self, x: Float[Tensor, "n *shape"], clock: Clock) -> Float[Tensor, "n *shape"]:
        """Return x, real samples, after a change that precedes `perturb`, such as dequantization."""
        return x

    def perturb(self, x: Float[Tensor, "n *shape"], clock: Clock) -> Float[Tensor, "n *shape"]:
        """Return x, real or generated samples, after a change that precedes the augmentation, such as noise."""
        return x

    def discriminator_penalty(self, critic: Critic, batch: UpdateBatch) -> Scalar | None:
        """Return the weighted penalty that is added to D's loss; None: there is none.

        Args:
            critic: the function to differentiate: augmentation, then D.
        """
        return None

    def generator_penalty(self, G: Callable[..., Tensor], draw: Draw, batch: UpdateBatch) -> Scalar | None:
        """Return the weighted penalty that is added to G's loss; None: there is none.

        Args:
            G: the generator, called with z, or with z and labels if it has `num_classes`.
            draw: draws new latents with labels.
        """
        return None

    def project(self, D: nn.Module) -> None:
        """Change D's weights in place after each optimizer step, for example by clipping them."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state that changes from step to step, as tensors and numbers; checkpoints contain it."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what state_dict returned."""


HOOKS = ("perturb_real", "perturb", "discriminator_penalty", "generator_penalty", "project")
"""The methods of Regularizer that the training calls; a regularizer that overrides none of them has no effect."""


def overrides(regularizer: Regularizer, method: str) -> bool:
    """Return whether the regularizer overrides `method`, one of HOOKS."""
    return getattr(type(regularizer), method) is not getattr(Regularizer, method)


def check_every(every: int) -> int:
    """Return the interval of a penalty, after checking it.

    Raises:
        ValueError: the interval is below 1.
    """
    if every < 1:
        raise ValueError(
            f"every={every}: the interval of a penalty must be at least 1 (1 is every update; 16 is usual for lazy R1)."
        )
    return every
