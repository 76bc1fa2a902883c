import math
from collections.abc import Callable

import pytest
import torch
from jaxtyping import TypeCheckError
from omegaconf import OmegaConf
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from gantrain.build import build
from gantrain.config import CONF
from gantrain.losses.base import Loss
from gantrain.losses.lsgan import LeastSquares
from gantrain.losses.minimax import Minimax
from gantrain.losses.nonsaturating import NonSaturating
from gantrain.losses.wasserstein import Wasserstein

NAMES = sorted(path.stem for path in CONF.glob("loss/*.yaml"))
REAL = torch.tensor([-3.0, -0.5, 0.0, 2.0], dtype=torch.float64)
FAKE = torch.tensor([1.5, -2.0, 0.25, 4.0], dtype=torch.float64)


def make(name: str) -> Loss:
    loss: Loss = build("loss", OmegaConf.to_container(OmegaConf.load(CONF / "loss" / f"{name}.yaml")))
    return loss


def value_and_gradient(function: Callable[..., Tensor], *logits: Tensor) -> tuple[Tensor, list[Tensor]]:
    leaves = [x.clone().requires_grad_() for x in logits]
    value = function(*leaves)
    return value.detach(), list(torch.autograd.grad(value, leaves))


@pytest.mark.parametrize("loss", [Minimax(), NonSaturating()])
def test_cross_entropy_is_that_of_torch(loss: Minimax) -> None:
    expected = cross_entropy(REAL, torch.ones_like(REAL)) + cross_entropy(FAKE, torch.zeros_like(FAKE))
    torch.testing.assert_close(loss.discriminator(REAL, FAKE), expected)


def test_minimax_generator_wants_the_discriminators_loss_to_grow() -> None:
    torch.testing.assert_close(Minimax().generator(FAKE), -cross_entropy(FAKE, torch.zeros_like(FAKE)))


def test_nonsaturating_generator_wants_its_samples_called_real() -> None:
    torch.testing.assert_close(NonSaturating().generator(FAKE), cross_entropy(FAKE, torch.ones_like(FAKE)))


def test_cross_entropy_of_a_discriminator_that_cannot_tell() -> None:
    undecided, log_2 = torch.zeros(5), torch.tensor(math.log(2))
    torch.testing.assert_close(Minimax().discriminator(undecided, undecided), 2 * log_2)
    torch.testing.assert_close(Minimax().generator(undecided), -log_2)
    torch.testing.assert_close(NonSaturating().generator(undecided), log_2)


def test_only_the_minimax_generator_saturates_where_the_discriminator_is_sure() -> None:
    sure = torch.full([4], -30.0)
    _, (minimax,) = value_and_gradient(Minimax().generator, sure)
    _, (nonsaturating,) = value_and_gradient(NonSaturating().generator, sure)
    torch.testing.assert_close(minimax, torch.zeros(4), atol=1e-12, rtol=0)
    torch.testing.assert_close(nonsaturating, torch.full([4], -1 / 4))


def test_least_squares_is_half_the_squared_distance_from_the_labels() -> None:
    loss = LeastSquares(fake_label=-1.0, real_label=1.0, generator_label=0.5)
    real, fake = torch.tensor([2.0, 4.0]), torch.tensor([0.0, -3.0])
    torch.testing.assert_close(loss.discriminator(real, fake), torch.tensor((1 + 9) / 4 + (1 + 4) / 4))
    torch.testing.assert_close(loss.generator(fake), torch.tensor((0.25 + 12.25) / 4))


def test_least_squares_as_configured_has_labels_0_1_1() -> None:
    loss = make("lsgan")
    zeros, ones = torch.zeros(3), torch.ones(3)
    torch.testing.assert_close(loss.discriminator(ones, zeros), torch.tensor(0.0))
    torch.testing.assert_close(loss.discriminator(zeros, ones), torch.tensor(1.0))
    torch.testing.assert_close(loss.generator(ones), torch.tensor(0.0))
    torch.testing.assert_close(loss.generator(zeros), torch.tensor(0.5))


def test_wasserstein_is_the_difference_of_mean_scores() -> None:
    real, fake = torch.tensor([1.0, 5.0]), torch.tensor([-2.0, 3.0])
    torch.testing.assert_close(Wasserstein().discriminator(real, fake), torch.tensor(0.5 - 3.0))
    torch.testing.assert_close(Wasserstein().generator(fake), torch.tensor(-0.5))


@pytest.mark.parametrize("logit", [-1e4, 1e4])
@pytest.mark.parametrize(
    ("loss", "discriminator", "generator"),
    [
        (Minimax(), lambda r, f: max(-r, 0.0) + max(f, 0.0), lambda f: -max(f, 0.0)),
        (NonSaturating(), lambda r, f: max(-r, 0.0) + max(f, 0.0), lambda f: max(-f, 0.0)),
        (Wasserstein(), lambda r, f: f - r, lambda f: -f),
        (
            LeastSquares(fake_label=0.0, real_label=1.0, generator_label=1.0),
            lambda r, f: (r - 1) ** 2 / 2 + f**2 / 2,
            lambda f: (f - 1) ** 2 / 2,
        ),
    ],
)
def test_extreme_logits_keep_their_exact_value_and_a_finite_gradient(
    loss: Loss, discriminator: Callable[..., float], generator: Callable[..., float], logit: float
) -> None:
    extreme = torch.full([3], logit)
    value, gradients = value_and_gradient(loss.discriminator, extreme, extreme)
    torch.testing.assert_close(value, torch.tensor(discriminator(logit, logit)))
    assert all(gradient.isfinite().all() for gradient in gradients)
    value, gradients = value_and_gradient(loss.generator, extreme)
    torch.testing.assert_close(value, torch.tensor(generator(logit)))
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    real, fake = REAL.clone().requires_grad_(), FAKE.clone().requires_grad_()
    assert torch.autograd.gradcheck(make(name).discriminator, (real, fake))
    assert torch.autograd.gradcheck(make(name).generator, (fake,))


@pytest.mark.parametrize("name", NAMES)
def test_the_discriminator_parts_real_from_fake_and_the_generator_follows(name: str) -> None:
    undecided = torch.zeros(4)
    _, (real, fake) = value_and_gradient(make(name).discriminator, undecided, undecided)
    assert (real <= 0).all()
    assert (fake >= 0).all()
    assert (fake - real > 0).all()
    _, (generator,) = value_and_gradient(make(name).generator, undecided)
    assert (generator < 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_a_mean_over_the_batch(name: str) -> None:
    loss = make(name)
    torch.testing.assert_close(loss.discriminator(REAL.repeat(3), FAKE.repeat(3)), loss.discriminator(REAL, FAKE))
    torch.testing.assert_close(loss.generator(FAKE.repeat(3)), loss.generator(FAKE))


@pytest.mark.parametrize("name", NAMES)
def test_logits_in_a_column_are_refused_rather_than_broadcast(name: str) -> None:
    loss = make(name)
    column, row = torch.zeros(4, 1), torch.zeros(4)
    for real, fake in ((column, row), (row, column), (column, column)):
        with pytest.raises(TypeCheckError):
            loss.discriminator(real, fake)
    with pytest.raises(TypeCheckError):
        loss.generator(column)
