"""Captured updates equal eager ones bit for bit; without a GPU, tapes replace CUDA graphs."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from itertools import pairwise
from typing import Any

import image_runs
import pytest
import torch
import yaml
from adaptive import Adaptive
from composing import composed
from image_runs import CPU, NOISE, PENALTY, SHAPE, advance, make_state, restored, snapshot
from tapes import Tapes, tapes

from gantrain.assemble import build_discriminator, build_generator, build_objective
from gantrain.augment.ada import ADA
from gantrain.augment.diffaugment import DiffAugment
from gantrain.config import CONF
from gantrain.datasets.batches import Batch
from gantrain.datasets.labels import make_fake_labels
from gantrain.engine import graphs
from gantrain.engine.graphs import EAGER_CALLS, CapturedUpdate
from gantrain.engine.runtime import Runtime
from gantrain.instantiate import make_all
from gantrain.losses.hinge import Hinge
from gantrain.losses.nonsaturating import NonSaturating
from gantrain.losses.relativistic import Relativistic
from gantrain.models import conditional_resnet, conditional_stylegan2, lightweight, projection_cnn
from gantrain.models.latent import Normal
from gantrain.regularizers.base import Regularizer
from gantrain.regularizers.consistency import Consistency
from gantrain.regularizers.dequantization import Dequantization
from gantrain.regularizers.gradient_penalty import GradientPenalty
from gantrain.regularizers.path_length import PathLength
from gantrain.regularizers.r1 import R1
from gantrain.regularizers.r2 import R2
from gantrain.regularizers.reconstruction import Reconstruction
from gantrain.regularizers.weight_clip import WeightClip
from gantrain.schedules.apply import Schedules, in_steps
from gantrain.schedules.base import Clock, Schedule
from gantrain.schedules.linear import Linear
from gantrain.train import TrainState
from gantrain.updates import Logs

__all__ = ["tapes"]

GRAPH = Runtime(device=CPU, acceleration="graph")
BCR = {"weight_real": 10.0, "weight_fake": 10.0, "max_shift": 0.125, "every": 1}


def lazy_r1() -> dict[str, Any]:
    return {"loss": Relativistic(), "regularizers": {"r1": R1(gamma=1.0, every=2)}, "n_critic": lambda _: 1}


def adaptive() -> dict[str, Any]:
    return {"augment": {"adaptive": Adaptive(decay=0.8)}}


def ada() -> dict[str, Any]:
    (node,) = yaml.safe_load((CONF / "augment/ada.yaml").read_text()).values()
    del node["_target_"]
    return {"augment": {"ada": ADA(**node | {"strength": 0.5, "interval": 2, "images_to_one": 2000.0})}}


@pytest.mark.parametrize(
    ("norm", "options", "num_graphs"),
    [
        ("none", {}, 2),
        ("batch", {"loss": NonSaturating(), "regularizers": {}, "n_critic": lambda _: 1}, 2),
        ("none", {"regularizers": {"weight_clip": WeightClip(limit=0.05)}}, 2),
        ("none", {"n_critic": lambda step: 7 if step % 5 == 0 else 2}, 2),
        ("none", lazy_r1(), 3),  # a graph per phase
        ("none", lazy_r1() | {"accumulate": 2}, 6),  # and per micro-batch
        ("none", adaptive(), 2),
        ("none", adaptive() | {"accumulate": 2}, 4),
        ("none", ada(), 2),
        ("none", {"loss": Hinge(), "regularizers": {"bcr": Consistency(**BCR)}}, 2),
    ],
    ids=[
        *("wgan_gp", "dcgan", "weight clipping", "warm-up of the critic", "lazy r1", "lazy r1 and micro-batches"),
        *("adaptive augmentation", "adaptive augmentation and micro-batches", "ada", "consistency"),
    ],
)
def test_replays_equal_eager_steps_bit_for_bit(
    tapes: Callable[..., Tapes], norm: str, options: dict[str, Any], num_graphs: int
) -> None:
    plain, fast = make_state(norm=norm), make_state(norm=norm)
    for_fast = deepcopy(options)  # augmentations have states
    seen = advance(plain, Runtime(device=CPU), steps=12, **options)
    deck = tapes()
    assert advance(fast, GRAPH, steps=12, **for_fast) == seen
    assert deck.captured == num_graphs
    torch.testing.assert_close(snapshot(fast), snapshot(plain), atol=0, rtol=0)
    for name, augment in options.get("augment", {}).items():
        assert 0.1 < augment.strength < 1
        assert torch.equal(for_fast["augment"][name].strength, augment.strength)


def test_replays_of_residual_networks_with_labels_equal_eager_steps(tapes: Callable[..., Tapes]) -> None:
    """Conditional BatchNorm, self-attention, and spectral norm in both networks."""

    def made() -> TrainState:
        torch.manual_seed(0)
        common: dict[str, Any] = {
            "num_classes": 3,
            "width": 1,
            "multipliers": None,
            "attention": [1],
            "norm": "spectral",
        }
        G = conditional_resnet.Generator(SHAPE, 8, upsample="nearest", init="glorot", **common)
        own: dict[str, Any] = {"num_halvings": None, "pooling": "sum", "hidden": "before"}
        D = conditional_resnet.Discriminator(SHAPE, init="glorot", **own, **common)
        optimizers = [torch.optim.Adam(network.parameters(), lr=1e-3, fused=True) for network in (G, D)]
        return TrainState(G, D, *optimizers, deepcopy(G).requires_grad_(False))

    options: dict[str, Any] = {"loss": Hinge(), "regularizers": {"dequantization": Dequantization(scale=1 / 128)}}
    options |= {"fake_labels": make_fake_labels("uniform", [1, 1, 1], CPU), "steps": 5}
    plain, fast = made(), made()
    seen = advance(plain, Runtime(device=CPU), **options)
    deck = tapes()
    assert advance(fast, GRAPH, **options) == seen
    assert deck.captured == 2
    torch.testing.assert_close(snapshot(fast), snapshot(plain), atol=0, rtol=0)


def test_replays_of_projection_networks_equal_eager_steps(tapes: Callable[..., Tapes]) -> None:
    def made() -> TrainState:
        torch.manual_seed(0)
        common: dict[str, Any] = {"num_classes": 3, "width": 2, "slope": 0.2, "init": "default"}
        G = projection_cnn.Generator(SHAPE, 8, multipliers=None, norm="batch", activation="relu", **common)
        D = projection_cnn.Discriminator(SHAPE, norm="none", activation="leaky_relu", embedding_std=0.1, **common)
        optimizers = [torch.optim.Adam(network.parameters(), lr=1e-3, fused=True) for network in (G, D)]
        return TrainState(G, D, *optimizers, deepcopy(G).requires_grad_(False))

    penalties = {"r1": R1(gamma=0.1, every=1), "r2": R2(gamma=0.1, every=1)}
    options: dict[str, Any] = {"loss": Relativistic(), "regularizers": penalties, "steps": 5}
    options |= {"fake_labels": make_fake_labels("real", [1, 1, 1], CPU)}
    plain, fast = made(), made()
    seen = advance(plain, Runtime(device=CPU), **options)
    deck = tapes()
    assert advance(fast, GRAPH, **options) == seen
    assert deck.captured == 2
    torch.testing.assert_close(snapshot(fast), snapshot(plain), atol=0, rtol=0)


def test_replays_of_stylegan2_equal_eager_steps(tapes: Callable[..., Tapes]) -> None:
    """Noise, mixed styles, the means of w and of the path length, minibatch standard deviation, two lazy penalties."""

    def made() -> tuple[TrainState, dict[str, Any]]:
        torch.manual_seed(0)
        common: dict[str, Any] = {"num_classes": 3, "num_mapping_layers": 1, "mapping_lr_multiplier": 0.01}
        common |= {"width": 2, "full_width_until": 4, "num_bf16_stages": 4, "clamp": 256.0}
        own: dict[str, Any] = {"w_dim": 4, "style_mixing": 0.9, "noise": "random", "w_avg_decay": 0.9}
        G = conditional_stylegan2.Generator(SHAPE, 8, **own, **common)
        D = conditional_stylegan2.Discriminator(SHAPE, architecture="resnet", minibatch_group=4, **common)
        optimizers = [torch.optim.Adam(network.parameters(), lr=1e-3, fused=True) for network in (G, D)]
        path_length = PathLength(weight=2.0, decay=0.1, batch_shrink=2, every=2)
        parts: dict[str, Any] = {"regularizers": {"r1": R1(gamma=1.0, every=3), "path_length": path_length}}
        return TrainState(G, D, *optimizers, deepcopy(G).requires_grad_(False)), parts

    (plain, of_plain), (fast, of_fast) = made(), made()
    options: dict[str, Any] = {"loss": NonSaturating(), "steps": 10, "first": "generator", "n_critic": lambda _: 1}
    options["fake_labels"] = make_fake_labels("empirical", [3, 4, 5], CPU)
    seen = advance(plain, Runtime(device=CPU), **options, **of_plain)
    deck = tapes()
    assert advance(fast, GRAPH, **options, **of_fast) == seen
    assert deck.captured == 4
    torch.testing.assert_close(snapshot(fast), snapshot(plain), atol=0, rtol=0)
    means = [parts["regularizers"]["path_length"].mean for parts in (of_plain, of_fast)]
    assert means[0] == means[1] > 0
    assert plain.G.w_avg.abs().max() > 0


def test_replays_of_the_lightweight_gan_equal_eager_steps(
    tapes: Callable[..., Tapes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise, attention, two heads, a decoder, and a lazy penalty."""
    monkeypatch.setattr(image_runs, "SHAPE", (3, 32, 32))

    def made() -> TrainState:
        torch.manual_seed(0)
        common: dict[str, Any] = {"width": 1, "attention": [16], "num_heads": 1, "head_dim": 1, "antialias": True}
        G = lightweight.Generator((3, 32, 32), 8, output="tanh", **common)
        D = lightweight.Discriminator((3, 32, 32), **common)
        for noise in (block[-1].noise for block in G.blocks):
            torch.nn.init.ones_(noise.scale)
        optimizers = [torch.optim.Adam(network.parameters(), lr=1e-3, fused=True) for network in (G, D)]
        return TrainState(G, D, *optimizers, deepcopy(G).requires_grad_(False))

    regularizers = {"r1": R1(gamma=1.0, every=2), "reconstruction": Reconstruction(weight=1.0)}
    options: dict[str, Any] = {"loss": Hinge(), "regularizers": regularizers, "n_critic": lambda _: 1, "steps": 9}
    plain, fast = made(), made()
    seen = advance(plain, Runtime(device=CPU), **options)
    deck = tapes()
    assert advance(fast, GRAPH, **options) == seen
    assert deck.captured == 3
    torch.testing.assert_close(snapshot(fast), snapshot(plain), atol=0, rtol=0)


