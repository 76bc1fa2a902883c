from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gantrain.budget import critic_schedule
from gantrain.config import CriticWarmup
from gantrain.datasets.base import ImageDataset
from gantrain.datasets.batches import Batch, ImageBatches
from gantrain.ema import EMA
from gantrain.game import Game, Objective
from gantrain.losses.base import Loss
from gantrain.losses.nonsaturating import NonSaturating
from gantrain.losses.wasserstein import Wasserstein
from gantrain.models import dcgan, mlp
from gantrain.models.latent import Normal
from gantrain.regularizers.base import Critic, Regularizer, UpdateBatch
from gantrain.regularizers.gradient_penalty import GradientPenalty
from gantrain.regularizers.input_noise import InputNoise
from gantrain.regularizers.label_noise import LabelNoise
from gantrain.regularizers.weight_clip import WeightClip
from gantrain.schedules.base import Clock
from gantrain.seeding import key
from gantrain.train import TrainState, train
from gantrain.updates import Logs, frozen

CPU = torch.device("cpu")
LATENT = Normal(z_dim=3)
SHAPE = (1, 4, 4)
BATCH_SIZE = 5


class RecordedBatches(ImageBatches):
    """Batches of 17 noise images, which record the indices that were requested."""

    def __init__(self, *, seed: int = 0):
        images = torch.randint(0, 256, (17, *SHAPE), generator=torch.Generator().manual_seed(0)).byte()
        dataset = ImageDataset("noise", images, labels=None, num_classes=None, fingerprint="f")
        super().__init__(dataset, batch_size=BATCH_SIZE, seed=seed, device=CPU)
        self.requested: list[int] = []

    def __getitem__(self, i: int) -> Batch:
        self.requested.append(i)
        return super().__getitem__(i)


def make_state(
    *,
    lr: float = 1e-2,
    G_norm: str = "batch",
    D_norm: str = "none",
    dropout: float = 0.0,
    ema: bool = False,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
) -> TrainState:
    torch.manual_seed(0)
    common: dict[str, Any] = {"width": 6, "multipliers": [1, 1], "slope": 0.2, "init": "default"}
    G = mlp.Generator(SHAPE, LATENT.z_dim, activation="relu", norm=G_norm, output="tanh", **common)
    D = mlp.Discriminator(SHAPE, activation="leaky_relu", norm=D_norm, dropout=dropout, **common)
    G_ema = deepcopy(G).requires_grad_(False) if ema else None
    return TrainState(G, D, optimizer(G.parameters(), lr=lr), optimizer(D.parameters(), lr=lr), G_ema)


def run(state: TrainState, **options: Any) -> TrainState:
    objective = Objective(options.pop("loss", NonSaturating()), options.pop("regularizers", {}))
    defaults: dict[str, Any] = {"batches": RecordedBatches(), "steps": 3, "n_critic": lambda _: 2, "seed": 0}
    train(state, latent=LATENT, objective=objective, device=CPU, **defaults | options)
    return state


def snapshot(state: TrainState) -> dict[str, Any]:
    return deepcopy(
        {
            "G": state.G.state_dict(),
            "D": state.D.state_dict(),
            "G_ema": {} if state.G_ema is None else state.G_ema.state_dict(),
            "G_optimizer": state.G_optimizer.state_dict(),
            "D_optimizer": state.D_optimizer.state_dict(),
            "step": state.step,
            "batches_seen": state.batches_seen,
        }
    )


def restore(state: TrainState, saved: dict[str, Any]) -> None:
    for name in ("G", "D", "G_optimizer", "D_optimizer"):
        getattr(state, name).load_state_dict(saved[name])
    if state.G_ema is not None:
        state.G_ema.load_state_dict(saved["G_ema"])
    state.step, state.batches_seen = saved["step"], saved["batches_seen"]


def weights(state: TrainState) -> Tensor:
    return torch.cat([p.detach().flatten() for p in (*state.G.parameters(), *state.D.parameters())])


def assert_bitwise_equal(first: dict[str, Any], second: dict[str, Any]) -> None:
    torch.testing.assert_close(first, second, atol=0, rtol=0, equal_nan=True)


def stateful_options() -> dict[str, Any]:
    """Return options with parts that draw random numbers or have a state."""
    regularizers = {
        "gradient_penalty": GradientPenalty(weight=10.0, every=1),
        "weight_clip": WeightClip(limit=0.3),
        "label_noise": LabelNoise(amount=0.2),
        "input_noise": InputNoise(std=0.1),
    }
    return {"regularizers": regularizers, "ema": EMA(halflife_images=20.0, rampup=None)}


