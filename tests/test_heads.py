"""A discriminator with several heads is trained by the sum of the losses over them."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gantrain.datasets.batches import Batch
from gantrain.game import Game, Objective
from gantrain.losses.hinge import Hinge
from gantrain.losses.nonsaturating import NonSaturating
from gantrain.losses.ralsgan import RelativisticAverageLeastSquares
from gantrain.losses.relativistic import Relativistic
from gantrain.regularizers.base import Auxiliary
from gantrain.schedules.base import Clock
from gantrain.updates import frozen

CPU, CLOCK = torch.device("cpu"), Clock(0.0, 0)


class TwoHeads(nn.Module):
    """Logits of two linear heads, and a reconstruction if it is asked for."""

    heads = ("wide", "narrow")

    def __init__(self, has_decoder: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.wide, self.narrow, self.has_decoder = nn.Linear(4, 3), nn.Linear(4, 1), has_decoder
        self.decoded: list[int] = []

    def forward(self, x: Tensor, *, decode: bool = True) -> tuple[Tensor, Auxiliary]:
        if decode:
            self.decoded.append(len(x))
        outputs = {"wide": self.wide(x), "narrow": self.narrow(x)}
        return torch.cat([*outputs.values()], 1).mean(1), outputs | ({"reconstruction": x} if decode else {})


def game(D: TwoHeads, loss: Any) -> Game:
    torch.manual_seed(1)
    return Game(
        *(nn.Linear(2, 4), D, Objective(loss)),
        generator_rows=5,
        precision=lambda network: network,
        latent=lambda n, device: torch.randn(n, 2),
        fake_labels=None,
        device=CPU,
    )


@pytest.mark.parametrize("has_decoder", [False, True])
@pytest.mark.parametrize(
    "loss",
    [Hinge(), NonSaturating(), Relativistic(), RelativisticAverageLeastSquares()],
    ids=lambda loss: type(loss).__name__,
)
def test_losses_are_summed_over_heads(loss: Any, has_decoder: bool) -> None:
    D = TwoHeads(has_decoder)
    played, real = game(D, loss), Batch(torch.randn(5, 4))
    batch = played.critic_batch(real, CLOCK)
    value = played.discriminator_loss(batch)
    heads = [(head(batch.real).flatten(), head(batch.fake).flatten()) for head in (D.wide, D.narrow)]
    torch.testing.assert_close(value, sum(loss.discriminator(*logits) for logits in heads))
    torch.testing.assert_close(batch.real_logits, torch.cat([D.wide(real.x), D.narrow(real.x)], 1).mean(1))

    with frozen(D):
        batch = played.generator_batch(real, CLOCK)
        value = played.generator_loss(batch)
    fakes = [head(batch.fake).flatten() for head in (D.wide, D.narrow)]
    if getattr(loss, "generator_sees_real", False):
        reals = [head(real.x).flatten() for head in (D.wide, D.narrow)]
        expected = sum(loss.generator(fake, seen) for fake, seen in zip(fakes, reals, strict=True))
    else:
        expected = sum(loss.generator(fake) for fake in fakes)
    torch.testing.assert_close(value, expected)


def test_only_real_samples_of_an_update_are_reconstructed() -> None:
    D = TwoHeads(has_decoder=True)
    played = game(D, Hinge())
    batch = played.critic_batch(Batch(torch.randn(5, 4)), CLOCK)
    played.discriminator_loss(batch)
    played.critic(CLOCK)(torch.randn(7, 4), None)
    played.generator_loss(played.generator_batch(None, CLOCK))
    assert batch.real_aux.keys() == {"wide", "narrow", "reconstruction"}
    assert batch.fake_aux.keys() == {"wide", "narrow"}
    assert D.decoded == [5]