RECIPES = {
    "sngan": (),
    "wgan_gp_resnet": (),
    "cgan_pd": (),
    "biggan": ("model.generator.shared_dim=4",),
    "r3gan": ("model.generator.num_blocks=1", "model.discriminator.num_blocks=1", "augment=[ada_r3gan]"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_replays_of_recipes_equal_eager_steps(tapes: Callable[..., Tapes], name: str) -> None:
    """The networks, the loss, the penalties and the augmentation of a recipe."""
    config = composed(f"model={name}", "model.generator.width=4", "model.discriminator.width=4", *RECIPES[name])

    def made() -> tuple[TrainState, dict[str, Any]]:
        torch.manual_seed(0)
        num_classes = 3 if name in ("cgan_pd", "biggan") else None
        G = build_generator(config.model["generator"], SHAPE, Normal(z_dim=8), num_classes)
        D = build_discriminator(config.model["discriminator"], SHAPE, num_classes)
        optimizers = [torch.optim.Adam(network.parameters(), lr=1e-3, fused=True) for network in (G, D)]
        parts = build_objective(config)
        options: dict[str, Any] = {"loss": parts.loss, "regularizers": parts.regularizers, "augment": parts.augment}
        if num_classes:
            options["fake_labels"] = make_fake_labels("uniform", [1] * num_classes, CPU)
        return TrainState(G, D, *optimizers, deepcopy(G).requires_grad_(False)), options

    (plain, of_plain), (fast, of_fast) = made(), made()
    seen = advance(plain, Runtime(device=CPU), steps=6, **of_plain)
    deck = tapes()
    assert advance(fast, GRAPH, steps=6, **of_fast) == seen
    assert deck.captured == 2
    torch.testing.assert_close(snapshot(fast), snapshot(plain), atol=0, rtol=0)


def test_captured_step_sees_the_training_progress(tapes: Callable[..., Tapes]) -> None:
    options: dict[str, Any] = {"steps": 12, "regularizers": NOISE}
    plain, fast = make_state(), make_state()
    seen = advance(plain, Runtime(device=CPU), **options)
    tapes()
    replayed = advance(fast, GRAPH, **options)
    for one, other in zip(seen, replayed, strict=True):  # in a graph, the amount of noise is a float32 tensor
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("cut", [2, 7])
@pytest.mark.parametrize("regularizers", [PENALTY, NOISE], ids=["penalty", "noise that decays"])
def test_resumed_run_with_new_captures_equals_uninterrupted_run(
    tapes: Callable[..., Tapes], regularizers: dict[str, Regularizer], cut: int
) -> None:
    """The first updates after resuming are eager, where the uninterrupted run replays a graph."""
    options: dict[str, Any] = {"steps": 14, "regularizers": regularizers}
    plain = make_state()
    tapes()
    seen = advance(plain, GRAPH, **options)
    first = make_state()
    tapes()
    before = advance(first, GRAPH, until=cut, **options)
    second = restored(snapshot(first))
    second.step, second.batches_seen = first.step, first.batches_seen
    deck = tapes()
    assert before + advance(second, GRAPH, **options) == seen
    assert deck.captured == 2
    torch.testing.assert_close(snapshot(second), snapshot(plain), atol=0, rtol=0)


def test_updates_that_cannot_be_captured_stay_eager(
    tapes: Callable[..., Tapes], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain, fast = make_state(), make_state()
    seen = advance(plain, Runtime(device=CPU), steps=8)
    tapes()

    def refuse(function: Callable[[], Logs], _: torch.device) -> Any:
        try:
            raise RuntimeError("operation not permitted when stream is capturing")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(graphs, "capture_graph", refuse)
    assert advance(fast, GRAPH, steps=8) == seen
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        "update_critic could not be captured as a CUDA graph; all updates stay eager: operation not permitted "
        "when stream is capturing"
    ]


def test_after_a_failed_capture_no_graph_is_replayed(
    tapes: Callable[..., Tapes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replay of the critic's graph, captured before the failure, would reuse the random numbers of its last step."""
    state = make_state()
    deck, replays = tapes(), list[int]()

    def record(function: Callable[[], Logs], device: torch.device) -> Any:
        if deck.captured:
            raise RuntimeError("out of memory")
        replay, made = deck.record(function, device)
        return lambda: (replay(), replays.append(state.step)), made

    monkeypatch.setattr(graphs, "capture_graph", record)
    plain = make_state()
    seen = advance(plain, Runtime(device=CPU), steps=8)
    assert advance(state, GRAPH, steps=8) == seen
    assert replays
    assert max(replays) == EAGER_CALLS  # the step in which the capture of the generator's update fails


@pytest.mark.parametrize(
    ("changes", "n_critic", "captures"),
    [([8, 12], 2, 5), ([16, 18], 2, 5), (range(1, 30), 2, 0), (range(1, 30), 7, 2)],
)
def test_captured_updates_use_a_changed_learning_rate(
    tapes: Callable[..., Tapes], changes: Sequence[int], n_critic: int, captures: int
) -> None:
    """A learning rate is a constant in a graph; if it changes at every step, updates stay eager."""

    def descend(state: TrainState) -> None:
        if state.step in changes:
            for optimizer in (state.G_optimizer, state.D_optimizer):
                optimizer.param_groups[0]["lr"] *= 0.5

    plain, fast = make_state(), make_state()
    options: dict[str, Any] = {"steps": 30, "then": descend, "n_critic": lambda _: n_critic}
    seen = advance(plain, Runtime(device=CPU), **options)
    deck = tapes()
    assert advance(fast, GRAPH, **options) == seen
    torch.testing.assert_close(snapshot(fast), snapshot(plain), atol=0, rtol=0)
    assert deck.captured == captures


def test_first_updates_are_eager(tapes: Callable[..., Tapes]) -> None:
    deck = tapes()
    calls = []

    def update(batch: Batch, clock: Clock) -> Logs:
        calls.append(batch.x)
        return {"x": batch.x + clock.fraction}

    captured = CapturedUpdate(update, device=CPU, optimizers=[], failures=[])
    for i in range(EAGER_CALLS + 4):
        assert float(captured(Batch(torch.tensor([float(i)])), Clock(0.5, i))["x"]) == i + 0.5
    assert len(calls) == EAGER_CALLS + 1
    assert deck.captured == 1


def test_scheduled_values_change_in_captured_graphs(tapes: Callable[..., Tapes]) -> None:
    def linear(*of: str) -> Linear:
        return Linear(of=list(of), start=1.0, end=0.1, begin=0.0, finish=1.0, unit="fraction")

    named = {
        "lr": linear("optimizer.lr", "discriminator_optimizer.lr"),
        "weight": linear("regularizer.gradient_penalty.weight"),
        "strength": linear("augment.diffaugment.strength"),
    }

    def made(capture: torch.device | None) -> tuple[list[dict[str, float]], dict[str, Any]]:
        state = make_state()
        options: dict[str, Any] = {
            "regularizers": {"gradient_penalty": GradientPenalty(weight=10.0, every=1)},
            "augment": {"diffaugment": DiffAugment(policy=["color", "translation"], strength=1.0)},
            "schedules": partial(Schedules, schedules=named, capture=capture),
        }
        seen = advance(state, GRAPH if deck else Runtime(device=CPU), steps=12, **options)
        return seen, snapshot(state)

    deck: Tapes | None = None
    floats, _ = made(None)
    tensors, weights = made(CPU)
    deck = tapes()
    replayed, replayed_weights = made(CPU)
    assert replayed == tensors
    assert deck.captured == 2  # no update is captured twice
    torch.testing.assert_close(replayed_weights, weights, atol=0, rtol=0)
    for one, other in zip(floats, tensors, strict=True):  # the tensors are float32
        assert one == pytest.approx(other, rel=1e-2, abs=1e-3)


def test_update_with_scheduled_betas_is_captured_for_each_of_their_values(tapes: Callable[..., Tapes]) -> None:
    """A scheduled beta has two significant digits of 1 - beta, so that it changes rarely enough to be worth a graph."""
    growing = Linear(of=["optimizer.beta2"], start=0.9, end=0.902, begin=0.0, finish=1.0, unit="fraction")

    def made(runtime: Runtime) -> tuple[list[dict[str, float]], dict[str, Any]]:
        state = make_state()
        betas: list[float] = []
        options: dict[str, Any] = {"schedules": partial(Schedules, schedules={"beta2": growing}, capture=CPU)}
        options["then"] = lambda now: betas.append(now.G_optimizer.param_groups[0]["betas"][1])
        seen = advance(state, runtime, steps=48, **options)
        assert list(dict.fromkeys(betas)) == pytest.approx([0.9, 0.901, 0.902], abs=1e-12)
        return seen, snapshot(state)

    plain, weights = made(Runtime(device=CPU))
    deck = tapes()
    replayed, replayed_weights = made(GRAPH)
    assert replayed == plain
    assert deck.captured == 5  # of D's update for each value, and of G's for two: it has too few steps for the third
    torch.testing.assert_close(replayed_weights, weights, atol=0, rtol=0)


def test_beta2_of_r3gan_is_constant_for_long_enough_to_be_captured() -> None:
    config = composed("experiment=r3gan_cifar10")
    schedules: dict[str, Schedule] = make_all("schedule", config.schedule, Schedule)
    (of_beta2,) = (s for s in schedules.values() if "optimizer.beta2" in s.of)
    exact = [of_beta2(Clock(0.0, step * config.batch_size)) for step in range(40_000)]
    held = [in_steps(beta) for beta in exact]
    assert max(abs(a - b) for a, b in zip(exact, held, strict=True)) <= 0.0005 + 1e-9
    assert (held[0], held[-1]) == pytest.approx((0.9, 0.99), abs=1e-12)
    changes = [0, *(i for i in range(1, len(held)) if held[i] != held[i - 1]), len(held)]
    assert len(changes) == 92
    assert min(b - a for a, b in pairwise(changes)) > 10 * EAGER_CALLS


def test_update_with_scheduled_betas_is_captured_once_they_are_constant(tapes: Callable[..., Tapes]) -> None:
    """Adam takes betas as floats, which are constants in a graph."""
    growing = Linear(of=["optimizer.beta2"], start=0.9, end=0.99, begin=0.0, finish=0.5, unit="fraction")

    def made(runtime: Runtime) -> tuple[list[dict[str, float]], dict[str, Any]]:
        state = make_state()
        seen = advance(
            state, runtime, steps=20, schedules=partial(Schedules, schedules={"beta2": growing}, capture=CPU)
        )
        assert state.G_optimizer.param_groups[0]["betas"] == (0.0, 0.99)
        return seen, snapshot(state)

    plain, weights = made(Runtime(device=CPU))
    deck = tapes()
    replayed, replayed_weights = made(GRAPH)
    assert replayed == plain
    assert deck.captured == 2
    torch.testing.assert_close(replayed_weights, weights, atol=0, rtol=0)
