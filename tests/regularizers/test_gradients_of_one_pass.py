"""R1 and R2 together take their gradients from the forward pass of the loss, with the same result."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gantrain.augment.base import Augment
from gantrain.augment.diffaugment import DiffAugment
from gantrain.datasets.batches import Batch
from gantrain.engine.runtime import Runtime
from gantrain.game import Game, Objective
from gantrain.losses.relativistic import Relativistic
from gantrain.models import dcgan, projection_cnn, stylegan2
from gantrain.models.layers import couples_samples
from gantrain.models.packing import pack
from gantrain.regularizers.base import Regularizer
from gantrain.regularizers.r1 import R1
from gantrain.regularizers.r2 import R2
from gantrain.schedules.base import Clock

CPU = torch.device("cpu")
CLOCK = Clock(0.0, 0)
SHAPE = (3, 16, 16)


def convolutional() -> nn.Module:
    return dcgan.Discriminator(SHAPE, bias="all", **PLAIN | {"norm": "spectral"})


def conditional() -> nn.Module:
    return projection_cnn.Discriminator(SHAPE, num_classes=3, embedding_std=0.03, **PLAIN)


def with_minibatch_std() -> nn.Module:
    options: dict[str, Any] = {"architecture": "resnet", "full_width_until": 4, "num_bf16_stages": 0, "clamp": None}
    return stylegan2.Discriminator(SHAPE, width=4, minibatch_group=4, **options)


def packed() -> nn.Module:
    return pack(lambda shape: dcgan.Discriminator(shape, bias="all", **PLAIN), SHAPE, 2)


PLAIN: dict[str, Any] = {
    "width": 4,
    "norm": "none",
    "activation": "leaky_relu",
    "slope": 0.2,
    "init": "default",
}


def plain() -> nn.Module:
    return dcgan.Discriminator(SHAPE, bias="all", **PLAIN)


class Generated(nn.Module):
    """A generator whose latents are its images."""

    def forward(self, z: Tensor) -> Tensor:
        return z


def game_of(
    D: nn.Module, regularizers: dict[str, Regularizer], augment: dict[str, Augment], precision: Any = lambda D: D
) -> Game:
    options: dict[str, Any] = {"generator_rows": 4, "precision": precision, "device": CPU}
    latent = lambda n, device: torch.randn(n, *SHAPE, dtype=next(D.parameters()).dtype)  # noqa: E731
    labels = (lambda n, y: y) if getattr(D, "num_classes", None) else None
    return Game(
        Generated(), D, Objective(Relativistic(), regularizers, augment), latent=latent, fake_labels=labels, **options
    )


def r1_and_r2(every: int = 1) -> dict[str, Regularizer]:
    return {"r1": R1(gamma=3.0, every=every), "r2": R2(gamma=0.5, every=every)}


def real_batch(D: nn.Module) -> Batch:
    torch.manual_seed(1)
    x = torch.randn(4, *SHAPE, dtype=next(D.parameters()).dtype)
    return Batch(x, torch.tensor([0, 1, 2, 2]) if getattr(D, "num_classes", None) else None)


def results(game: Game, D: nn.Module) -> list[Tensor]:
    """Return the loss, the penalties, and the gradients of all parameters."""
    D.zero_grad()
    real = real_batch(D)
    torch.manual_seed(2)
    batch = game.critic_batch(real, CLOCK)
    loss = game.discriminator_loss(batch)
    torch.manual_seed(3)  # the same augmentation in passes of their own
    penalties = game.discriminator_penalties(batch)
    (loss + sum(penalties.values())).backward()
    return [loss, *penalties.values(), *(p.grad for p in D.parameters())]


class Shear(Augment):
    """An augmentation without random numbers, through which gradients change."""

    def __call__(self, x: Tensor, clock: Clock) -> Tensor:
        return x + 0.5 * x.roll(1, -1).square()


@pytest.mark.parametrize("make", [convolutional, conditional, with_minibatch_std, packed], ids=lambda f: f.__name__)
@pytest.mark.parametrize("augment", [{}, {"shear": Shear()}], ids=["plain", "augmented"])
def test_one_pass_gives_the_loss_penalties_and_gradients_of_passes_of_their_own(
    make: Callable[[], nn.Module], augment: dict[str, Augment]
) -> None:
    torch.manual_seed(0)
    D = make().double()
    game = game_of(D, r1_and_r2(), augment)
    assert game.shares_pass
    assert game.is_joint == (not couples_samples(D))
    found = results(game, D)
    game.shares_pass = False
    expected = results(game, D)
    assert found[1] > 0
    assert found[2] > 0
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-14)


def passes(game: Game, D: nn.Module) -> list[int]:
    """Return the numbers of samples of D's forward passes in an update."""
    seen: list[int] = []
    hook = D.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    results(game, D)
    hook.remove()
    return seen


def test_r1_and_r2_cost_no_forward_pass_of_their_own() -> None:
    D = plain()
    assert passes(game_of(D, r1_and_r2(), {}), D) == [8]


def test_one_penalty_alone_another_interval_and_another_precision_have_passes_of_their_own() -> None:
    D = plain()
    assert passes(game_of(D, {"r1": R1(gamma=1.0, every=1)}, {}), D) == [8, 4]
    assert passes(game_of(D, r1_and_r2(every=4), {}), D) == [8]
    runtime = Runtime(device=CPU, precision="bf16")
    assert passes(game_of(D, r1_and_r2(), {}, precision=runtime.run), D) == [8, 4, 4]


def test_penalties_see_the_augmentation_of_the_loss() -> None:
    """They are those of the logits in the loss: no other numbers are drawn for them."""
    D = plain()
    augment = DiffAugment(policy=["translation", "cutout"], strength=1.0)
    game = game_of(D, r1_and_r2(), {"diffaugment": augment})
    batch = game.critic_batch(real_batch(D), CLOCK)
    game.discriminator_loss(batch)
    before = torch.get_rng_state()
    penalties = game.discriminator_penalties(batch)
    assert torch.equal(torch.get_rng_state(), before)
    cut = batch.gradients("real", game.critic(CLOCK)).view_as(batch.real) == 0
    assert cut.float().mean() > 0.05, "the gradient at pixels that were cut out is 0"
    assert set(penalties) == {"r1", "r2"}


def test_samples_need_no_gradient_after_the_pass() -> None:
    D = plain()
    game = game_of(D, r1_and_r2(), {})
    batch = game.critic_batch(real_batch(D), CLOCK)
    game.discriminator_loss(batch)
    assert not batch.real.requires_grad
    assert not batch.fake.requires_grad
