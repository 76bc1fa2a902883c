"""R1, R2, DRAGAN and the gradient penalty match closed forms, finite differences and golden numbers."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import load, oracle_files, texts
from torch import Tensor, nn
from torch.func import functional_call
from update_batches import Recorder, batch_of, linear, sum_of_entries, unconditional

from gantrain import seeding
from gantrain.datasets.labels import Labels
from gantrain.models import dcgan
from gantrain.regularizers import base, dragan
from gantrain.regularizers.base import Critic, Regularizer, UpdateBatch
from gantrain.regularizers.dragan import DRAGAN
from gantrain.regularizers.gradient_penalty import GradientPenalty
from gantrain.regularizers.r1 import R1
from gantrain.regularizers.r2 import R2
from gantrain.schedules.base import Clock

PENALTIES = [
    GradientPenalty(weight=3.0, every=1),
    DRAGAN(weight=3.0, every=1),
    R1(gamma=3.0, every=1),
    R2(gamma=3.0, every=1),
]
FILES = oracle_files("gradient_penalties*.npz")
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def class_name(regularizer: Regularizer) -> str:
    return type(regularizer).__name__


def golden_critic(arrays: dict[str, Tensor], names: list[str]) -> tuple[Critic, list[Tensor]]:
    """Make the critic of a golden file: two convolutions with tanh, and a linear map."""
    parameters = {name: arrays[name].clone().requires_grad_() for name in names}

    def critic(x: Tensor, labels: Labels) -> Tensor:
        x = torch.conv2d(x, parameters["critic.conv1.weight"], parameters["critic.conv1.bias"], padding=1).tanh()
        x = torch.conv2d(
            x, parameters["critic.conv2.weight"], parameters["critic.conv2.bias"], stride=2, padding=1
        ).tanh()
        return nn.functional.linear(
            x.flatten(1), parameters["critic.linear.weight"], parameters["critic.linear.bias"]
        ).squeeze(1)

    return critic, list(parameters.values())


def give(given: Tensor, draw: object, shape: Sequence[int]) -> Tensor:
    """Replace seeding.own_rows: return given numbers."""
    assert given.shape == tuple(shape)
    return given


def gradient_norms(penalty: Tensor, parameters: list[Tensor]) -> Tensor:
    gradients = torch.autograd.grad(penalty, parameters, allow_unused=True)
    return torch.stack([penalty.new_zeros(()) if g is None else g.norm() for g in gradients])


@each_file
@pytest.mark.parametrize(
    ("regularizer", "value", "norms"),
    [
        (GradientPenalty(weight=1.0, every=1), "wgan_gp_unweighted", "wgan_gp_param_grad_norms"),
        (DRAGAN(weight=1.0, every=1), "dragan_unweighted", "dragan_param_grad_norms"),
        (R1(gamma=1.0, every=1), "half_mean_squared_gradient_norm_real", "r1_param_grad_norms"),
    ],
    ids=["gradient_penalty", "dragan", "r1"],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-4), (torch.float64, 2e-7)])
def test_penalties_and_their_gradients_match_the_golden_ones(
    regularizer: Regularizer,
    value: str,
    norms: str,
    path: Path,
    dtype: torch.dtype,
    tolerance: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arrays = load(path, dtype)
    real, fake = arrays["in.real"], arrays["in.fake"]
    critic, parameters = golden_critic(arrays, texts(path, "critic.parameter_names"))
    torch.testing.assert_close(critic(real, None).detach(), arrays["out.critic_real"], rtol=0, atol=2e-5)

    one_each = [len(real), 1, 1, 1]
    of_samples = "in.dragan_scalar_uniform" if isinstance(regularizer, DRAGAN) else "in.interpolation_uniform"
    for module, given in (
        (base, arrays[of_samples].view(one_each)),
        (dragan, arrays["in.dragan_noise_uniform"].view(real.shape)),
    ):
        monkeypatch.setattr(module, "own_rows", partial(give, given))
    penalty = regularizer.discriminator_penalty(critic, batch_of(real, fake, critic))
    assert penalty is not None
    found_norms = gradient_norms(penalty, parameters)
    for found, expected in ((penalty.detach(), arrays[f"out.{value}"]), (found_norms, arrays[f"out.{norms}"])):
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


@pytest.mark.parametrize("gamma", [0.0, 0.1, 10.0])
@pytest.mark.parametrize("shape", [(7,), (3, 4, 5)])
@pytest.mark.parametrize("regularizer", [R1, R2])
def test_r1_and_r2_of_a_linear_critic_match_the_closed_form(
    regularizer: type[R1] | type[R2], shape: tuple[int, ...], gamma: float
) -> None:
    torch.manual_seed(0)
    real, fake = torch.randn(2, 6, *shape, dtype=torch.float64)
    w = torch.randn(real[0].numel(), dtype=torch.float64)
    penalty = regularizer(gamma=gamma, every=1).discriminator_penalty(linear(w), batch_of(real, fake))
    torch.testing.assert_close(penalty, gamma / 2 * w.square().sum(), rtol=1e-14, atol=0)


def test_r1_is_taken_at_real_and_r2_at_generated_samples_with_their_labels() -> None:
    torch.manual_seed(0)
    real, fake = torch.randn(2, 5, 3, 4, 4, dtype=torch.float64)
    labels, fake_labels = torch.randint(3, (2, 5))
    scale = torch.tensor([0.5, 2.0, -3.0], dtype=torch.float64)

    def critic(x: Tensor, y: Labels) -> Tensor:
        return scale[y] * x.flatten(1).square().sum(1) / 2  # its gradient with respect to x is scale[y] x

    batch = batch_of(real, fake, critic, labels=labels, fake_labels=fake_labels)
    for regularizer, x, y in ((R1(gamma=0.7, every=1), real, labels), (R2(gamma=0.7, every=1), fake, fake_labels)):
        squared_norms = [float(scale[y[i]] ** 2 * x[i].square().sum()) for i in range(len(x))]
        found = regularizer.discriminator_penalty(critic, batch)
        torch.testing.assert_close(found.item(), 0.35 * sum(squared_norms) / 5)


@pytest.mark.parametrize(
    "regularizer", [GradientPenalty(weight=1.0, every=1), DRAGAN(weight=1.0, every=1)], ids=class_name
)
def test_points_near_real_samples_have_their_labels(regularizer: Regularizer) -> None:
    real, fake = torch.randn(2, 5, 3)
    labels = torch.tensor([0, 1, 2, 1, 0])
    critic = Recorder(lambda x: x.sum(1))
    regularizer.discriminator_penalty(critic, batch_of(real, fake, labels=labels, fake_labels=labels + 1))
    assert critic.labels == [labels]


def test_r1_is_differentiated_through_the_augmentation() -> None:
    """The gradient with respect to the augmented samples would be twice as long."""
    torch.manual_seed(0)
    real, fake = torch.randn(2, 5, 3, 4, 4, dtype=torch.float64)
    for regularizer, x in ((R1(gamma=2.0, every=1), real), (R2(gamma=2.0, every=1), fake)):

        def critic(x: Tensor, labels: Labels) -> Tensor:
            augmented = 0.5 * x + 0.125
            return augmented.flatten(1).square().sum(1) / 2

        expected = (0.5 * (0.5 * x + 0.125)).flatten(1).square().sum(1).mean()
        torch.testing.assert_close(regularizer.discriminator_penalty(critic, batch_of(real, fake)), expected)


def test_r1_is_differentiated_through_an_augmentation_that_mixes_pixels() -> None:
    torch.manual_seed(0)
    real, w = torch.randn(5, 6, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    mix = torch.randn(6, 6, dtype=torch.float64)
    penalty = R1(gamma=1.0, every=1).discriminator_penalty(lambda x, labels: x @ mix @ w, batch_of(real, real))
    torch.testing.assert_close(penalty, (mix @ w).square().sum() / 2)


def test_gradient_is_that_of_the_sum_of_the_logits() -> None:
    """This matters for critics that couple samples."""
    torch.manual_seed(0)
    x = torch.randn(4, 3, dtype=torch.float64)

    def critic(x: Tensor, labels: Labels) -> Tensor:
        return x @ x.mean(0)  # the sum is 4 |mean|^2, its gradient with respect to each sample 2 mean

    penalty = R1(gamma=1.0, every=1).discriminator_penalty(critic, batch_of(x, x))
    torch.testing.assert_close(penalty, (2 * x.mean(0)).square().sum() / 2)


@pytest.mark.parametrize("weight", [0.1, 10.0])
@pytest.mark.parametrize("shape", [(7,), (3, 4, 5)])
def test_dragan_of_a_linear_critic_matches_the_closed_form(shape: tuple[int, ...], weight: float) -> None:
    torch.manual_seed(0)
    real, fake = torch.randn(2, 6, *shape, dtype=torch.float64)
    w = torch.randn(real[0].numel(), dtype=torch.float64)
    penalty = DRAGAN(weight=weight, every=1).discriminator_penalty(linear(w), batch_of(real, fake))
    torch.testing.assert_close(penalty, weight * (w.square().sum().sqrt() - 1) ** 2)


def test_dragan_noise_has_the_published_distribution() -> None:
    torch.manual_seed(0)
    real = 3 * torch.randn(4000, 2, 3, dtype=torch.float64) + 1
    critic = Recorder(lambda x: x.flatten(1).sum(1))
    for _ in range(2):
        DRAGAN(weight=1.0, every=1).discriminator_penalty(critic, batch_of(real, torch.zeros_like(real)))
    deviation = (real.square().mean() - real.mean().square()).sqrt()
    first, second = ((x - real) / (deviation / 2) for x in critic.inputs)
    assert not torch.equal(first, second)
    # A product of two uniform numbers has mean 1/4 and second moment 1/9. Two entries of a sample share one factor, so
    # that the mean of their product is 1/3 1/2 1/2.
    assert 0 <= float(first.min()) <= float(first.max()) < 1.001
    torch.testing.assert_close(float(first.mean()), 1 / 4, atol=0.01, rtol=0)
    torch.testing.assert_close(float(first.square().mean()), 1 / 9, atol=0.01, rtol=0)
    torch.testing.assert_close(float((first[:, 0] * first[:, 1]).mean()), 1 / 12, atol=0.01, rtol=0)


@each_file
def test_dragan_deviation_matches_the_golden_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deviation is taken over all entries, without bias."""
    arrays = load(path)
    for module in (base, dragan):
        monkeypatch.setattr(module, "own_rows", lambda draw, shape: torch.ones(*shape, dtype=torch.float64))
    critic = Recorder(lambda x: x.flatten(1).sum(1))
    DRAGAN(weight=1.0, every=1).discriminator_penalty(critic, batch_of(arrays["in.real"], arrays["in.fake"]))
    deviations = 2 * (critic.inputs[0] - arrays["in.real"])
    torch.testing.assert_close(deviations, arrays["out.dragan_batch_std"].expand_as(deviations), rtol=2e-7, atol=0)


