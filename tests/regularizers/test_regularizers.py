import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError
from omegaconf import OmegaConf
from scipy import stats
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from update_batches import Recorder, batch_of, batch_of_logits, linear, unconditional

from gantrain.config import CONF
from gantrain.instantiate import build
from gantrain.losses.lsgan import LeastSquares
from gantrain.losses.nonsaturating import NonSaturating
from gantrain.models import dcgan, mlp
from gantrain.regularizers.base import Regularizer
from gantrain.regularizers.dragan import DRAGAN
from gantrain.regularizers.gradient_penalty import GradientPenalty
from gantrain.regularizers.input_noise import InputNoise
from gantrain.regularizers.label_noise import LabelNoise
from gantrain.regularizers.lecam import LeCam
from gantrain.regularizers.r1 import R1
from gantrain.regularizers.r2 import R2
from gantrain.regularizers.weight_clip import WeightClip
from gantrain.schedules.base import Clock

NAMES = sorted(path.stem for path in CONF.glob("regularizer/*.yaml"))


NO_CRITIC = unconditional(nn.Identity())


def conv_critic(activation: str, norm: str) -> nn.Module:
    return dcgan.Discriminator(
        (1, 16, 16), width=1, norm=norm, activation=activation, slope=0.2, bias="all", init="default"
    )


def mlp_critic(activation: str, norm: str) -> nn.Module:
    return mlp.Discriminator(
        (3,), width=5, multipliers=[1, 1], activation=activation, slope=0.2, norm=norm, init="default", dropout=0.0
    )


def make(name: str, **changes: Any) -> Regularizer:
    node: Any = OmegaConf.to_container(OmegaConf.load(CONF / "regularizer" / f"{name}.yaml"))
    regularizer: Regularizer = build(f"regularizer.{name}", node[name] | changes)
    return regularizer


@pytest.mark.parametrize("shape", [(7,), (3, 4, 5)])
@pytest.mark.parametrize("weight", [0.1, 10.0])
def test_penalty_of_a_linear_critic_matches_the_closed_form(shape: tuple[int, ...], weight: float) -> None:
    torch.manual_seed(0)
    w = torch.randn(math.prod(shape), dtype=torch.float64)
    real, fake = torch.randn(2, 6, *shape, dtype=torch.float64)
    penalty = GradientPenalty(weight=weight, every=1).discriminator_penalty(linear(w), batch_of(real, fake))
    torch.testing.assert_close(penalty, weight * (w.square().sum().sqrt() - 1) ** 2)


def test_critic_with_gradient_norm_1_is_not_penalized() -> None:
    real, fake = torch.randn(2, 6, 2, dtype=torch.float64)
    w = torch.tensor([0.6, -0.8], dtype=torch.float64)
    penalty = GradientPenalty(weight=10.0, every=1).discriminator_penalty(linear(w), batch_of(real, fake))
    torch.testing.assert_close(penalty, torch.zeros_like(penalty), atol=1e-12, rtol=0)


