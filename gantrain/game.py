"""How samples are drawn, shown to D and judged: what the updates of both players share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gantrain.augment.base import Augment
from gantrain.datasets.batches import Batch, Batches, joined_batches
from gantrain.losses.base import Logits, Loss, RelativisticLoss, sees_real
from gantrain.models.calling import judged, takes_labels
from gantrain.models.layers import couples_samples
from gantrain.models.spectral_norm import iterate_spectral_norms
from gantrain.regularizers.base import Auxiliary, Critic, Draw, Labels, Regularizer, UpdateBatch, overrides
from gantrain.schedules.base import Clock
from gantrain.seeding import own_rows, whole_batch
from gantrain.updates import Logs, LossOf, frozen, nothing

Verdict = tuple[Logits, Auxiliary]
"""D's logits and auxiliary outputs."""


@dataclass(frozen=True)
class Objective:
    """What is optimized: a loss, regularizers by name, and the augmentations through which D sees every sample."""

    loss: Loss | RelativisticLoss
    regularizers: dict[str, Regularizer] = field(default_factory=dict)
    augment: dict[str, Augment] = field(default_factory=dict)


class Game:
    """Draws samples, has D judge them, and adds up what the regularizers ask for.

    Args:
        generator_rows: samples that G makes at a time in its own update.
        precision: how the networks are run, other than in the penalties.
        latent: draws n latents.
        fake_labels: from (n, the real batch's labels) to labels for n generated samples; None: unconditional.
    """

    def __init__(
        self,
        G: nn.Module,
        D: nn.Module,
        objective: Objective,
        *,
        generator_rows: int,
        precision: Callable[[nn.Module], Callable[..., Any]],
        latent: Callable[..., Tensor],
        fake_labels: Callable[[int, Labels], Labels] | None,
        device: torch.device,
    ):
        self.G_module, self.D_module, self.objective = G, D, objective
        self.G, self.D = precision(G), precision(D)
        self.G_takes_labels, self.D_takes_labels = takes_labels(G), takes_labels(D)
        self.latent, self.fake_labels, self.device = latent, fake_labels, device
        self.generator_rows = generator_rows
        self.generator_sees_real = sees_real(objective.loss)
        # Labels "as in the real batch" are those of a batch of G's own.
        self.generator_needs_real = self.generator_sees_real or getattr(fake_labels, "needs_real", False)
        self.judge_both = self.judge_apart if couples_samples(D) else self.judge_together

    def draw(self, n: int, real_labels: Labels = None) -> tuple[Tensor, Labels]:
        """Draw n latents, with labels where the networks are conditional."""
        z = own_rows(lambda shape: self.latent(shape[0], device=self.device), [n])
        return z, None if self.fake_labels is None else self.fake_labels(n, real_labels)

    def generate(self, n: int, real_labels: Labels = None) -> tuple[Tensor, Labels]:
        """Make n samples with their labels."""
        z, y = self.draw(n, real_labels)
        return self.make(z, y), y

    def make(self, z: Tensor, y: Labels) -> Tensor:
        """Pass latents through G, with labels if it takes them."""
        x: Tensor = self.G(z, y) if self.G_takes_labels else self.G(z)
        return x

    def perturb(self, x: Tensor, clock: Clock) -> Tensor:
        """Pass a sample through every regularizer that changes what D is given."""
        for regularizer in self.objective.regularizers.values():
            x = regularizer.perturb(x, clock)
        return x

    def augment(self, x: Tensor, clock: Clock) -> Tensor:
        """Pass a sample through every augmentation, in the order given."""
        for augment in self.objective.augment.values():
            x = augment(x, clock)
        return x

    def judge(self, x: Tensor, y: Labels) -> Verdict:
        """Pass shown samples through D, with labels if it takes them."""
        return judged(self.D(x, y) if self.D_takes_labels else self.D(x))

    def critic(self, clock: Clock) -> Critic:
        """Return D with the augmentation before it, in full precision: what penalties differentiate."""

        def critic(x: Tensor, y: Labels) -> Logits:
            shown = self.augment(x, clock)
            return judged(self.D_module(shown, y) if self.D_takes_labels else self.D_module(shown))[0]

        return critic

    def batch(
        self, clock: Clock, *, real: Callable[[], tuple[Tensor, Labels]], fake: Callable[[], tuple[Tensor, Labels]]
    ) -> UpdateBatch:
        """Put together the samples of an update; they are made and judged when first asked for."""

        def perturbed(source: Callable[[], tuple[Tensor, Labels]]) -> Callable[[], tuple[Tensor, Labels]]:
            def get() -> tuple[Tensor, Labels]:
                x, y = source()
                return self.perturb(x, clock), y

            return get

        return UpdateBatch(
            clock,
            real=perturbed(real),
            fake=perturbed(fake),
            augment=lambda x: self.augment(x, clock),
            judge=self.judge,
        )

    def generate_detached(self, real: Batch) -> tuple[Tensor, Labels]:
        """Make as many samples as there are real ones, without gradients to G."""
        with torch.no_grad():
            return self.generate(len(real.x), real.y)

    def critic_batch(self, real: Batch, clock: Clock) -> UpdateBatch:
        """Put together the samples of an update of D, which begins by drawing the generated ones."""
        fake = self.generate_detached(real)
        return self.batch(clock, real=lambda: real, fake=lambda: fake)

    def real_for_generator(self, batches: Batches, multiple: int) -> Callable[[int], Batch | None]:
        """Return what brings the real samples of G's update at a step, from a sequence of their own; None: no need."""
        if not self.generator_needs_real:
            return nothing
        own = batches.for_generator()
        return lambda step: joined_batches(own, step, num=multiple)

    def generator_batch(self, real: Batch | None, clock: Clock) -> UpdateBatch:
        """Put together the samples of an update of G."""
        fake = self.generate(self.generator_rows, None if real is None else real.y)
        return self.batch(clock, real=lambda: required(real), fake=lambda: fake)

    def judge_apart(self, batch: UpdateBatch) -> tuple[Logits, Logits]:
        """Judge real and generated samples in a pass each, so that BatchNorm sees one kind at a time (Radford 2016)."""
        batch.real_judged = self.judge(batch.real_shown, batch.labels)
        batch.fake_judged = self.judge(batch.fake_shown, batch.fake_labels)
        return batch.real_logits, batch.fake_logits

    def judge_together(self, batch: UpdateBatch) -> tuple[Logits, Logits]:
        """Judge real and generated samples in one forward pass, which is faster than two."""
        real, fake = batch.real_shown, batch.fake_shown
        pairs = (batch.labels, batch.fake_labels)
        labels = torch.cat([y for y in pairs if y is not None]) if self.D_takes_labels else None
        logits, aux = self.judge(torch.cat([real, fake]), labels)
        batch.real_judged, batch.fake_judged = split(logits, aux, [len(real), len(fake)])
        return batch.real_logits, batch.fake_logits

    def generator_loss(self, batch: UpdateBatch) -> Tensor:
        """Compute G's loss; only a loss that compares with real samples has them judged."""
        if not self.generator_sees_real:
            return cast(Loss, self.objective.loss).generator(batch.fake_logits)
        real_logits, fake_logits = self.judge_both(batch)
        return cast(RelativisticLoss, self.objective.loss).generator(fake_logits, real_logits)

    def discriminator_penalties(self, batch: UpdateBatch) -> dict[str, Tensor]:
        """Compute the penalties that join D's loss, by regularizer."""
        made = {
            name: regularizer.discriminator_penalty(self.critic(batch.clock), batch)
            for name, regularizer in self.objective.regularizers.items()
            if regularizer.every == 1
        }
        return {name: penalty for name, penalty in made.items() if penalty is not None}

    def drawing(self, real: Batch | None) -> Draw:
        """Return what draws latents for a penalty on G, fewer than there are real samples if these give the labels."""

        def draw(n: int) -> tuple[Tensor, Labels]:
            y = None if real is None else real.y
            # Evenly spaced, so that every process and micro-batch takes the same part of its rows.
            return self.draw(n, y if y is None or n >= len(y) else y[:: len(y) // n][:n])

        return draw

    def generator_penalties(self, batch: UpdateBatch, real: Batch | None) -> dict[str, Tensor]:
        """Compute the penalties that join G's loss, by regularizer."""
        made = {
            f"{name}_generator": regularizer.generator_penalty(self.G_module, self.drawing(real), batch)
            for name, regularizer in self.objective.regularizers.items()
            if regularizer.every == 1
        }
        return {name: penalty for name, penalty in made.items() if penalty is not None}

    def lazy_discriminator_penalties(self) -> dict[str, tuple[int, LossOf]]:
        """Return the penalties on D that have an interval, by regularizer: the interval, and the penalty times it."""

        def make(name: str, regularizer: Regularizer) -> LossOf:
            def lazy_loss(real: Batch | None, clock: Clock) -> tuple[Tensor, Logs]:
                known = required(real)
                batch = self.batch(clock, real=lambda: known, fake=lambda: self.generate_detached(known))
                penalty = given(regularizer.discriminator_penalty(self.critic(clock), batch), name)
                return regularizer.every * penalty, {f"penalty/{name}": penalty.detach()}

            return lazy_loss

        return {name: (r.every, make(name, r)) for name, r in lazy(self.objective, "discriminator_penalty").items()}

    def lazy_generator_penalties(self) -> dict[str, tuple[int, LossOf]]:
        """Return the penalties on G that have an interval, by regularizer: the interval, and the penalty times it."""

        def make(name: str, regularizer: Regularizer) -> LossOf:
            def lazy_loss(real: Batch | None, clock: Clock) -> tuple[Tensor, Logs]:
                y = None if real is None else real.y
                with frozen(self.D_module):
                    batch = self.batch(
                        clock, real=lambda: required(real), fake=lambda: self.generate(self.generator_rows, y)
                    )
                    penalty = regularizer.generator_penalty(self.G_module, self.drawing(real), batch)
                penalty = given(penalty, name)
                return regularizer.every * penalty, {f"penalty/{name}_generator": penalty.detach()}

            return lazy_loss

        return {name: (r.every, make(name, r)) for name, r in lazy(self.objective, "generator_penalty").items()}

    def before_critic_step(self) -> None:
        """Make one power iteration of D's spectral norms."""
        iterate_spectral_norms(self.D_module)

    def before_generator_step(self) -> None:
        """Make one power iteration of G's spectral norms."""
        iterate_spectral_norms(self.G_module)

    def after_critic_step(self, logs: Sequence[Logs]) -> None:
        """Project D's weights, and show the augmentations what D says of real samples."""
        for regularizer in self.objective.regularizers.values():
            regularizer.project(self.D_module)
        judged_real = [cast(Tensor, part["logits/real"]) for part in logs if "logits/real" in part]
        if self.objective.augment and judged_real:
            real_logits = whole_batch(torch.cat(judged_real))
            for augment in self.objective.augment.values():
                augment.observe(real_logits)


def lazy(objective: Objective, method: str) -> dict[str, Regularizer]:
    """List the regularizers that have a penalty of this kind with an interval of its own."""
    return {name: r for name, r in objective.regularizers.items() if r.every > 1 and overrides(r, method)}


def required(real: Batch | None) -> Batch:
    """Return the real samples of an update of G.

    Raises:
        ValueError: the loss takes none, and a penalty asks for them.
    """
    if real is None:
        raise ValueError(
            "a penalty on the generator reads real samples, which only a loss with generator_sees_real = True brings."
        )
    return real


def given(penalty: Tensor | None, name: str) -> Tensor:
    """Return a penalty that has an interval of its own.

    Raises:
        ValueError: there is none, where every update of the phase needs one.
    """
    if penalty is None:
        raise ValueError(f"regularizer={name} with an interval (every > 1) returned no penalty; use every=1.")
    return penalty


def split(logits: Float[Tensor, " both"], aux: Auxiliary, sizes: Sequence[int]) -> tuple[Verdict, Verdict]:
    """Cut D's outputs for real and generated samples apart."""
    real_logits, fake_logits = torch.split_with_sizes(logits, list(sizes))
    parts = {name: torch.split_with_sizes(value, list(sizes)) for name, value in aux.items()}
    return (
        (real_logits, {name: real for name, (real, _) in parts.items()}),
        (fake_logits, {name: fake for name, (_, fake) in parts.items()}),
    )
