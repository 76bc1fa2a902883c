import math
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import torch
from jaxtyping import TypeCheckError
from omegaconf import OmegaConf
from oracles import load, oracle_files
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from gantrain.config import CONF
from gantrain.instantiate import build
from gantrain.losses import ralsgan
from gantrain.losses.base import Loss, RelativisticLoss, sees_real
from gantrain.losses.hinge import Hinge
from gantrain.losses.lsgan import LeastSquares
from gantrain.losses.minimax import Minimax
from gantrain.losses.nonsaturating import NonSaturating
from gantrain.losses.ralsgan import RelativisticAverageLeastSquares
from gantrain.losses.relativistic import Relativistic
from gantrain.losses.wasserstein import Wasserstein

# The names of the losses in the golden files.
GOLDEN = {
    "hinge": "hinge",
    "lsgan": "least_squares_half",
    "nonsaturating": "logistic_non_saturating",
    "ralsgan": "relativistic_average_least_squares",
    "relativistic": "relativistic_paired",
    "wasserstein": "wasserstein",
}
NAMES = sorted(path.stem for path in CONF.glob("loss/*.yaml"))
REAL = torch.tensor([-3.0, -0.5, 0.0, 2.0], dtype=torch.float64)
FAKE = torch.tensor([1.5, -2.0, 0.25, 4.0], dtype=torch.float64)


def make(name: str) -> Loss:
    loss: Loss = build("loss", OmegaConf.to_container(OmegaConf.load(CONF / "loss" / f"{name}.yaml")))
    return loss


def generator_of(loss: Loss) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the generator's loss as a function of fake and real logits, even if it ignores the real ones."""
    if sees_real(loss):
        return cast(RelativisticLoss, loss).generator
    return lambda fake, real: loss.generator(fake) + 0 * real.sum()


def value_and_gradient(function: Callable[..., Tensor], *logits: Tensor) -> tuple[Tensor, list[Tensor]]:
    leaves = [x.clone().requires_grad_() for x in logits]
    value = function(*leaves)
    return value.detach(), list(torch.autograd.grad(value, leaves))


@pytest.mark.parametrize("loss", [Minimax(), NonSaturating()])
def test_cross_entropy_equals_torch(loss: Minimax) -> None:
    expected = cross_entropy(REAL, torch.ones_like(REAL)) + cross_entropy(FAKE, torch.zeros_like(FAKE))
    torch.testing.assert_close(loss.discriminator(REAL, FAKE), expected)


def test_minimax_generator_maximizes_the_discriminators_loss() -> None:
    torch.testing.assert_close(Minimax().generator(FAKE), -cross_entropy(FAKE, torch.zeros_like(FAKE)))


def test_nonsaturating_generator_loss_is_cross_entropy_with_real_labels() -> None:
    torch.testing.assert_close(NonSaturating().generator(FAKE), cross_entropy(FAKE, torch.ones_like(FAKE)))


def test_cross_entropy_losses_at_logits_0_are_multiples_of_log_2() -> None:
    undecided, log_2 = torch.zeros(5), torch.tensor(math.log(2))
    torch.testing.assert_close(Minimax().discriminator(undecided, undecided), 2 * log_2)
    torch.testing.assert_close(Minimax().generator(undecided), -log_2)
    torch.testing.assert_close(NonSaturating().generator(undecided), log_2)


def test_only_the_minimax_generator_saturates_if_the_discriminator_is_confident() -> None:
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