@pytest.mark.parametrize("shape", [(7,), (3, 4, 5)])
def test_gradient_norm_is_taken_per_sample(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(5, *shape, dtype=torch.float64)
    quadratic = Recorder(lambda x: 1.5 * x.flatten(1).square().sum(1))
    penalty = GradientPenalty(weight=2.0, every=1).discriminator_penalty(quadratic, batch_of(x, x))
    norms = [3 * math.sqrt(sample.square().sum()) for sample in x]
    torch.testing.assert_close(penalty.item(), 2 * sum((norm - 1) ** 2 for norm in norms) / len(norms))


def test_interpolates_are_uniform_between_real_and_fake_samples() -> None:
    torch.manual_seed(0)
    real, fake = torch.randn(2, 2000, 3, 2, 2, dtype=torch.float64)
    critic = Recorder(lambda x: x.flatten(1).sum(1))
    GradientPenalty(weight=10.0, every=1).discriminator_penalty(critic, batch_of(real, fake))
    (points,) = critic.inputs
    epsilon = ((points - fake) / (real - fake)).flatten(1)
    torch.testing.assert_close(epsilon, epsilon[:, :1].expand_as(epsilon))
    assert stats.kstest(epsilon[:, 0].numpy(), "uniform").pvalue > 1e-3


def test_interpolates_are_drawn_at_each_call() -> None:
    real, fake = torch.ones(4, 1), torch.zeros(4, 1)
    critic = Recorder(lambda x: x.sum(1))
    for _ in range(2):
        GradientPenalty(weight=10.0, every=1).discriminator_penalty(critic, batch_of(real, fake))
    first, second = critic.inputs
    assert not torch.equal(first, second)


def test_interpolates_are_one_lerp_with_one_draw() -> None:
    """Bit for bit, so that runs stay reproducible across versions."""
    real, fake = torch.randn(2, 5, 3, 4, 4)
    critic = Recorder(lambda x: x.flatten(1).sum(1))
    torch.manual_seed(3)
    GradientPenalty(weight=10.0, every=1).discriminator_penalty(critic, batch_of(real, fake))
    torch.manual_seed(3)
    assert torch.equal(critic.inputs[0], torch.lerp(fake, real, torch.rand(5, 1, 1, 1)))


@pytest.mark.parametrize("norm", ["none", "layer"])
@pytest.mark.parametrize("activation", ["silu", "leaky_relu"])
@pytest.mark.parametrize(("make_critic", "shape"), [(conv_critic, (1, 16, 16)), (mlp_critic, (3,))])
def test_parameter_gradients_of_the_penalty_match_finite_differences(
    make_critic: Callable[[str, str], nn.Module], shape: tuple[int, ...], activation: str, norm: str
) -> None:
    torch.manual_seed(0)
    critic = make_critic(activation, norm).double()
    batch = batch_of(*torch.randn(2, 3, *shape, dtype=torch.float64))
    names = [name for name, _ in critic.named_parameters()]

    def penalty(*parameters: Tensor) -> Tensor:
        torch.manual_seed(1)
        substituted = unconditional(lambda x: functional_call(critic, dict(zip(names, parameters, strict=True)), (x,)))
        return GradientPenalty(weight=10.0, every=1).discriminator_penalty(substituted, batch)

    assert torch.autograd.gradcheck(penalty, tuple(critic.parameters()))


@pytest.mark.parametrize(("make_critic", "shape"), [(conv_critic, (1, 16, 16)), (mlp_critic, (3,))])
def test_constant_critic_has_a_finite_penalty_and_gradient(
    make_critic: Callable[[str, str], nn.Module], shape: tuple[int, ...]
) -> None:
    critic = make_critic("leaky_relu", "none")
    for parameter in critic.parameters():
        nn.init.zeros_(parameter)
    penalty = GradientPenalty(weight=10.0, every=1).discriminator_penalty(
        unconditional(critic), batch_of(*torch.randn(2, 3, *shape))
    )
    torch.testing.assert_close(penalty, torch.tensor(10.0))
    penalty.backward()
    for parameter in critic.parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, torch.zeros_like(parameter))


def test_logits_of_shape_n_1_are_refused() -> None:
    x = torch.zeros(4, 2)
    batch = batch_of(x, x, lambda x, labels: x[:, :1])
    for logits in ("real_logits", "fake_logits"):
        with pytest.raises(TypeCheckError):
            getattr(batch, logits)