def gradients(module: nn.Module) -> list[Tensor | None]:
    return [None if p.grad is None else p.grad.clone() for p in module.parameters()]


def test_step_of_one_player_leaves_weights_and_gradients_of_the_other() -> None:
    state = make_state()
    events: list[str] = []
    held: dict[str, Any] = {}

    def hold(name: str, other: nn.Module) -> Callable[..., None]:
        def before(*args: object) -> None:
            held[name] = (deepcopy(list(other.parameters())), gradients(other))

        return before

    def compare(name: str, other: nn.Module) -> Callable[..., None]:
        def after(*args: object) -> None:
            events.append(name)
            expected_weights, expected_gradients = held[name]
            torch.testing.assert_close(list(other.parameters()), expected_weights, atol=0, rtol=0)
            for gradient, expected in zip(gradients(other), expected_gradients, strict=True):
                assert (gradient is None) == (expected is None)
                if gradient is not None:
                    torch.testing.assert_close(gradient, expected, atol=0, rtol=0)

        return after

    # The step of a player begins with zero_grad, before its loss runs backward.
    for name, optimizer, other in (("D", state.D_optimizer, state.G), ("G", state.G_optimizer, state.D)):
        zero_grad, start = optimizer.zero_grad, hold(name, other)
        optimizer.zero_grad = lambda zero_grad=zero_grad, start=start, **options: (start(), zero_grad(**options))
        optimizer.register_step_post_hook(compare(name, other))
    run(state, regularizers={"gradient_penalty": GradientPenalty(weight=10.0, every=1)})
    assert events == ["D", "D", "G"] * 3


def test_fake_samples_are_detached_in_critic_updates() -> None:
    state = make_state()
    inputs: list[tuple[bool, bool]] = []
    state.D.register_forward_pre_hook(
        lambda D, args: inputs.append((args[0].requires_grad, next(D.parameters()).requires_grad))
    )
    run(state, steps=1, n_critic=lambda _: 2)
    # (gradient to the image, gradient to D): two critic updates, then the generator's with D frozen.
    assert inputs == [(False, True), (False, True), (True, False)]


def test_frozen_restores_requires_grad_even_after_an_error() -> None:
    D = nn.Linear(2, 2)
    with frozen(D):
        assert not any(p.requires_grad for p in D.parameters())
        x = torch.ones(1, 2, requires_grad=True)
        D(x).sum().backward()
        assert x.grad is not None
    assert all(p.requires_grad for p in D.parameters())

    def fail() -> None:
        with frozen(D):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert all(p.requires_grad for p in D.parameters())
    assert all(p.grad is None for p in D.parameters())


def test_critic_is_updated_n_critic_times_and_sees_every_batch_once() -> None:
    state, batches, updates = make_state(), RecordedBatches(), []
    state.D_optimizer.register_step_post_hook(lambda *_: updates.append(state.step))
    schedule = critic_schedule(2, CriticWarmup(n_critic=4, steps=2, every=3))
    run(state, batches=batches, steps=8, n_critic=schedule)
    assert [updates.count(step) for step in range(8)] == [4, 4, 2, 4, 2, 2, 4, 2]
    assert batches.requested == list(range(24))
    assert state.batches_seen == 24
    assert state.step == 8


def test_train_changes_nothing_if_all_steps_are_done() -> None:
    state = run(make_state(), steps=2)
    before = snapshot(state)
    run(state, steps=2)
    assert_bitwise_equal(snapshot(state), before)


@pytest.mark.parametrize(("G_norm", "D_norm"), [("batch", "none"), ("batch", "batch"), ("layer", "layer")])
def test_the_same_seed_gives_the_same_weights_bit_for_bit(G_norm: str, D_norm: str) -> None:
    def result(seed: int, state_before: int) -> TrainState:
        state = make_state(G_norm=G_norm, D_norm=D_norm, dropout=0.5, ema=True)
        torch.manual_seed(state_before)
        return run(state, seed=seed, **stateful_options())

    first = result(seed=0, state_before=1)
    assert weights(first).isfinite().all()
    assert_bitwise_equal(snapshot(result(seed=0, state_before=2)), snapshot(first))
    assert not torch.equal(weights(result(seed=1, state_before=1)), weights(first))