@pytest.mark.parametrize("path", oracle_files("gan_losses*.npz"), ids=lambda path: path.stem)
@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 2e-7)])
def test_values_and_gradients_match_the_golden_ones(
    name: str, path: Path, dtype: torch.dtype, tolerance: float
) -> None:
    arrays, loss = load(path, dtype), make(name)
    real, fake = arrays["in.real_logits"], arrays["in.fake_logits"]
    value, gradients = value_and_gradient(loss.discriminator, real, fake)
    found = {"d_loss": value, "d_loss_grad_real": gradients[0], "d_loss_grad_fake": gradients[1]}
    value, gradients = value_and_gradient(generator_of(loss), fake, real)
    found |= {"g_loss": value, "g_loss_grad_fake": gradients[0], "g_loss_grad_real": gradients[1]}
    for key, x in found.items():
        expected = arrays[f"out.{GOLDEN[name]}.{key}"]
        torch.testing.assert_close(x, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


def test_hinge_counts_only_logits_within_the_margins() -> None:
    real, fake = torch.tensor([2.0, 1.0, 0.25, -3.0]), torch.tensor([-2.0, -1.0, -0.5, 3.0])
    value, (real_gradient, fake_gradient) = value_and_gradient(Hinge().discriminator, real, fake)
    torch.testing.assert_close(value, torch.tensor((0.75 + 4) / 4 + (0.5 + 4) / 4))
    torch.testing.assert_close(real_gradient[[0, 2, 3]], torch.tensor([0.0, -0.25, -0.25]))
    torch.testing.assert_close(fake_gradient[[0, 2, 3]], torch.tensor([0.0, 0.25, 0.25]))
    torch.testing.assert_close(Hinge().generator(fake), torch.tensor(0.125))


def test_relativistic_losses_are_log_2_at_equal_logits() -> None:
    logits, log_2 = torch.tensor([-300.0, 0.5, 7.0]), torch.tensor(math.log(2))
    torch.testing.assert_close(Relativistic().discriminator(logits, logits), log_2)
    torch.testing.assert_close(Relativistic().generator(logits, logits), log_2)


def test_relativistic_losses_are_cross_entropies_of_the_pairs_differences() -> None:
    loss, ones = Relativistic(), torch.ones_like(REAL)
    torch.testing.assert_close(loss.discriminator(REAL, FAKE), cross_entropy(REAL - FAKE, ones))
    torch.testing.assert_close(loss.generator(FAKE, REAL), cross_entropy(FAKE - REAL, ones))
    with pytest.raises(TypeCheckError):
        loss.discriminator(REAL, FAKE[:1])  # one fake logit must not be broadcast


def test_relativistic_average_least_squares_matches_a_computation_by_hand() -> None:
    loss = RelativisticAverageLeastSquares()
    real, fake = torch.tensor([3.0, 1.0]), torch.tensor([-2.0, 0.0])  # means 2 and -1
    discriminator = ((3.0**2 + 1.0**2) / 2 + (3.0**2 + 1.0**2) / 2) / 2  # 4, 2 should be 1; -4, -2 should be -1
    generator = ((5.0**2 + 3.0**2) / 2 + (5.0**2 + 3.0**2) / 2) / 2  # -4, -2 should be 1; 4, 2 should be -1
    torch.testing.assert_close(loss.discriminator(real, fake), torch.tensor(discriminator))
    torch.testing.assert_close(loss.generator(fake, real), torch.tensor(generator))
    torch.testing.assert_close(loss.discriminator(real + 1, real + 1), torch.tensor(2.0))
    torch.testing.assert_close(loss.generator(torch.full([2], 4.0), torch.full([2], 4.0)), torch.tensor(1.0))


def test_relativistic_average_least_squares_takes_the_means_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    loss, real, fake = RelativisticAverageLeastSquares(), REAL.clone().requires_grad_(), FAKE.clone().requires_grad_()
    whole_loss = loss.discriminator(real, fake)
    expected = torch.autograd.grad(whole_loss, [real, fake])

    ranks = list(zip(real.chunk(2), fake.chunk(2), strict=True))
    gathered = {id(part): whole for rank in ranks for part, whole in zip(rank, (real, fake), strict=True)}
    monkeypatch.setattr(ralsgan, "whole_batch", lambda x: gathered[id(x)])
    average = (loss.discriminator(*ranks[0]) + loss.discriminator(*ranks[1])) / 2
    torch.testing.assert_close(average, whole_loss)
    torch.testing.assert_close(torch.autograd.grad(average, [real, fake]), expected)


@pytest.mark.parametrize("name", NAMES)
def test_sees_real_matches_the_signature_of_the_generator_loss(name: str) -> None:
    loss = make(name)
    assert isinstance(loss, Loss)
    if name in GOLDEN:
        assert sees_real(loss) == (name in ("relativistic", "ralsgan"))
    if sees_real(loss):
        with pytest.raises(TypeError):
            loss.generator(FAKE)
    else:
        assert loss.generator(FAKE).isfinite()


@pytest.mark.parametrize("logit", [-1e4, 1e4])
@pytest.mark.parametrize(
    ("loss", "discriminator", "generator"),
    [
        (Minimax(), lambda r, f: max(-r, 0.0) + max(f, 0.0), lambda f: -max(f, 0.0)),
        (NonSaturating(), lambda r, f: max(-r, 0.0) + max(f, 0.0), lambda f: max(-f, 0.0)),
        (Wasserstein(), lambda r, f: f - r, lambda f: -f),
        (Hinge(), lambda r, f: max(1 - r, 0.0) + max(1 + f, 0.0), lambda f: -f),
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


@pytest.mark.parametrize("loss", [Relativistic(), RelativisticAverageLeastSquares()])
@pytest.mark.parametrize("gap", [-1e4, 0.0, 1e4])
def test_extreme_differences_keep_their_exact_value_and_a_finite_gradient(loss: RelativisticLoss, gap: float) -> None:
    def expected(difference: float) -> float:
        if isinstance(loss, RelativisticAverageLeastSquares):
            return (difference - 1) ** 2
        return max(-difference, 0.0) if difference else math.log(2)

    real, fake = torch.full([3], gap), torch.zeros(3)
    value, gradients = value_and_gradient(loss.discriminator, real, fake)
    torch.testing.assert_close(value, torch.tensor(expected(gap)))
    assert all(gradient.isfinite().all() for gradient in gradients)
    value, gradients = value_and_gradient(loss.generator, fake, real)
    torch.testing.assert_close(value, torch.tensor(expected(-gap)))
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_match_finite_differences(name: str) -> None:
    real, fake = REAL.clone().requires_grad_(), FAKE.clone().requires_grad_()
    assert torch.autograd.gradcheck(make(name).discriminator, (real, fake))
    assert torch.autograd.gradcheck(generator_of(make(name)), (fake, real))


@pytest.mark.parametrize("name", NAMES)
def test_discriminator_separates_real_from_fake_logits_and_generator_raises_fake_logits(name: str) -> None:
    undecided = torch.zeros(4)
    _, (real, fake) = value_and_gradient(make(name).discriminator, undecided, undecided)
    assert (real <= 0).all()
    assert (fake >= 0).all()
    assert (fake - real > 0).all()
    _, (fake, real) = value_and_gradient(generator_of(make(name)), undecided, undecided)
    assert (fake < 0).all()
    assert (real > 0).all() if sees_real(make(name)) else (real == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_loss_is_a_mean_over_the_batch(name: str) -> None:
    loss = make(name)
    torch.testing.assert_close(loss.discriminator(REAL.repeat(3), FAKE.repeat(3)), loss.discriminator(REAL, FAKE))
    generator = generator_of(loss)
    torch.testing.assert_close(generator(FAKE.repeat(3), REAL.repeat(3)), generator(FAKE, REAL))


@pytest.mark.parametrize("name", NAMES)
def test_logits_of_shape_n_1_are_refused_rather_than_broadcast(name: str) -> None:
    loss = make(name)
    column, row = torch.zeros(4, 1), torch.zeros(4)
    for real, fake in ((column, row), (row, column), (column, column)):
        with pytest.raises(TypeCheckError):
            loss.discriminator(real, fake)
    with pytest.raises(TypeCheckError):
        generator_of(loss)(column, row)