def test_only_weights_beyond_the_limit_are_clipped() -> None:
    critic = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4))
    weight, bias = torch.tensor([[-2.0], [-0.005], [0.0], [0.02]]), torch.tensor([0.01, 3.0, -0.01, -1e-9])
    critic[0].weight.data.copy_(weight)
    critic[0].bias.data.copy_(bias)
    parameters, buffers = list(critic.parameters()), deepcopy(dict(critic.named_buffers()))
    WeightClip(limit=0.01).project(critic)
    torch.testing.assert_close(critic[0].weight.data, torch.tensor([[-0.01], [-0.005], [0.0], [0.01]]))
    torch.testing.assert_close(critic[0].bias.data, torch.tensor([0.01, 0.01, -0.01, -1e-9]))
    torch.testing.assert_close(critic[1].weight.data, torch.full([4], 0.01))
    assert all(after is before for after, before in zip(critic.parameters(), parameters, strict=True))
    assert all(parameter.requires_grad for parameter in critic.parameters())
    torch.testing.assert_close(dict(critic.named_buffers()), buffers)


def test_clipping_equals_clamp_bit_for_bit() -> None:
    extremes = [0.0, -0.0, 0.01, -0.01, 1e-45, -1e-45, 3e38, -3e38]
    critic = nn.Linear(1008, 1, bias=False)
    critic.weight.data.copy_(torch.cat([torch.randn(1000) / 50, torch.tensor(extremes)]))
    expected = critic.weight.data.clamp(-0.01, 0.01)
    WeightClip(limit=0.01).project(critic)
    assert torch.equal(critic.weight.data.view(torch.int32), expected.view(torch.int32))


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_clipping_does_not_hide_nan_or_inf_weights(value: float) -> None:
    critic = nn.Linear(3, 1)
    critic.weight.data.copy_(torch.tensor([[0.5, value, -0.005]]))
    for _ in range(2):
        WeightClip(limit=0.01).project(critic)
        torch.testing.assert_close(critic.weight.data, torch.tensor([[0.01, math.nan, -0.005]]), equal_nan=True)
    assert critic.bias.isfinite().all()


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 3e38])
def test_nonfinite_gradient_stays_visible_in_clipped_weights(value: float) -> None:
    critic, other = nn.Linear(3, 1, bias=False), torch.tensor([[0.1, 0.1, 0.1]])
    optimizer = torch.optim.SGD(critic.parameters(), lr=10.0)
    for gradient in (other, torch.tensor([[0.1, value, 0.1]]), other, other):
        critic.weight.grad = gradient.clone()
        optimizer.step()
        WeightClip(limit=0.01).project(critic)
    torch.testing.assert_close(critic.weight.data, torch.tensor([[-0.01, math.nan, -0.01]]), equal_nan=True)


@pytest.mark.parametrize("fraction", [0.0, 0.25])
@pytest.mark.parametrize(
    ("loss", "loss_with_labels"),
    [
        (NonSaturating(), cross_entropy),
        (
            LeastSquares(fake_label=0.0, real_label=1.0, generator_label=1.0),
            lambda logits, labels: ((logits - labels) ** 2).mean() / 2,
        ),
    ],
)
def test_label_noise_gives_the_gradient_of_soft_labels(
    loss: NonSaturating | LeastSquares, loss_with_labels: Callable[[Tensor, Tensor], Tensor], fraction: float
) -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, dtype=torch.float64).requires_grad_()
    fake_logits = torch.randn(6, dtype=torch.float64)

    torch.manual_seed(1)
    penalty = LabelNoise(amount=0.2).discriminator_penalty(NO_CRITIC, batch_of_logits(logits, fraction=fraction))
    (gradient,) = torch.autograd.grad(loss.discriminator(logits, fake_logits) + penalty, logits)

    torch.manual_seed(1)
    labels = 1 - torch.rand(6, dtype=torch.float64) * 0.2 * (1 - fraction)
    (expected,) = torch.autograd.grad(loss_with_labels(logits, labels), logits)
    torch.testing.assert_close(gradient, expected)


def test_label_noise_is_one_sided() -> None:
    real_logits, fake_logits = torch.randn(2, 5).unbind()
    fake_logits.requires_grad_()
    batch = batch_of_logits(real_logits.requires_grad_(), fake_logits)
    penalty = LabelNoise(amount=0.2).discriminator_penalty(NO_CRITIC, batch)
    assert torch.autograd.grad(penalty, fake_logits, allow_unused=True) == (None,)