@pytest.mark.parametrize(("G_norm", "D_norm"), [("batch", "none"), ("batch", "batch")])
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.RMSprop])
@pytest.mark.parametrize("stop", [1, 4])
def test_continued_training_equals_uninterrupted_training_bit_for_bit(
    stop: int, optimizer: Callable[..., torch.optim.Optimizer], G_norm: str, D_norm: str
) -> None:
    def fresh() -> TrainState:
        return make_state(G_norm=G_norm, D_norm=D_norm, dropout=0.5, ema=True, optimizer=optimizer)

    saved: dict[str, Any] = {}

    def save(state: TrainState, logs: Logs) -> None:
        if state.step == stop:
            saved.update(snapshot(state))

    options = stateful_options() | {"steps": 6, "n_critic": lambda step: 3 if step == 0 else 2}
    uninterrupted = run(fresh(), callbacks=[save], **options)

    continued = fresh()
    restore(continued, saved)
    torch.manual_seed(999)
    batches = RecordedBatches()
    run(continued, batches=batches, **options)
    assert batches.requested[0] == saved["batches_seen"]
    assert_bitwise_equal(snapshot(continued), snapshot(uninterrupted))


def both_logits(D: nn.Module, real: Tensor, fake: Tensor, *, jointly: bool) -> tuple[Tensor, Tensor]:
    options: dict[str, Any] = {"precision": lambda network: network, "latent": LATENT, "fake_labels": None}
    game = Game(nn.Identity(), D, Objective(NonSaturating()), generator_rows=len(real), device=CPU, **options)
    batch = game.batch(Clock(0.0, 0), real=lambda: (real, None), fake=lambda: (fake, None), num_fake=len(fake))
    game.is_joint = jointly
    return game.both_logits(batch)


