"""Captured updates are the eager ones to the bit; without a GPU, a tape stands for CUDA graphs."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from image_trainings import CPU, NOISE, PENALTY, advance, make_state, restored, snapshot
from tapes import Tapes, tapes

from gantrain.datasets.batches import Batch
from gantrain.engine import graphs
from gantrain.engine.graphs import EAGER_CALLS, Captured
from gantrain.engine.runtime import Runtime
from gantrain.losses.nonsaturating import NonSaturating
from gantrain.losses.relativistic import Relativistic
from gantrain.regularizers.base import Regularizer
from gantrain.regularizers.r1 import R1
from gantrain.regularizers.weight_clip import WeightClip
from gantrain.schedules.base import Clock
from gantrain.train import TrainState
from gantrain.updates import Logs

__all__ = ["tapes"]

GRAPH = Runtime(device=CPU, acceleration="graph")


def lazy_r1() -> dict[str, Any]:
    return {"loss": Relativistic(), "regularizers": {"r1": R1(gamma=1.0, every=2)}, "n_critic": lambda _: 1}


@pytest.mark.parametrize(
    ("norm", "options", "num_graphs"),
    [
        ("none", {}, 2),
        ("batch", {"loss": NonSaturating(), "regularizers": {}, "n_critic": lambda _: 1}, 2),
        ("none", {"regularizers": {"weight_clip": WeightClip(limit=0.05)}}, 2),
        ("none", {"n_critic": lambda step: 7 if step % 5 == 0 else 2}, 2),
        ("none", lazy_r1(), 3),  # a graph for each phase
        ("none", lazy_r1() | {"accumulate": 2}, 6),  # and for each micro-batch of it
    ],
    ids=["wgan_gp", "dcgan", "weight clipping", "warm-up of the critic", "lazy r1", "lazy r1 and micro-batches"],
)
def test_replays_are_the_steps_to_the_bit(
    tapes: Callable[..., Tapes], norm: str, options: dict[str, Any], num_graphs: int
) -> None:
    plain, fast = make_state(norm=norm), make_state(norm=norm)
    seen = advance(plain, Runtime(device=CPU), steps=12, **options)
    deck = tapes()
    assert advance(fast, GRAPH, steps=12, **options) == seen
    assert deck.captured == num_graphs
    torch.testing.assert_close(snapshot(fast), snapshot(plain), atol=0, rtol=0)


def test_a_captured_step_sees_the_training_progress(tapes: Callable[..., Tapes]) -> None:
    options: dict[str, Any] = {"steps": 12, "regularizers": NOISE}
    plain, fast = make_state(), make_state()
    seen = advance(plain, Runtime(device=CPU), **options)
    tapes()
    replayed = advance(fast, GRAPH, **options)
    for one, other in zip(seen, replayed, strict=True):  # the noise's size is a float32 number in a graph
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("cut", [2, 7])
@pytest.mark.parametrize("regularizers", [PENALTY, NOISE], ids=["penalty", "noise that decays"])
def test_a_run_goes_on_within_another_capture(
    tapes: Callable[..., Tapes], regularizers: dict[str, Regularizer], cut: int
) -> None:
    """Its first updates are eager, where the straight run's were replays: they must see the same numbers."""
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


def test_what_cannot_be_captured_stays_eager(
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

    monkeypatch.setattr(graphs, "record", refuse)
    assert advance(fast, GRAPH, steps=8) == seen
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "The critic's update could not be captured as a CUDA graph; all updates stay eager: operation not permitted "
        "when stream is capturing"
    ]


def test_after_a_failed_capture_no_graph_is_replayed(
    tapes: Callable[..., Tapes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The critic's, which was captured before, would go on with the random numbers of its last step."""
    state = make_state()
    deck, replays = tapes(), list[int]()

    def record(function: Callable[[], Logs], device: torch.device) -> Any:
        if deck.captured:
            raise RuntimeError("out of memory")
        replay, made = deck.record(function, device)
        return lambda: (replay(), replays.append(state.step)), made

    monkeypatch.setattr(graphs, "record", record)
    plain = make_state()
    seen = advance(plain, Runtime(device=CPU), steps=8)
    assert advance(state, GRAPH, steps=8) == seen
    assert replays
    assert max(replays) == EAGER_CALLS  # in the step in which the generator's update is to be captured


@pytest.mark.parametrize(
    ("changes", "n_critic", "captures"),
    [([8], 2, 4), ([8, 12], 2, 5), ([16, 18], 2, 5), (range(1, 30), 2, 0), (range(1, 30), 7, 2)],
)
def test_a_learning_rate_that_changes_is_that_of_the_step(
    tapes: Callable[..., Tapes], changes: Sequence[int], n_critic: int, captures: int
) -> None:
    """It is a constant in a graph; where it changes at every step, nothing is captured again and again."""

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


def test_the_first_updates_are_real_ones(tapes: Callable[..., Tapes]) -> None:
    deck = tapes()
    calls = []

    def update(batch: Batch, clock: Clock) -> Logs:
        calls.append(batch.x)
        return {"x": batch.x + clock.fraction}

    captured = Captured(update, device=CPU, optimizers=[], failures=[])
    for i in range(EAGER_CALLS + 4):
        assert float(captured(Batch(torch.tensor([float(i)])), Clock(0.5, i))["x"]) == i + 0.5
    assert len(calls) == EAGER_CALLS + 1
    assert deck.captured == 1
