"""Features of train(): lazy penalties, accumulation, labels, real logits, schedules, augmentations."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from oracles import load, oracle_files
from torch import Tensor, nn

from gantrain import seeding
from gantrain.augment.base import Augment
from gantrain.datasets.base import ImageDataset
from gantrain.datasets.batches import Batch, ImageBatches
from gantrain.datasets.labels import DrawnLabels, RealLabels
from gantrain.ema import EMA
from gantrain.errors import ConfigError
from gantrain.game import Objective
from gantrain.losses.nonsaturating import NonSaturating
from gantrain.losses.relativistic import Relativistic
from gantrain.losses.wasserstein import Wasserstein
from gantrain.models.latent import Normal
from gantrain.regularizers.base import Critic, Regularizer, UpdateBatch
from gantrain.regularizers.gradient_penalty import GradientPenalty
from gantrain.regularizers.input_noise import InputNoise
from gantrain.regularizers.label_noise import LabelNoise
from gantrain.regularizers.r1 import R1
from gantrain.schedules.apply import Schedules
from gantrain.schedules.base import Clock
from gantrain.schedules.linear import Linear
from gantrain.train import TrainState, train
from gantrain.updates import Logs

CPU = torch.device("cpu")
N, SHAPE, NUM_CLASSES = 8, (1, 4, 4), 3


class G(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 16)

    def forward(self, z: Tensor) -> Tensor:
        return self.linear(z).tanh().view(-1, *SHAPE)


class D(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.unused = nn.Linear(16, 5), nn.Linear(5, 1), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x.flatten(1)).tanh()).flatten()


class ConditionalG(G):
    num_classes = NUM_CLASSES

    def forward(self, z: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        SEEN.append(("G", y))
        return super().forward(z + y[:, None])


class ConditionalD(D):
    num_classes = NUM_CLASSES

    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        SEEN.append(("D", y))
        return super().forward(x) + y


SEEN: list[tuple[str, Tensor]] = []


def make_state(networks: tuple[type, type] = (G, D), optimizer: Any = None, **options: Any) -> TrainState:
    torch.manual_seed(0)
    made = [network().double() for network in networks]
    make = optimizer or torch.optim.SGD
    optimizers = [make(network.parameters(), **({"lr": 0.1} | options)) for network in made]
    return TrainState(*made, *optimizers)


class RecordedBatches(ImageBatches):
    def __init__(self, *, labels: bool = False) -> None:
        pixels = torch.randint(0, 256, (40, *SHAPE), generator=torch.Generator().manual_seed(0)).byte()
        y = torch.arange(40) % NUM_CLASSES
        dataset = ImageDataset("noise", pixels, labels=y, num_classes=NUM_CLASSES, fingerprint="f")
        super().__init__(dataset, batch_size=N, seed=0, device=CPU, labels=labels)
        self.requested: list[tuple[tuple[str, ...], int]] = []

    def __getitem__(self, i: int) -> Batch:
        self.requested.append((self.purpose, i))
        batch = super().__getitem__(i)
        return Batch(batch.x.double(), batch.y)


def run(state: TrainState, objective: Objective, **options: Any) -> TrainState:
    defaults: dict[str, Any] = {"steps": 4, "n_critic": lambda _: 1, "seed": 0, "device": CPU}
    batches = options.pop("batches", None) or RecordedBatches()
    torch.set_default_dtype(torch.float64)
    try:
        train(state, batches, Normal(z_dim=3), objective, **defaults | options)
    finally:
        torch.set_default_dtype(torch.float32)
    return state


def weights(state: TrainState) -> Tensor:
    return torch.cat([p.detach().flatten() for p in (*state.G.parameters(), *state.D.parameters())])


# Lazy penalties


class FirstLayer(Regularizer):
    """Half of the squared norm of a layer of D or G, whose gradient is the weight itself."""

    def __init__(self, *, every: int):
        self.every = every
        self.calls: list[tuple[str, float]] = []

    def discriminator_penalty(self, critic: Critic, batch: UpdateBatch) -> Tensor:
        self.calls.append(("D", float(batch.clock.fraction)))
        assert self.D is not None
        return self.D.first.weight.square().sum() / 2

    def generator_penalty(self, G: Any, draw: Callable[..., Any], batch: UpdateBatch) -> Tensor:
        self.calls.append(("G", float(batch.clock.fraction)))
        return G.linear.weight.square().sum() / 2

    D: Any = None


class NoLoss:
    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return 0 * (real_logits.sum() + fake_logits.sum())

    def generator(self, fake_logits: Tensor) -> Tensor:
        return 0 * fake_logits.sum()


def test_lazy_penalty_runs_at_every_kth_update_with_k_times_the_gradient() -> None:
    state, penalty = make_state(), FirstLayer(every=3)
    penalty.D = state.D
    first, others = state.D.first.weight.detach().clone(), deepcopy(state.D.last.state_dict())  # type: ignore[union-attr]
    run(state, Objective(NoLoss(), {"penalty": penalty}), steps=7)
    assert penalty.calls == [(player, step / 7) for step in (0, 3, 6) for player in ("D", "G")]
    c = 1 / (1 + 1 / 3)
    expected = first * (1 - 0.1 * c * 3) ** 3  # three steps of gradient descent, with the learning rate times c
    torch.testing.assert_close(state.D.first.weight.detach(), expected)
    torch.testing.assert_close(state.D.last.state_dict(), others)
    zero = [p.grad for p in state.D.unused.parameters()]  # type: ignore[union-attr]
    assert all(gradient is not None and not gradient.any() for gradient in zero)
    assert set(state.lazy_logs) == {"penalty/penalty", "penalty/penalty_generator"}


def test_interval_of_a_lazy_penalty_counts_critic_updates() -> None:
    state, penalty = make_state(), FirstLayer(every=4)
    penalty.D = state.D
    run(state, Objective(NoLoss(), {"penalty": penalty}), steps=4, n_critic=lambda _: 2)
    assert [call for call in penalty.calls if call[0] == "D"] == [("D", 0.0), ("D", 0.5)]


@pytest.mark.parametrize("path", oracle_files("lazy_regularisation_adam*.npz"), ids=lambda path: path.stem)
def test_adam_is_rescaled_as_in_stylegan2(path: Any) -> None:
    arrays = load(path)
    cases = sorted({name.split(".")[0] for name in arrays})
    for case in cases:
        lr, beta1, beta2, k = arrays[f"{case}.in.lr_beta1_beta2_interval"].tolist()
        state = make_state(optimizer=torch.optim.Adam, lr=lr, betas=(beta1, beta2))
        schedules = Schedules(state, Objective(NoLoss(), {"penalty": FirstLayer(every=int(k))}))
        for _ in range(2):  # repeated calls must not rescale again
            schedules(Clock(0.0, 0))
        for optimizer in (state.D_optimizer, state.G_optimizer):
            (group,) = optimizer.param_groups
            found = [group["lr"], *group["betas"]]
            assert found == pytest.approx(arrays[f"{case}.out.lr_beta1_beta2"].tolist(), rel=1e-12)


def test_without_lazy_penalties_the_optimizers_are_not_rescaled() -> None:
    state = make_state(optimizer=torch.optim.Adam)
    before = [dict(group) for group in state.D_optimizer.param_groups]
    run(state, Objective(NonSaturating(), {"r1": R1(gamma=1.0, every=1)}), steps=1)
    assert [group.keys() for group in state.D_optimizer.param_groups] == [group.keys() for group in before]


def test_lazy_r1_has_the_same_mean_gradient_as_r1_at_every_update() -> None:
    """With a small learning rate, k updates sum to the same change of the weights, rescaled by c."""
    k, moved = 4, {}
    for every in (1, k):
        state = make_state(lr=1e-6)
        before = weights(state)
        objective = Objective(NoLoss(), {"r1": R1(gamma=10.0, every=every)})
        # Every update sees the same batch.
        run(state, objective, steps=2 * k, batches=SameBatch())
        moved[every] = (weights(state) - before) / (1e-6 if every == 1 else 1e-6 / (1 + 1 / k))
    torch.testing.assert_close(moved[k], moved[1], rtol=1e-3, atol=2e-5)


class SameBatch(RecordedBatches):
    def __getitem__(self, i: int) -> Batch:
        return super().__getitem__(0)


def test_logs_of_a_lazy_penalty_are_the_same_after_resuming() -> None:
    def logs(stop: int | None) -> list[float]:
        state, seen = make_state(), list[float]()
        objective = Objective(NonSaturating(), {"r1": R1(gamma=1.0, every=3)})
        note: Any = lambda _, logs: seen.append(float(logs["penalty/r1"]))  # noqa: E731
        if stop is not None:
            with pytest.raises(Interrupted):
                run(state, objective, steps=8, callbacks=[note, stop_at(stop)])
            state.lazy_logs = {tag: torch.as_tensor(value).clone() for tag, value in state.lazy_logs.items()}
        run(state, objective, steps=8, callbacks=[note])
        return seen

    assert logs(None) == logs(2) == logs(5)


class Interrupted(Exception):
    pass


def stop_at(step: int) -> Callable[[TrainState, Logs], None]:
    def stop(state: TrainState, _: Logs) -> None:
        if state.step == step:
            raise Interrupted

    return stop


# Accumulation


def parts() -> dict[str, Regularizer]:
    return {
        "gradient_penalty": GradientPenalty(weight=10.0, every=1),
        "input_noise": InputNoise(std=0.3),
        "label_noise": LabelNoise(amount=0.5),
        "r1": R1(gamma=1.0, every=2),
    }


class Jitter(Augment):
    def __init__(self) -> None:
        self.observed: list[Tensor] = []

    def __call__(self, x: Tensor, clock: Clock) -> Tensor:
        return x * (1 + 0.5 * seeding.own_rows(torch.rand, [len(x), 1, 1, 1]).to(x))

    def observe(self, real_logits: Tensor) -> None:
        self.observed.append(real_logits.clone())


@pytest.mark.parametrize("multiple", [1, 2])
@pytest.mark.parametrize("loss", [Wasserstein(), Relativistic()], ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("accumulate", [2, 4])
def test_micro_batches_make_the_same_updates_as_the_whole_batch(accumulate: int, loss: Any, multiple: int) -> None:
    made = []
    for num in (1, accumulate):
        jitter = Jitter()
        objective = Objective(loss, parts(), {"jitter": jitter})
        seen: list[Logs] = []
        note: Any = lambda _, logs, seen=seen: seen.append(dict(logs))  # noqa: E731
        options = {"accumulate": num, "generator_batch_multiple": multiple, "callbacks": [note]}
        made.append((weights(run(make_state(), objective, **options)), seen, jitter.observed))
    (expected, seen, observed), (accumulated, seen_accumulated, observed_accumulated) = made
    torch.testing.assert_close(accumulated, expected, rtol=1e-10, atol=1e-12)
    for one, other in zip(seen, seen_accumulated, strict=True):
        assert one.keys() == other.keys()
        for tag in one:
            torch.testing.assert_close(torch.as_tensor(other[tag]), torch.as_tensor(one[tag]), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(observed_accumulated, observed, rtol=1e-9, atol=1e-9)
    assert seeding.shard == seeding.Shard()


# Real logits in the generator's step, and the order of the players


def test_relativistic_generator_takes_real_batches_from_its_own_sequence() -> None:
    state, batches = make_state(), RecordedBatches()
    own: list[tuple[tuple[str, ...], int]] = []
    batches.for_generator = lambda: recording(own)  # type: ignore[method-assign]
    run(state, Objective(Relativistic()), batches=batches, steps=3, n_critic=lambda _: 2)
    assert batches.requested == [((), i) for i in range(6)]
    assert own == [(("generator",), i) for i in range(3)]
    assert state.batches_seen == 6
    other = RecordedBatches().for_generator()
    assert not torch.equal(other.indices(0), batches.indices(0))
    assert sorted(torch.cat([other.indices(i) for i in range(5)]).tolist()) == list(range(40))


def recording(own: list[tuple[tuple[str, ...], int]]) -> RecordedBatches:
    batches: Any = ImageBatches.for_generator(RecordedBatches())
    batches.requested = own
    return batches


def test_losses_without_real_logits_take_no_real_batch_for_the_generator() -> None:
    batches = RecordedBatches()
    batches.for_generator = lambda: pytest.fail("not needed")  # type: ignore[method-assign]
    run(make_state(), Objective(NonSaturating()), batches=batches)


@pytest.mark.parametrize("first", ["discriminator", "generator"])
def test_first_sets_which_player_steps_first(first: str) -> None:
    state, order = make_state(), list[str]()
    for name, optimizer in (("D", state.D_optimizer), ("G", state.G_optimizer)):
        optimizer.register_step_post_hook(lambda *_, name=name: order.append(name))
    run(state, Objective(NonSaturating()), steps=2, n_critic=lambda _: 2, first=first)
    assert order == (["D", "D", "G"] if first == "discriminator" else ["G", "D", "D"]) * 2


def test_generator_batch_multiple_scales_the_generators_batch() -> None:
    state, batch_sizes = make_state(), list[int]()
    state.G.register_forward_pre_hook(lambda _, args: batch_sizes.append(len(args[0])))
    run(state, Objective(NonSaturating()), steps=1, generator_batch_multiple=3)
    assert batch_sizes == [N, 3 * N]


# Labels


def test_conditional_networks_receive_the_labels_of_the_real_batch() -> None:
    SEEN.clear()
    state, batches = make_state((ConditionalG, ConditionalD)), RecordedBatches(labels=True)
    run(state, Objective(Relativistic()), batches=batches, steps=1, fake_labels=RealLabels())
    real, own = RecordedBatches(labels=True)[0].y, RecordedBatches(labels=True).for_generator()[0].y
    assert [name for name, _ in SEEN] == ["G", "D", "G", "D"]
    assert real is not None
    assert own is not None
    for (_, found), expected in zip(SEEN, [real, torch.cat([real, real]), own, torch.cat([own, own])], strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("counts", [[1, 1, 1], [10, 0, 30], [5, 2, 1]])
def test_drawn_labels_have_the_frequencies_of_the_data(counts: list[int]) -> None:
    torch.manual_seed(0)
    labels = DrawnLabels(counts, CPU)(40_000, None)
    assert labels is not None
    shares = torch.bincount(labels, minlength=3) / 40_000
    expected = torch.tensor(counts) / sum(counts)
    assert (shares[expected == 0] == 0).all()
    torch.testing.assert_close(shares, expected, atol=0.01, rtol=0)  # four standard deviations


# Schedules and augmentations


def test_schedules_set_every_scheduled_value_at_each_step() -> None:
    state = make_state(optimizer=torch.optim.Adam, lr=0.01, betas=(0.5, 0.9))
    penalty, ema, jitter = GradientPenalty(weight=10.0, every=1), EMA(halflife_images=100.0, rampup=None), Jitter()
    objective = Objective(NonSaturating(), {"gradient_penalty": penalty}, {"jitter": jitter})

    def linear(*of: str, start: float = 1.0, end: float = 0.0) -> Linear:
        return Linear(of=list(of), start=start, end=end, begin=0.0, finish=1.0, unit="fraction")

    named = {
        "lr": linear("optimizer.lr"),
        "beta2": linear("discriminator_optimizer.beta2", start=0.9, end=0.98),  # in values that are not rounded
        "penalty": linear("regularizer.gradient_penalty.weight", end=0.5),
        "half-life": linear("ema_halflife_images", start=0.0, end=1.0),
        "strength": linear("augment.strength", start=0.0, end=1.0),
    }
    schedules = Schedules(state, objective, ema=ema, schedules=named)
    seen: list[list[float]] = []

    def note(state: TrainState, _: Logs) -> None:
        group = state.D_optimizer.param_groups[0]
        lr = state.G_optimizer.param_groups[0]["lr"]
        found = (lr, group["lr"], *group["betas"], penalty.weight, ema.halflife_images, jitter.strength)
        seen.append([float(x) for x in found])

    run(state, objective, schedules=schedules, ema=ema, callbacks=[note])
    for step, found in enumerate(seen):
        t = step / 4
        expected = [0.01 * (1 - t), 0.01, 0.5, 0.9 + 0.08 * t, 10 * (1 - 0.5 * t), 100 * t, t]
        assert found == pytest.approx(expected)


def test_captured_schedules_change_tensors_in_place() -> None:
    state = make_state(optimizer=torch.optim.Adam, lr=0.01)
    penalty = GradientPenalty(weight=10.0, every=1)
    named = {"x": Linear(of=["optimizer.lr", "regularizer.gradient_penalty.weight"], start=1.0, end=0.0, begin=0.0,
                         finish=1.0, unit="fraction")}  # fmt: skip
    objective = Objective(NonSaturating(), {"gradient_penalty": penalty})
    schedules = Schedules(state, objective, schedules=named, capture=CPU)
    schedules(Clock(0.0, 0))
    values = (state.G_optimizer.param_groups[0]["lr"], penalty.weight)
    assert all(isinstance(x, Tensor) for x in values)
    schedules(Clock(0.5, 0))
    assert (state.G_optimizer.param_groups[0]["lr"], penalty.weight) == values
    assert [float(x) for x in values] == pytest.approx([0.005, 5.0])


@pytest.mark.parametrize("of", ["optimizer.momentum", "regularizer.r1.gamma", "batch_size"])
def test_a_key_that_cannot_be_scheduled_is_refused(of: str) -> None:
    schedule = Linear(of=[of], start=1.0, end=0.0, begin=0.0, finish=1.0, unit="fraction")
    with pytest.raises(ConfigError, match=f"{of} cannot be scheduled; the keys that can are .*optimizer.lr"):
        Schedules(make_state(), Objective(NonSaturating()), schedules={"mine": schedule})


class Shift(Augment):
    """Adds 100, which marks augmented inputs of D."""

    def __call__(self, x: Tensor, clock: Clock) -> Tensor:
        return x + 100


def test_every_input_of_the_critic_is_augmented() -> None:
    state, lows = make_state(), list[float]()
    state.D.register_forward_pre_hook(lambda _, args: lows.append(float(args[0].min())))
    run(state, Objective(NonSaturating(), {"r1": R1(gamma=1.0, every=1)}, {"shift": Shift()}), steps=1)
    assert len(lows) == 3  # the critic's update, its penalty, the generator's update
    assert min(lows) > 90


def test_augmentations_observe_the_logits_of_each_critic_update() -> None:
    jitter = Jitter()
    run(make_state(), Objective(NonSaturating(), {}, {"jitter": jitter}), steps=2, n_critic=lambda _: 3)
    assert [len(logits) for logits in jitter.observed] == [N] * 6