@pytest.mark.parametrize("norm", ["none", "instance", "layer"])
def test_joint_and_separate_forward_passes_agree_if_samples_are_independent(norm: str) -> None:
    torch.manual_seed(0)
    D = dcgan.Discriminator(
        (1, 16, 16), width=4, norm=norm, activation="leaky_relu", slope=0.2, bias="all", init="default"
    ).double()
    real, fake = torch.randn(2, 6, 1, 16, 16, dtype=torch.float64)
    for a, b in zip(both_logits(D, real, fake, jointly=True), both_logits(D, real, fake, jointly=False), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("jointly", [True, False])
def test_logits_of_real_and_fake_are_not_swapped(jointly: bool) -> None:
    real, fake = torch.full((4, 1), 1.0), torch.full((4, 1), -1.0)
    real_logits, fake_logits = both_logits(nn.Flatten(0), real, fake, jointly=jointly)
    assert (real_logits == 1).all()
    assert (fake_logits == -1).all()


@pytest.mark.parametrize(("norm", "batch_sizes"), [("batch", [5, 5, 5]), ("none", [10, 5]), ("layer", [10, 5])])
def test_with_batch_norm_real_and_fake_samples_pass_separately(norm: str, batch_sizes: list[int]) -> None:
    state, inputs = make_state(D_norm=norm), []
    state.D.register_forward_pre_hook(lambda _, args: inputs.append(len(args[0])))
    run(state, steps=1, n_critic=lambda _: 1)
    assert inputs == batch_sizes


@dataclass
class Spy(Regularizer):
    """Records its calls, and adds 100 to the critic's inputs."""

    events: list[str] = field(default_factory=list)
    clocks: list[Clock] = field(default_factory=list)
    batches: list[UpdateBatch] = field(default_factory=list)

    def perturb(self, x: Tensor, clock: Clock) -> Tensor:
        self.events.append("perturb")
        self.clocks.append(clock)
        return x + 100

    def discriminator_penalty(self, critic: Critic, batch: UpdateBatch) -> Tensor:
        self.events.append("penalty")
        self.batches.append(batch)
        return torch.tensor(7.0)

    def project(self, critic: nn.Module) -> None:
        self.events.append("project")


def test_regularizers_are_called_in_order_with_the_perturbed_samples() -> None:
    state, spy = make_state(), Spy()
    state.D_optimizer.register_step_post_hook(lambda *_: spy.events.append("D"))
    state.G_optimizer.register_step_post_hook(lambda *_: spy.events.append("G"))
    run(state, regularizers={"spy": spy}, steps=4, n_critic=lambda _: 1)
    assert spy.events == ["perturb", "perturb", "penalty", "D", "project", "perturb", "G"] * 4
    assert spy.clocks == [Clock(step / 4, step * BATCH_SIZE) for step in range(4) for _ in range(3)]
    for batch in spy.batches:
        assert batch.real.min() > 90
        assert batch.fake.min() > 90
        assert batch.real_logits.requires_grad
        assert not batch.fake.requires_grad


def test_weights_are_clipped_after_the_optimizers_step() -> None:
    state = run(make_state(lr=1.0), regularizers={"weight_clip": WeightClip(limit=0.05)})
    assert max(p.abs().max().item() for p in state.D.parameters()) == pytest.approx(0.05)
    assert max(p.abs().max().item() for p in state.G.parameters()) > 0.05


def test_callbacks_are_called_in_order_once_per_step_with_its_logs() -> None:
    calls: list[tuple[str, int]] = []
    seen: list[Logs] = []

    def first(state: TrainState, logs: Logs) -> None:
        calls.append(("first", state.step))
        logs["extra"] = 1.0

    def second(state: TrainState, logs: Logs) -> None:
        calls.append(("second", state.step))
        seen.append(dict(logs))

    run(make_state(), regularizers={"spy": Spy(), "weight_clip": WeightClip(limit=1.0)}, callbacks=[first, second])
    assert calls == [(name, step) for step in (1, 2, 3) for name in ("first", "second")]
    for logs in seen:
        assert set(logs) == {
            "loss/discriminator",
            "loss/generator",
            "logits/real",
            "logits/fake",
            "penalty/spy",
            "extra",
        }
        tensors = [value for value in logs.values() if isinstance(value, Tensor)]
        assert len(tensors) == 5
        assert not any(tensor.requires_grad for tensor in tensors)
        assert logs["logits/real"].shape == logs["logits/fake"].shape == (BATCH_SIZE,)
        assert logs["penalty/spy"] == 7
        softplus = nn.functional.softplus
        expected = softplus(-logs["logits/real"]).mean() + softplus(logs["logits/fake"]).mean()
        torch.testing.assert_close(logs["loss/discriminator"], expected)


def test_ema_follows_the_generator() -> None:
    state = make_state(ema=True)
    start, visited = deepcopy(state.G_ema), []
    run(
        state,
        ema=EMA(halflife_images=10.0, rampup=None),
        callbacks=[lambda state, _: visited.append(deepcopy(list(state.G.parameters())))],
    )
    decay = 0.5 ** (BATCH_SIZE / 10)
    for average, value, *later in zip(state.G_ema.parameters(), start.parameters(), *visited, strict=True):
        for current in later:
            value = decay * value + (1 - decay) * current
        torch.testing.assert_close(average, value.detach(), atol=1e-6, rtol=1e-5)
        assert not average.requires_grad


def test_ema_of_constant_weights_converges_with_its_half_life() -> None:
    state = make_state(ema=True, lr=0.0)
    for parameter in state.G_ema.parameters():
        nn.init.zeros_(parameter)
    run(state, ema=EMA(halflife_images=10.0, rampup=None), steps=4)
    for average, current in zip(state.G_ema.parameters(), state.G.parameters(), strict=True):
        torch.testing.assert_close(average, current.detach() * (1 - 0.5 ** (4 * BATCH_SIZE / 10)))


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@dataclass
class Adam:
    """Adam. Source: Kingma and Ba 2015, Algorithm 1."""

    lr: float
    beta_1: float
    beta_2: float
    t: int = 0
    m: list[Tensor] = field(default_factory=list)
    v: list[Tensor] = field(default_factory=list)

    def step(self, theta: list[Tensor], gradient: list[Tensor]) -> list[Tensor]:
        self.t += 1
        self.m = self.m or [torch.zeros_like(p) for p in theta]
        self.v = self.v or [torch.zeros_like(p) for p in theta]
        self.m = [self.beta_1 * m + (1 - self.beta_1) * g for m, g in zip(self.m, gradient, strict=True)]
        self.v = [self.beta_2 * v + (1 - self.beta_2) * g * g for v, g in zip(self.v, gradient, strict=True)]
        scale_m, scale_v = 1 - self.beta_1**self.t, 1 - self.beta_2**self.t
        return [
            p - self.lr * (m / scale_m) / ((v / scale_v).sqrt() + 1e-8)
            for p, m, v in zip(theta, self.m, self.v, strict=True)
        ]


class TanhCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.W, self.b, self.v = (nn.Parameter(torch.randn(*shape)) for shape in ((4, 2), (4,), (4,)))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.W.T + self.b).tanh() @ self.v


class TanhGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.A, self.c = (nn.Parameter(torch.randn(*shape)) for shape in ((2, 3), (2,)))

    def forward(self, z: Tensor) -> Tensor:
        return (z @ self.A.T + self.c).tanh()


@dataclass
class VectorBatches:
    data: Tensor
    batch_size: int

    def __getitem__(self, i: int) -> Batch:
        return Batch(self.data[i])

    def for_generator(self) -> "VectorBatches":
        raise NotImplementedError


@pytest.mark.usefixtures("double")
def test_wgan_gp_is_algorithm_1_of_the_paper() -> None:
    """Compare with the algorithm in plain tensors, in which the critic's gradient with respect to x is written out."""
    torch.manual_seed(0)
    steps, n_critic, n, weight, lr = 2, 3, 8, 10.0, 1e-2
    G, D = TanhGenerator(), TanhCritic()
    W, b, v = (p.detach().clone() for p in D.parameters())
    A, c = (p.detach().clone() for p in G.parameters())
    data = torch.randn(steps * n_critic, n, 2)

    optimizers = [torch.optim.Adam(net.parameters(), lr=lr, betas=(0.0, 0.9)) for net in (G, D)]
    train(
        TrainState(G, D, *optimizers),
        VectorBatches(data, n),
        Normal(z_dim=3),
        Objective(Wasserstein(), {"gradient_penalty": GradientPenalty(weight=weight, every=1)}),
        steps=steps,
        n_critic=lambda _: n_critic,
        seed=5,
        device=CPU,
    )

    adam_G, adam_D = Adam(lr, 0.0, 0.9), Adam(lr, 0.0, 0.9)
    for step in range(steps):
        numbers = torch.Generator().manual_seed(key(5, "step", step))
        for t in range(n_critic):
            x = data[step * n_critic + t]
            z = torch.randn(n, 3, generator=numbers)
            x_tilde = torch.tanh(z @ A.T + c)
            epsilon = torch.rand(n, 1, generator=numbers)
            x_hat = epsilon * x + (1 - epsilon) * x_tilde
            W, b, v = (p.requires_grad_() for p in (W, b, v))
            hidden = torch.tanh(x_hat @ W.T + b)
            slope = torch.stack([W.T @ (v * (1 - h**2)) for h in hidden])
            norm = (slope**2).sum(1).sqrt()
            fake_score, real_score = torch.tanh(x_tilde @ W.T + b) @ v, torch.tanh(x @ W.T + b) @ v
            L = (fake_score - real_score + weight * (norm - 1) ** 2).sum() / n
            W, b, v = (p.detach() for p in adam_D.step([W, b, v], list(torch.autograd.grad(L, [W, b, v]))))
        z = torch.randn(n, 3, generator=numbers)
        A, c = A.requires_grad_(), c.requires_grad_()
        L = -(torch.tanh(torch.tanh(z @ A.T + c) @ W.T + b) @ v).sum() / n
        A, c = (p.detach() for p in adam_G.step([A, c], list(torch.autograd.grad(L, [A, c]))))

    torch.testing.assert_close([p.detach() for p in D.parameters()], [W, b, v], atol=1e-10, rtol=1e-8)
    torch.testing.assert_close([p.detach() for p in G.parameters()], [A, c], atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("loss", [NonSaturating(), Wasserstein()])
def test_logs_are_those_of_the_last_critic_update_and_the_generator_update(loss: Loss) -> None:
    seen: list[Logs] = []
    state = make_state(lr=0.0, G_norm="none")
    run(state, loss=loss, steps=1, callbacks=[lambda _, logs: seen.append(logs)])
    torch.manual_seed(key(0, "step", 0))
    for _ in range(2):
        z = LATENT(BATCH_SIZE, device=CPU)
    real, fake = RecordedBatches()[1].x, state.G(z)
    torch.testing.assert_close(seen[0]["logits/real"], state.D(real).detach())
    torch.testing.assert_close(seen[0]["logits/fake"], state.D(fake).detach())
    torch.testing.assert_close(seen[0]["loss/discriminator"], loss.discriminator(state.D(real), state.D(fake)).detach())
    fake = state.G(LATENT(BATCH_SIZE, device=CPU))
    torch.testing.assert_close(seen[0]["loss/generator"], loss.generator(state.D(fake)).detach())