@pytest.mark.parametrize("packing", [1, 2])
@pytest.mark.parametrize("regularizer", PENALTIES, ids=class_name)
def test_several_processes_evaluate_the_same_points_as_one(
    regularizer: Regularizer, packing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, fake = torch.randn(2, 8, 3, 4)

    def points_and_penalty(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        torch.manual_seed(5)
        critic = Recorder(lambda x: x.flatten(1).square().sum(1))
        penalty = regularizer.discriminator_penalty(critic, batch_of(real, fake, packing=packing))
        assert penalty is not None
        return critic.inputs[0], penalty

    points, penalty = points_and_penalty(real, fake)
    monkeypatch.setattr(dragan, "whole_batch", lambda x: real)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(seeding, "shard", seeding.Shard(rank=rank, world_size=2, rows=4))
        parts.append(points_and_penalty(real.chunk(2)[rank], fake.chunk(2)[rank]))
    assert torch.equal(torch.cat([part for part, _ in parts]), points)
    torch.testing.assert_close((parts[0][1] + parts[1][1]) / 2, penalty)


def smooth_critic() -> nn.Module:
    torch.manual_seed(0)
    return dcgan.Discriminator(
        (1, 16, 16), width=1, norm="none", activation="silu", slope=0.2, bias="all", init="default"
    ).double()


@pytest.mark.parametrize(
    "augment", [lambda x: x, lambda x: 0.5 * x + 0.125, torch.tanh], ids=["none", "affine", "tanh"]
)
@pytest.mark.parametrize("regularizer", PENALTIES, ids=class_name)
def test_parameter_gradients_match_finite_differences(
    regularizer: Regularizer, augment: Callable[[Tensor], Tensor]
) -> None:
    network = smooth_critic()
    batch = batch_of(*torch.randn(2, 3, 1, 16, 16, dtype=torch.float64))
    names = [name for name, _ in network.named_parameters()]

    def penalty(*parameters: Tensor) -> Tensor | None:
        torch.manual_seed(1)
        values = dict(zip(names, parameters, strict=True))
        critic = unconditional(lambda x: functional_call(network, values, (augment(x),)))
        return regularizer.discriminator_penalty(critic, batch)

    assert torch.autograd.gradcheck(penalty, tuple(network.parameters()))


@pytest.mark.parametrize("regularizer", PENALTIES, ids=class_name)
def test_penalty_is_detached_from_the_samples(regularizer: Regularizer) -> None:
    real, fake = torch.randn(2, 3, 1, 16, 16, dtype=torch.float64, requires_grad=True)
    penalty = regularizer.discriminator_penalty(unconditional(smooth_critic()), batch_of(real, fake))
    assert penalty is not None
    assert torch.autograd.grad(penalty, [real, fake], allow_unused=True) == (None, None)


@pytest.mark.parametrize("regularizer", PENALTIES, ids=class_name)
def test_constant_critic_has_a_finite_penalty_and_gradient(regularizer: Regularizer) -> None:
    network = smooth_critic()
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    batch = batch_of(*torch.randn(2, 3, 1, 16, 16, dtype=torch.float64))
    penalty = regularizer.discriminator_penalty(unconditional(network), batch)
    assert penalty is not None
    torch.testing.assert_close(penalty.item(), 0.0 if isinstance(regularizer, R1 | R2) else 3.0)
    for gradient in torch.autograd.grad(penalty, list(network.parameters()), allow_unused=True):
        assert gradient is None or gradient.isfinite().all()


@pytest.mark.parametrize("regularizer", PENALTIES, ids=class_name)
def test_weights_are_read_at_each_call_and_may_be_tensors(regularizer: Regularizer) -> None:
    batch = batch_of(*torch.randn(2, 5, 3))
    name = "gamma" if isinstance(regularizer, R1 | R2) else "weight"

    def penalty() -> Any:
        torch.manual_seed(2)
        return regularizer.discriminator_penalty(linear(torch.ones(3)), batch)

    before, usual = penalty(), getattr(regularizer, name)
    try:
        driven = torch.tensor(usual / 4)
        setattr(regularizer, name, driven)
        torch.testing.assert_close(penalty(), before / 4)
        driven.fill_(usual / 2)
        torch.testing.assert_close(penalty(), before / 2)
    finally:
        setattr(regularizer, name, usual)


@pytest.mark.parametrize(
    ("regularizer", "unused"),
    [
        *((r, ["fake", "discriminate"]) for r in PENALTIES[1:3]),
        (PENALTIES[0], ["discriminate"]),
        (PENALTIES[3], ["real", "discriminate"]),
    ],
)
def test_lazy_penalty_computes_only_what_it_reads(regularizer: Regularizer, unused: list[str]) -> None:
    def refuse(*inputs: Any) -> Any:
        raise AssertionError("must not be computed")

    x = torch.randn(4, 3)
    given: dict[str, Any] = {
        "real": lambda: (x, None),
        "fake": lambda: (x, None),
        "augment": refuse,
        "discriminate": refuse,
        **dict.fromkeys(unused, refuse),
    }
    penalty = regularizer.discriminator_penalty(sum_of_entries, UpdateBatch(Clock(0.0, 0), **given))
    assert penalty is not None
    assert penalty.isfinite()
