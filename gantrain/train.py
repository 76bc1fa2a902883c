"""The training algorithm, and the state that it changes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gantrain.datasets.batches import Batches
from gantrain.ema import EMA
from gantrain.losses.base import Logits, Loss
from gantrain.models.layers import has_batch_norm
from gantrain.regularizers.base import CriticBatch, Progress, Regularizer
from gantrain.seeding import seed_everything


@dataclass
class TrainState:
    """All that changes while training.

    Attributes:
        G_ema: the averaged generator, or None where no average is kept.
        step: generator updates done.
        batches_seen: batches of real samples shown to the critic.
        rollbacks: how often the training went back after a divergence; each time it goes on with other noise.
    """

    G: nn.Module
    D: nn.Module
    G_optimizer: Optimizer
    D_optimizer: Optimizer
    G_ema: nn.Module | None = None
    step: int = 0
    batches_seen: int = 0
    rollbacks: int = 0

    @property
    def noise_key(self) -> tuple[int | str, ...]:
        """What the random numbers of the step are a function of, besides the seed."""
        return ("step", self.step, "rollback", self.rollbacks) if self.rollbacks else ("step", self.step)


Observations = dict[str, Tensor | float]
"""What one step showed, by TensorBoard tag; a tensor of several numbers stands for their mean."""

Update = Callable[..., Observations]
"""An update of one player: takes tensors and the part of the training that is done, and changes the state."""


def train(
    state: TrainState,
    batches: Batches,
    latent: Callable[..., Tensor],
    loss: Loss,
    regularizers: dict[str, Regularizer],
    *,
    steps: int,
    n_critic: Callable[[int], int],
    seed: int,
    device: torch.device,
    ema: EMA | None = None,
    callbacks: Sequence[Callable[[TrainState, Observations], None]] = (),
    precision: Callable[[nn.Module], Callable[[Tensor], Tensor]] = lambda network: network,
    accelerate: Callable[[Update], Update] = lambda update: update,
) -> None:
    """Train D and G in turn until `steps` generator updates are done.

    With the Wasserstein loss and the gradient penalty this is Algorithm 1 of Gulrajani 2017; with weight clipping
    Algorithm 1 of Arjovsky 2017; with n_critic = 1 and the minimax loss Algorithm 1 of Goodfellow 2014.

    Args:
        state: changed in place, and continued from where it stands.
        latent: draws n codes.
        n_critic: critic updates before generator update number `step`.
        seed: every random number of a step is a function of it and the step's number.
        callbacks: called after each step; all input and output is theirs.
        precision: how a network is run, other than in the penalties.
        accelerate: how an update is run.
    """
    G, D = precision(state.G), precision(state.D)
    judge = judge_apart if has_batch_norm(state.D) else judge_together
    n = batches.batch_size

    @accelerate
    def update_critic(x: Tensor, progress: Progress) -> Observations:
        with torch.no_grad():
            x_fake = G(latent(n, device=device))
        real, fake = perturb(regularizers, x, progress), perturb(regularizers, x_fake, progress)

        real_logits, fake_logits = judge(D, real, fake)
        batch = CriticBatch(real, fake, real_logits, fake_logits, progress)
        D_loss = loss.discriminator(real_logits, fake_logits)
        penalties = {name: p for name, r in regularizers.items() if (p := r.penalty(state.D, batch)) is not None}

        descend(state.D_optimizer, sum(penalties.values(), start=D_loss))
        for regularizer in regularizers.values():
            regularizer.project(state.D)
        return {
            "loss/discriminator": D_loss.detach(),
            "logits/real": real_logits.detach(),
            "logits/fake": fake_logits.detach(),
            **{f"penalty/{name}": penalty.detach() for name, penalty in penalties.items()},
        }

    @accelerate
    def update_generator(progress: Progress) -> Observations:
        with frozen(state.D):
            x_fake = G(latent(n, device=device))
            G_loss = loss.generator(D(perturb(regularizers, x_fake, progress)))
            descend(state.G_optimizer, G_loss)
        return {"loss/generator": G_loss.detach()}

    while state.step < steps:
        seed_everything(seed, *state.noise_key, device=device)
        progress = state.step / steps

        for _ in range(n_critic(state.step)):
            critic_shows = update_critic(batches[state.batches_seen], progress)
            state.batches_seen += 1
        generator_shows = update_generator(progress)
        if ema is not None and state.G_ema is not None:
            ema.update(state.G_ema, state.G, num_images=n)
        state.step += 1

        observations = critic_shows | generator_shows
        for callback in callbacks:
            callback(state, observations)


def judge_together(D: Callable[[Tensor], Logits], real: Tensor, fake: Tensor) -> tuple[Logits, Logits]:
    """Score real [n, ...] and fake [n, ...] in one forward pass, which is faster than two."""
    real_logits, fake_logits = torch.split_with_sizes(D(torch.cat([real, fake])), [len(real), len(fake)])
    return real_logits, fake_logits


def judge_apart(D: Callable[[Tensor], Logits], real: Tensor, fake: Tensor) -> tuple[Logits, Logits]:
    """Score real and fake in a pass each, so that batch normalization sees one kind at a time (Radford 2016)."""
    return D(real), D(fake)


def perturb(regularizers: dict[str, Regularizer], x: Tensor, progress: Progress) -> Tensor:
    """Pass what D is to be shown through every regularizer."""
    for regularizer in regularizers.values():
        x = regularizer.perturb(x, progress)
    return x


def descend(optimizer: Optimizer, loss: Tensor) -> None:
    """Take one step of the optimizer down the gradient of the loss."""
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Let gradients pass through the module without computing those of its parameters."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
