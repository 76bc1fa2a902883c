"""Draw samples, pass them through D, and compute losses and penalties: what the updates of D and G share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gantrain.augment.base import Augment
from gantrain.datasets.batches import Batch, Batches, joined_batches
from gantrain.datasets.labels import Labels
from gantrain.losses.base import Logits, Loss, RelativisticLoss, sees_real
from gantrain.models.interface import heads_of, run_for_logits, split_output, takes_labels, without_decoding
from gantrain.models.layers import couples_samples
from gantrain.models.spectral_norm import iterate_spectral_norms
from gantrain.regularizers.base import (
    Auxiliary,
    Critic,
    DiscriminatorOutput,
    Draw,
    Regularizer,
    UpdateBatch,
    overrides,
)
from gantrain.schedules.base import Clock
from gantrain.seeding import own_rows, whole_batch
from gantrain.updates import Logs, LossFunction, frozen, no_op, total


@dataclass(frozen=True)
class Objective:
    """What is optimized: a loss, regularizers by name, and augmentations of all samples shown to D, by name."""

    loss: Loss | RelativisticLoss
    regularizers: dict[str, Regularizer] = field(default_factory=dict)
    augment: dict[str, Augment] = field(default_factory=dict)

    def augmented(self, x: Tensor, clock: Clock) -> Tensor:
        """Apply all augmentations, in the order of the config."""
        for augment in self.augment.values():
            x = augment(x, clock)
        return x


class Game:
    """The two-player game: makes the batches of both players' updates, and computes their losses and penalties.

    Args:
        generator_rows: number of samples in a micro-batch of G's update.
        precision: wraps a network, for example in autocast, except in the penalties.
        latent: draws n latents.
        fake_labels: from (n, the real batch's labels) to labels of n generated samples; None: unconditional.
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
        self.adaptive_augments = [a for a in objective.augment.values() if a.observes()]
        self.generator_sees_real = sees_real(objective.loss)
        # With fake_labels=real, G's update needs the labels of a real batch.
        self.generator_needs_real = self.generator_sees_real or getattr(fake_labels, "needs_real", False)
        self.heads, self.fake_options = heads_of(D), without_decoding(D)
        self.is_joint = not couples_samples(D) and not self.fake_options
        gradients = {r.needs_gradients for r in objective.regularizers.values() if r.every == 1}
        # Penalties are never computed in bf16, so beside it they need forward passes of their own.
        self.shares_pass = self.D is D and gradients >= {"real", "fake"}

    def draw(self, n: int, real_labels: Labels = None) -> tuple[Tensor, Labels]:
        """Draw n latents, and labels for them if a network is conditional."""
        z = own_rows(lambda shape: self.latent(shape[0], device=self.device), [n])
        return z, None if self.fake_labels is None else self.fake_labels(n, real_labels)

    def generate(self, n: int, real_labels: Labels = None) -> tuple[Tensor, Labels]:
        """Generate n samples; return them with their labels."""
        z, y = self.draw(n, real_labels)
        return self.run_generator(z, y), y

    def run_generator(self, z: Tensor, y: Labels) -> Tensor:
        """Pass latents through G, with labels if it takes them."""
        x: Tensor = self.G(z, y) if self.G_takes_labels else self.G(z)
        return x

    def perturb_real(self, x: Tensor, clock: Clock) -> Tensor:
        """Apply the perturbations of real samples only, such as dequantization, and then those of all samples."""
        for regularizer in self.objective.regularizers.values():
            x = regularizer.perturb_real(x, clock)
        return self.perturb(x, clock)

    def perturb(self, x: Tensor, clock: Clock) -> Tensor:
        """Apply the perturbations of all regularizers, such as input noise."""
        for regularizer in self.objective.regularizers.values():
            x = regularizer.perturb(x, clock)
        return x

    def run_discriminator(self, x: Tensor, y: Labels, **options: Any) -> DiscriminatorOutput:
        """Pass augmented samples through D, with labels if it takes them."""
        return split_output(self.D(x, y, **options) if self.D_takes_labels else self.D(x, **options))

    def discriminate_fake(self, x: Tensor, y: Labels) -> DiscriminatorOutput:
        """Pass augmented generated samples through D, which reconstructs only real ones."""
        return self.run_discriminator(x, y, **self.fake_options)

    def critic(self, clock: Clock) -> Critic:
        """Return the function that penalties differentiate: augmentation, then D, in full precision."""

        def critic(x: Tensor, y: Labels) -> Logits:
            return run_for_logits(self.D_module, self.objective.augmented(x, clock), y)

        return critic

    def batch(
        self,
        clock: Clock,
        *,
        real: Callable[[], tuple[Tensor, Labels]],
        fake: Callable[[], tuple[Tensor, Labels]],
        num_fake: int,
    ) -> UpdateBatch:
        """Make the batch of an update; its samples and logits are computed at their first use."""

        def perturbed_real() -> tuple[Tensor, Labels]:
            x, y = real()
            return self.perturb_real(x, clock), y

        def perturbed_fake() -> tuple[Tensor, Labels]:
            x, y = fake()
            return self.perturb(x, clock), y

        return UpdateBatch(
            clock,
            real=perturbed_real,
            fake=perturbed_fake,
            augment=lambda x: self.objective.augmented(x, clock),
            discriminate=self.run_discriminator,
            discriminate_fake=self.discriminate_fake,
            packing=getattr(self.D_module, "packing", 1),
            num_fake=num_fake,
        )

    def generate_detached(self, real: Batch) -> tuple[Tensor, Labels]:
        """Generate as many samples as there are real ones, without gradients to G."""
        with torch.no_grad():
            return self.generate(len(real.x), real.y)

    def critic_batch(self, real: Batch, clock: Clock) -> UpdateBatch:
        """Make the batch of an update of D; samples are generated now, everything else is computed at first use."""
        fake = self.generate_detached(real)
        return self.batch(clock, real=lambda: real, fake=lambda: fake, num_fake=len(real.x))

    def real_for_generator(self, batches: Batches, multiple: int) -> Callable[[int], Batch | None]:
        """Return a function from the step to the real samples for G's update, which come in an order of their own.

        The function returns None if G's update needs no real samples.
        """
        if not self.generator_needs_real:
            return no_op
        generator_batches = batches.for_generator()
        return lambda step: joined_batches(generator_batches, step, num=multiple)

    def generator_batch(self, real: Batch | None, clock: Clock) -> UpdateBatch:
        """Make the batch of an update of G; samples are generated now, everything else is computed at first use."""
        fake = self.generate(self.generator_rows, None if real is None else real.y)
        return self.batch(clock, real=lambda: require_real(real), fake=lambda: fake, num_fake=self.generator_rows)

    def both_logits(self, batch: UpdateBatch) -> tuple[Logits, Logits]:
        """Compute real and generated logits, in a single forward pass if D does not couple samples.

        Otherwise BatchNorm would mix real with generated ones (Radford 2016).
        """
        if self.is_joint:
            batch.compute_jointly()
        return batch.real_logits, batch.fake_logits

    def head_logits(self, logits: Logits, aux: Auxiliary) -> list[Float[Tensor, " _"]]:
        """Return the logits of each of D's heads, [n] for a single one, or else [n * k]."""
        return [aux[name].flatten() for name in self.heads] or [logits]

    def discriminator_loss(self, batch: UpdateBatch) -> Tensor:
        """Compute D's loss, the sum over its heads."""
        if self.shares_pass:
            batch.compute_with_gradients(lambda: self.both_logits(batch))
        else:
            self.both_logits(batch)
        real, fake = self.head_logits(*batch.real_output), self.head_logits(*batch.fake_output)
        return total(map(self.objective.loss.discriminator, real, fake))

    def generator_loss(self, batch: UpdateBatch) -> Tensor:
        """Compute G's loss, the sum over D's heads; D's logits of real samples are computed only if it needs them."""
        if not self.generator_sees_real:
            return total(map(cast(Loss, self.objective.loss).generator, self.head_logits(*batch.fake_output)))
        self.both_logits(batch)
        real, fake = self.head_logits(*batch.real_output), self.head_logits(*batch.fake_output)
        return total(map(cast(RelativisticLoss, self.objective.loss).generator, fake, real))

    def discriminator_penalties(self, batch: UpdateBatch) -> dict[str, Tensor]:
        """Compute the penalties that are added to D's loss at every update, by regularizer."""
        penalties = {
            name: regularizer.discriminator_penalty(self.critic(batch.clock), batch)
            for name, regularizer in self.objective.regularizers.items()
            if regularizer.every == 1
        }
        return {name: penalty for name, penalty in penalties.items() if penalty is not None}

    def make_draw(self, real: Batch | None) -> Draw:
        """Return a function that draws n latents with labels for a penalty on G.

        With fake_labels=real, the labels are those of the real samples, so n can be at most their number.
        """

        def draw(n: int) -> tuple[Tensor, Labels]:
            y = None if real is None else real.y
            # Evenly spaced, so that every process and micro-batch uses the same fraction of its labels.
            return self.draw(n, y if y is None or n >= len(y) else y[:: len(y) // n][:n])

        return draw

    def generator_penalties(self, batch: UpdateBatch, real: Batch | None) -> dict[str, Tensor]:
        """Compute the penalties that are added to G's loss at every update, by tag."""
        penalties = {
            f"{name}_generator": regularizer.generator_penalty(self.G_module, self.make_draw(real), batch)
            for name, regularizer in self.objective.regularizers.items()
            if regularizer.every == 1
        }
        return {name: penalty for name, penalty in penalties.items() if penalty is not None}

    def lazy_discriminator_penalties(self) -> dict[str, tuple[int, LossFunction]]:
        """Return the lazy penalties on D by regularizer: interval, and function that computes the penalty times it."""

        def make(name: str, regularizer: Regularizer) -> LossFunction:
            def lazy_loss(real: Batch | None, clock: Clock) -> tuple[Tensor, Logs]:
                real_batch = require_real(real)
                batch = self.batch(
                    clock,
                    real=lambda: real_batch,
                    fake=lambda: self.generate_detached(real_batch),
                    num_fake=len(real_batch.x),
                )
                penalty = require_penalty(regularizer.discriminator_penalty(self.critic(clock), batch), name)
                return regularizer.every * penalty, {f"penalty/{name}": penalty.detach()}

            return lazy_loss

        regularizers = lazy_regularizers(self.objective, "discriminator_penalty")
        return {name: (r.every, make(name, r)) for name, r in regularizers.items()}

    def lazy_generator_penalties(self) -> dict[str, tuple[int, LossFunction]]:
        """Return the lazy penalties on G by regularizer: interval, and function that computes the penalty times it."""

        def make(name: str, regularizer: Regularizer) -> LossFunction:
            def lazy_loss(real: Batch | None, clock: Clock) -> tuple[Tensor, Logs]:
                y = None if real is None else real.y
                with frozen(self.D_module):
                    batch = self.batch(
                        clock,
                        real=lambda: require_real(real),
                        fake=lambda: self.generate(self.generator_rows, y),
                        num_fake=self.generator_rows,
                    )
                    penalty = regularizer.generator_penalty(self.G_module, self.make_draw(real), batch)
                penalty = require_penalty(penalty, name)
                return regularizer.every * penalty, {f"penalty/{name}_generator": penalty.detach()}

            return lazy_loss

        regularizers = lazy_regularizers(self.objective, "generator_penalty")
        return {name: (r.every, make(name, r)) for name, r in regularizers.items()}

    def before_critic_step(self) -> None:
        """Make one step of the power iteration for D's spectral norms."""
        iterate_spectral_norms(self.D_module)

    def before_generator_step(self) -> None:
        """Make one step of the power iteration for G's spectral norms."""
        iterate_spectral_norms(self.G_module)

    def after_critic_step(self, logs: Sequence[Logs]) -> None:
        """Project D's weights (weight clipping), and pass D's logits of real samples to adaptive augmentations."""
        for regularizer in self.objective.regularizers.values():
            regularizer.project(self.D_module)
        parts = [cast(Tensor, part["logits/real"]) for part in logs if "logits/real" in part]
        if self.adaptive_augments and parts:
            real_logits = whole_batch(torch.cat(parts))
            for augment in self.adaptive_augments:
                augment.observe(real_logits)


def lazy_regularizers(objective: Objective, method: str) -> dict[str, Regularizer]:
    """Return the regularizers with a lazy penalty: "discriminator_penalty" or "generator_penalty"."""
    return {name: r for name, r in objective.regularizers.items() if r.every > 1 and overrides(r, method)}


def require_real(real: Batch | None) -> Batch:
    """Return the real samples of an update.

    Raises:
        ValueError: a penalty on G uses real samples, but the update has none.
    """
    if real is None:
        raise ValueError(
            "a penalty on the generator uses real samples, but its update has none; choose a loss with "
            "generator_sees_real = True, for example loss=relativistic."
        )
    return real


def require_penalty(penalty: Tensor | None, name: str) -> Tensor:
    """Return a lazy penalty.

    Raises:
        ValueError: it is None, so there is nothing to optimize in its step.
    """
    if penalty is None:
        raise ValueError(
            f"regularizer={name}: a lazy penalty (every > 1) must not be None; return a tensor, or set every=1."
        )
    return penalty
