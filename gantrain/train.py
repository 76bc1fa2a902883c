"""The training algorithm, and the state that it changes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import gantrain.seeding as seeding
from gantrain.datasets.batches import Batch, Batches
from gantrain.datasets.labels import Labels
from gantrain.ema import EMA
from gantrain.game import Game, Objective
from gantrain.schedules.apply import Schedules
from gantrain.schedules.base import Clock
from gantrain.seeding import seed_everything
from gantrain.updates import Logs, Update, add_penalties, frozen, make_player, penalty_logs


@dataclass
class TrainState:
    """The state that changes during training, except that of regularizers, augmentations and callbacks.

    Attributes:
        G_ema: the exponential moving average (EMA) of the generator; None: no EMA.
        step: number of generator updates done.
        batches_seen: number of batches of real samples in the critic updates done.
        rollbacks: number of times that the run was rolled back after a divergence; the random numbers depend on it.
        lazy_logs: the last logs of lazy penalties, which are computed at an interval.
    """

    G: nn.Module
    D: nn.Module
    G_optimizer: Optimizer
    D_optimizer: Optimizer
    G_ema: nn.Module | None = None
    step: int = 0
    batches_seen: int = 0
    rollbacks: int = 0
    lazy_logs: Logs = field(default_factory=dict)

    @property
    def random_key(self) -> tuple[int | str, ...]:
        """Key of the random numbers of the next step, without the seed."""
        return ("step", self.step, "rollback", self.rollbacks) if self.rollbacks else ("step", self.step)


def train(
    state: TrainState,
    batches: Batches,
    latent: Callable[..., Tensor],
    objective: Objective,
    *,
    steps: int,
    n_critic: Callable[[int], int],
    seed: int,
    device: torch.device,
    first: Literal["discriminator", "generator"] = "discriminator",
    generator_batch_multiple: int = 1,
    fake_labels: Callable[[int, Labels], Labels] | None = None,
    schedules: Callable[[Clock], None] | None = None,
    accumulate: int = 1,
    ema: EMA | None = None,
    callbacks: Sequence[Callable[[TrainState, Logs], None]] = (),
    precision: Callable[[nn.Module], Callable[..., Tensor]] = lambda network: network,
    accelerate: Callable[[Update], Update] = lambda update: update,
) -> None:
    """Train D and G alternately until `steps` generator updates are done.

    With the Wasserstein loss and the gradient penalty this is Algorithm 1 of Gulrajani 2017; with weight clipping
    Algorithm 1 of Arjovsky 2017; with n_critic = 1 and the minimax loss Algorithm 1 of Goodfellow 2014; with the
    relativistic loss, R1 and R2 the training of Huang 2024 (R3GAN).

    Args:
        state: changed in place; training continues from its current step.
        latent: draws n latents.
        n_critic: returns the number of critic updates in a step.
        seed: the random numbers of a step depend only on the seed, the step and the number of rollbacks.
        first: the player that is updated first in each step.
        generator_batch_multiple: size of G's batch, as a multiple of D's.
        fake_labels: from (n, labels of the real batch or None) to labels of n generated samples; None: unconditional.
        schedules: sets scheduled numbers before each step; None: only rescales optimizers with lazy penalties.
        accumulate: number of micro-batches per batch; their gradients are averaged.
        callbacks: called after each step with the state and the logs; they do all input and output.
        precision: wraps a network, for example in autocast, except in the penalties.
        accelerate: wraps an update, for example to replay it as a CUDA graph.
    """
    rows = batches.batch_size // seeding.shard.world_size
    game = Game(
        state.G,
        state.D,
        objective,
        generator_rows=generator_batch_multiple * rows // accumulate,
        precision=precision,
        latent=latent,
        fake_labels=fake_labels,
        device=device,
    )
    schedules = schedules or Schedules(state, objective)

    def critic_loss(real: Batch, clock: Clock) -> tuple[Tensor, Logs]:
        batch = game.critic_batch(real, clock)
        D_loss = game.discriminator_loss(batch)
        penalties = game.discriminator_penalties(batch)
        logs = {"loss/discriminator": D_loss.detach(), **batch.logits(), **penalty_logs(penalties)}
        return add_penalties(D_loss, penalties), logs

    def generator_loss(real: Batch | None, clock: Clock) -> tuple[Tensor, Logs]:
        with frozen(state.D):
            batch = game.generator_batch(real, clock)
            G_loss = game.generator_loss(batch)
            penalties = game.generator_penalties(batch, real)
        return add_penalties(G_loss, penalties), {"loss/generator": G_loss.detach(), **penalty_logs(penalties)}

    make = partial(make_player, rows=rows, accumulate=accumulate, accelerate=accelerate)
    before, lazy = game.before_critic_step, game.lazy_discriminator_penalties()
    critic = make("critic", state.D_optimizer, critic_loss, lazy, before=before, after=game.after_critic_step)
    before, lazy = game.before_generator_step, game.lazy_generator_penalties()
    generator = make("generator", state.G_optimizer, generator_loss, lazy, before=before)
    real_for_generator = game.real_for_generator(batches, generator_batch_multiple)

    def update_critic(clock: Clock) -> Logs:
        for _ in range(n_critic(state.step)):
            real = batches[state.batches_seen]
            logs = critic(real, clock, count=state.batches_seen, lazy_logs=state.lazy_logs)
            state.batches_seen += 1
        return logs

    def update_generator(clock: Clock) -> Logs:
        return generator(real_for_generator(state.step), clock, count=state.step, lazy_logs=state.lazy_logs)

    turns = [update_critic, update_generator] if first == "discriminator" else [update_generator, update_critic]
    while state.step < steps:
        seed_everything(seed, *state.random_key, device=device)
        clock = Clock(state.step / steps, state.step * batches.batch_size)
        schedules(clock)

        logs = {tag: value for update in turns for tag, value in update(clock).items()}
        if ema is not None and state.G_ema is not None:
            ema.update(state.G_ema, state.G, num_images=batches.batch_size, images_seen=int(clock.images))
        state.step += 1

        logs |= state.lazy_logs
        for callback in callbacks:
            callback(state, logs)