def test_label_noise_is_uniform_up_to_the_amount_and_decays_linearly_to_none() -> None:
    logits = torch.zeros(20_000, requires_grad=True)

    def noise(fraction: float) -> Tensor:
        torch.manual_seed(0)
        penalty = LabelNoise(amount=0.2).discriminator_penalty(NO_CRITIC, batch_of_logits(logits, fraction=fraction))
        return torch.autograd.grad(penalty, logits)[0] * len(logits)

    assert stats.kstest(noise(0.0).numpy() / 0.2, "uniform").pvalue > 1e-3
    torch.testing.assert_close(noise(0.75), noise(0.0) / 4)
    torch.testing.assert_close(noise(1.0), torch.zeros_like(logits))


@pytest.mark.parametrize("shape", [(2,), (3, 4, 4)])
def test_input_noise_is_gaussian_and_decays_linearly_to_none(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(2000, *shape)

    def noise(fraction: float) -> Tensor:
        torch.manual_seed(1)
        return InputNoise(std=0.07).perturb(x, Clock(fraction, 0)) - x

    assert stats.kstest(noise(0.0).flatten().numpy() / 0.07, "norm").pvalue > 1e-3
    torch.testing.assert_close(noise(0.75), noise(0.0) / 4, atol=1e-6, rtol=0)
    torch.testing.assert_close(noise(1.0), torch.zeros_like(x))


@pytest.mark.parametrize("fraction", [0.0, 0.3])
def test_noise_amounts_may_be_floats_or_tensors(fraction: float) -> None:
    x, logits = torch.zeros(6, 2), torch.randn(6)
    input_noise, label_noise = InputNoise(std=1.0), LabelNoise(amount=1.0)

    def both(clock_fraction: float | Tensor) -> tuple[Tensor, Tensor]:
        torch.manual_seed(1)
        batch = batch_of_logits(logits, fraction=clock_fraction)
        return input_noise.perturb(x, batch.clock), label_noise.discriminator_penalty(NO_CRITIC, batch)

    noise, penalty = both(fraction)
    for number in (0.25, torch.tensor(0.25)):
        input_noise.std = label_noise.amount = number
        for clock_fraction in (fraction, torch.tensor(fraction)):
            found_noise, found_penalty = both(clock_fraction)
            torch.testing.assert_close(found_noise, noise / 4)
            torch.testing.assert_close(found_penalty, penalty / 4)


def test_input_noise_is_fresh_and_lets_gradients_through() -> None:
    x = torch.zeros(3, 2, requires_grad=True)
    noise = InputNoise(std=0.5)
    first, second = noise.perturb(x, Clock(0.0, 0)), noise.perturb(x, Clock(0.0, 0))
    assert not torch.equal(first, second)
    (gradient,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(gradient, torch.ones(3, 2))


@pytest.mark.parametrize(
    ("regularizer", "values", "remedy"),
    [
        (GradientPenalty, {"weight": -1.0, "every": 1}, "at least 0"),
        (GradientPenalty, {"every": 0, "weight": 10.0}, r"1 is every update"),
        (DRAGAN, {"weight": -1.0, "every": 1}, "at least 0"),
        (DRAGAN, {"every": 0, "weight": 10.0}, r"1 is every update"),
        (R1, {"gamma": -1.0, "every": 1}, "at least 0"),
        (R1, {"every": 0, "gamma": 1.0}, r"1 is every update"),
        (R2, {"gamma": -1.0, "every": 1}, "at least 0"),
        (R2, {"every": -1, "gamma": 1.0}, r"1 is every update"),
        (LeCam, {"weight": -1.0, "decay": 0.99, "start": 10, "every": 1}, "at least 0"),
        (LeCam, {"decay": 1.0, "weight": 1.0, "start": 10, "every": 1}, r"in \[0, 1\)"),
        (LeCam, {"decay": -0.1, "weight": 1.0, "start": 10, "every": 1}, r"in \[0, 1\)"),
        (LeCam, {"start": -1, "weight": 1.0, "decay": 0.99, "every": 1}, "at least 0"),
        (LeCam, {"every": 0, "weight": 1.0, "decay": 0.99, "start": 10}, r"1 is every update"),
        (WeightClip, {"limit": 0.0}, "above 0"),
        (WeightClip, {"limit": -0.01}, "above 0"),
        (LabelNoise, {"amount": -0.1}, r"in \[0, 1\]"),
        (LabelNoise, {"amount": 1.1}, r"in \[0, 1\]"),
        (InputNoise, {"std": -0.1}, "at least 0"),
    ],
)
def test_invalid_values_are_refused(regularizer: type[Regularizer], values: dict[str, float], remedy: str) -> None:
    name, value = next(iter(values.items()))
    with pytest.raises(ValueError, match=f"{name}={value}.*{remedy}"):
        regularizer(**values)


@pytest.mark.parametrize("name", NAMES)
def test_every_in_the_config_sets_the_interval(name: str) -> None:
    options = OmegaConf.load(CONF / "regularizer" / f"{name}.yaml")[name]
    assert make(name).every == options.get("every", 1)
    if "every" in options:
        assert make(name, every=16).every == 16


def test_only_gradient_penalty_and_weight_clip_bound_the_lipschitz_constant() -> None:
    assert all(make(name).bounds_lipschitz for name in ("gradient_penalty", "weight_clip"))
    assert not any(make(name).bounds_lipschitz for name in ("dragan", "r1", "r2", "lecam"))


def test_penalties_on_the_gradient_of_each_sample_are_wrong_with_batch_norm() -> None:
    assert {make(name).with_batch_norm for name in ("gradient_penalty", "dragan", "r1", "r2")} == {"wrong"}
    assert make("lecam").with_batch_norm == "fine"


@pytest.mark.parametrize("name", NAMES)
def test_every_regularizer_keeps_shapes_and_a_trainable_critic(name: str) -> None:
    torch.manual_seed(0)
    regularizer, critic = make(name), conv_critic("leaky_relu", "none")
    real, fake = (regularizer.perturb(x, Clock(0.5, 0)) for x in torch.randn(2, 4, 1, 16, 16))
    assert real.shape == (4, 1, 16, 16)
    batch = batch_of(
        *(real, fake, unconditional(critic)),
        fraction=0.5,
        labels=torch.tensor([0, 1, 1, 0]),
        fake_labels=torch.tensor([1, 1, 0, 0]),
        aux_of=lambda logits: {
            "class_logits": torch.stack([logits, -logits], dim=1),
            "reconstruction": logits[:, None, None, None].expand(-1, 1, 8, 8),
        },
    )
    loss = batch.fake_logits.mean() - batch.real_logits.mean()
    penalty = regularizer.discriminator_penalty(unconditional(critic), batch)
    (loss if penalty is None else loss + penalty).backward()
    regularizer.project(critic)
    for parameter in critic.parameters():
        assert parameter.isfinite().all()
        assert parameter.requires_grad
    assert any(parameter.grad.abs().sum() > 0 for parameter in critic.parameters())


def test_base_regularizer_does_nothing() -> None:
    critic = mlp_critic("relu", "none")
    before = deepcopy(critic.state_dict())
    x = torch.randn(4, 3)
    regularizer = Regularizer()
    batch = batch_of(x, x, unconditional(critic))
    assert regularizer.perturb(x, Clock(0.0, 0)) is x
    assert regularizer.perturb_real(x, Clock(0.0, 0)) is x
    assert regularizer.discriminator_penalty(unconditional(critic), batch) is None
    assert regularizer.generator_penalty(lambda z: z, lambda n: (x, None), batch) is None
    regularizer.project(critic)
    torch.testing.assert_close(critic.state_dict(), before)
