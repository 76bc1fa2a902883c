import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from gantrain.assemble import build_objective
from gantrain.callbacks.base import Callback, Callbacks
from gantrain.callbacks.log import MAX_ROWS, Log
from gantrain.config import Config
from gantrain.engine.finite import first_nonfinite, named_tensors
from gantrain.errors import DivergedError
from gantrain.game import Objective
from gantrain.losses.base import Loss
from gantrain.losses.nonsaturating import NonSaturating
from gantrain.losses.wasserstein import Wasserstein
from gantrain.regularizers.base import Critic, Regularizer, UpdateBatch
from gantrain.session.divergence import diverged
from gantrain.session.run import PreviousSession, Run
from gantrain.train import TrainState
from gantrain.updates import Logs

NAN, INF = math.nan, math.inf
MakeRun = Callable[..., tuple[Run, Callbacks]]
Complete = Callable[..., None]
Inject = Callable[[TrainState, Logs, float], None]


class Listener(Callback):
    def __init__(self) -> None:
        self.by_step: dict[int, dict[str, float]] = {}

    def scalars(self, state: TrainState, scalars: dict[str, float]) -> None:
        self.by_step[state.step] = scalars


def logs_of(step: int) -> Logs:
    return {
        "loss/discriminator": torch.tensor(0.5 + step),
        "loss/generator": torch.tensor(1.5),
        "logits/real": torch.tensor([1.0, 2.0]),
        "logits/fake": torch.tensor([-1.0, 0.0]),
        "penalty/gradient_penalty": torch.tensor(0.25),
    }


def update(module: nn.Module, optimizer: Optimizer, gradient: float = 1e-3, *, bad: float | None = None) -> None:
    """Make an update with a constant gradient, of which one element may be NaN or Inf."""
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    if bad is not None:
        next(module.parameters()).grad.view(-1)[1] = bad  # type: ignore[union-attr]
    optimizer.step()


def call_log(callbacks: Callbacks, steps: int, at: int = 0, inject: Inject | None = None, value: float = 0.0) -> None:
    """Call Log after each of `steps` steps, and call `inject` at step `at`."""
    callbacks.start()
    (log,) = (callback for callback in callbacks if isinstance(callback, Log))
    for step in range(1, steps + 1):
        state, logs = callbacks.run.state, logs_of(step)
        state.step = step
        update(state.D, state.D_optimizer)
        update(state.G, state.G_optimizer)
        if step == at and inject is not None:
            inject(state, logs, value)
        log(state, logs)


def set_log(tag: str) -> Inject:
    def inject(state: TrainState, logs: Logs, value: float) -> None:
        logs[tag] = torch.tensor(value)

    return inject


def set_gradient(network: str) -> Inject:
    def inject(state: TrainState, logs: Logs, value: float) -> None:
        update(getattr(state, network), getattr(state, f"{network}_optimizer"), bad=value)

    return inject


def set_tensor(name: str) -> Inject:
    def inject(state: TrainState, logs: Logs, value: float) -> None:
        with torch.no_grad():
            dict(named_tensors(state))[name].view(-1)[-1] = value

    return inject


FIRST = {"D": "D.layers.1.weight", "G": "G.layers.0.weight"}
LOSSES = ["loss/discriminator", "loss/generator", "penalty/gradient_penalty"]
TENSORS = [
    "D.layers.1.weight",
    "G.layers.0.bias",
    "G_ema.layers.0.weight",
    "G.layers.1.running_var",
    "G_ema.layers.1.running_mean",
]


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("at", [1, 6, 7, 8, 9, 10, 12])
@pytest.mark.parametrize("tag", LOSSES)
def test_the_first_nan_or_inf_loss_is_named_at_the_next_logged_step(
    make_run: MakeRun, tag: str, at: int, value: float
) -> None:
    run, callbacks = make_run(Log(every=5), listener := Listener(), steps=12, ema=True)
    with pytest.raises(DivergedError) as caught:
        call_log(callbacks, 12, at, set_log(tag), value)
    noticed = {1: 1, 12: 12}.get(at, 10)
    assert run.state.step == noticed
    where = f"at step {at}" + (f" (noticed at step {noticed})" if at != noticed else "")
    assert str(caught.value).startswith(f"{tag} is {value} {where}: the training has diverged.")
    assert noticed not in listener.by_step


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("at", [1, 6, 8, 10])
@pytest.mark.parametrize("name", TENSORS)
def test_a_nan_or_inf_weight_or_buffer_is_named(make_run: MakeRun, name: str, at: int, value: float) -> None:
    run, callbacks = make_run(Log(every=5), steps=12, ema=True)
    with pytest.raises(DivergedError) as caught:
        call_log(callbacks, 12, at, set_tensor(name), value)
    assert run.state.step == (1 if at == 1 else 10)
    kind = "nan" if math.isnan(value) else "inf"
    assert str(caught.value).startswith(f"{name} holds {kind} at step {run.state.step}: the training has diverged.")


OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "sgd": lambda p: SGD(p, lr=1e-2),
    "sgd with momentum": lambda p: SGD(p, lr=1e-2, momentum=0.5, fused=True),
    "adam": lambda p: Adam(p, lr=1e-3, betas=(0.5, 0.999)),
    "fused adam": lambda p: Adam(p, lr=1e-3, betas=(0.5, 0.999), fused=True),
    "fused adam without momentum": lambda p: Adam(p, lr=1e-3, betas=(0.0, 0.9), fused=True),
    "fused adamw": lambda p: AdamW(p, lr=1e-3, fused=True),
    "rmsprop": lambda p: RMSprop(p, lr=1e-3),
}


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("network", ["D", "G"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_nan_or_inf_gradient_is_found_with_every_optimizer(
    make_run: MakeRun, optimizer: str, network: str, value: float
) -> None:
    run, callbacks = make_run(Log(every=10), steps=20)
    setattr(run.state, f"{network}_optimizer", OPTIMIZERS[optimizer](getattr(run.state, network).parameters()))
    with pytest.raises(DivergedError, match=rf"^{FIRST[network]} holds (nan|inf) at step 10"):
        call_log(callbacks, 20, 3, set_gradient(network), value)


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("network", ["D", "G"])
def test_nan_gradient_of_the_logged_step_is_named_before_the_weights(
    make_run: MakeRun, network: str, value: float
) -> None:
    _, callbacks = make_run(Log(every=10), steps=20)
    with pytest.raises(DivergedError, match=rf"^the gradient of {FIRST[network]} holds {value} at step 10:"):
        call_log(callbacks, 20, 10, set_gradient(network), value)


def test_gradient_that_overflows_adams_second_moment_is_a_divergence(make_run: MakeRun) -> None:
    run, callbacks = make_run(Log(every=10), steps=20)
    before = run.state.D.get_parameter("layers.1.weight").detach().clone().view(-1)[1]
    with pytest.raises(DivergedError, match=r"^exp_avg_sq of D\.layers\.1\.weight holds inf at step 10"):
        call_log(callbacks, 20, 2, set_gradient("D"), 1e25)
    after = run.state.D.get_parameter("layers.1.weight").detach().view(-1)[1]
    assert (before - after).abs() < 3.5e-3  # three updates of 1e-3, and none in the last eight steps


def test_large_finite_numbers_are_no_divergence(make_run: MakeRun) -> None:
    _, callbacks = make_run(Log(every=5), listener := Listener(), steps=10, ema=True)

    def inject(state: TrainState, logs: Logs, value: float) -> None:
        logs |= {"loss/discriminator": torch.tensor(value), "loss/generator": torch.tensor(-value)}
        for name in [*TENSORS, "exp_avg_sq of D.layers.1.weight"]:
            set_tensor(name)(state, logs, value)

    call_log(callbacks, 10, 5, inject, 1e30)
    assert listener.by_step[5]["loss/discriminator"] == pytest.approx(1e30)
    assert sorted(listener.by_step) == [1, 5, 10]


def test_nan_is_found_even_when_logging_is_rare(make_run: MakeRun) -> None:
    run, callbacks = make_run(Log(every=5000), listener := Listener(), steps=10**6)
    with pytest.raises(DivergedError, match=r"^loss/generator is nan at step 1500 \(noticed at step 2001\)"):
        call_log(callbacks, 3000, 1500, set_log("loss/generator"), NAN)
    assert run.state.step == 2 * MAX_ROWS + 1
    assert sorted(listener.by_step) == [1]


def test_a_tag_may_be_missing_in_some_steps(make_run: MakeRun) -> None:
    def leave_out(state: TrainState, logs: Logs, value: float) -> None:
        del logs["penalty/gradient_penalty"]

    _, callbacks = make_run(Log(every=5), listener := Listener(), steps=10)
    call_log(callbacks, 10, 7, leave_out)
    assert listener.by_step[10]["loss/discriminator"] == 10.5
    assert listener.by_step[10]["penalty/gradient_penalty"] == 0.25

    def set_nan(state: TrainState, logs: Logs, value: float) -> None:
        leave_out(state, logs, value)
        logs["loss/generator"] = torch.tensor(NAN)

    with pytest.raises(DivergedError, match=r"^loss/generator is nan at step 7 "):
        call_log(callbacks, 10, 7, set_nan)


def test_losses_before_a_rewind_are_discarded(make_run: MakeRun) -> None:
    run, callbacks = make_run(log := Log(every=10), listener := Listener(), steps=20)
    call_log(callbacks, 8, 8, set_log("loss/generator"), NAN)
    run.state.batches_seen = 500
    callbacks.rewind()
    for step in (9, 10):
        run.state.step = step
        log(run.state, logs_of(step))
    assert sorted(listener.by_step) == [1, 10]
    assert listener.by_step[10]["throughput/images_per_second"] == 0


class Extra(Callback):
    """Logs a number every 3 steps, and at the last step."""

    order = -1
    tags = ("mine/",)
    every = 3

    def __init__(self, make: Callable[[float], Any]):
        self.make = make

    def __call__(self, state: TrainState, logs: Logs) -> None:
        if self.is_due(state.step) or state.step == self.run.steps:
            logs["mine/number"] = self.make(0.5 * state.step)


@pytest.mark.parametrize("make", [float, np.float64, torch.tensor])
def test_a_step_at_which_another_callback_is_due_is_logged(
    make_run: MakeRun, complete: Complete, make: Callable[[float], Any]
) -> None:
    run, callbacks = make_run(log := Log(every=4), Extra(make), listener := Listener(), steps=7)
    complete(run, callbacks)
    assert sorted(listener.by_step) == [1, 3, 4, 6, 7]
    numbers = {step: scalars["mine/number"] for step, scalars in listener.by_step.items() if "mine/number" in scalars}
    assert numbers == {3: 1.5, 6: 3.0, 7: 3.5}
    # Step 7 is logged only because it is the last, so that a resumed run removes it.
    assert log.state_dict() == {"due_at": 6}


@pytest.mark.parametrize(("step", "survives"), [(1, True), (3, True), (4, True), (5, False), (6, True), (7, False)])
def test_a_row_at_the_step_of_a_resume_survives_if_it_was_due(
    make_run: MakeRun, complete: Complete, step: int, survives: bool
) -> None:
    run, callbacks = make_run(log := Log(every=4), Extra(torch.tensor), steps=step)
    complete(run, callbacks)
    run.previous, run.steps = PreviousSession(planned_steps=step, intervals=run.intervals()), 100
    assert run.survives_rewind(step, "loss/generator") == survives
    assert run.survives_rewind(step, "mine/number") == (step % 3 == 0)
    assert run.survives_rewind(step - 1, "loss/generator")
    assert not run.survives_rewind(step + 1, "loss/generator")
    saved = log.state_dict()
    log.load_state_dict({})
    assert run.survives_rewind(step, "loss/generator") == (step in (1, 4))  # a checkpoint without this state
    log.load_state_dict(saved)
    assert run.survives_rewind(step, "loss/generator") == survives


def test_nan_penalty_is_named_before_the_loss_that_contains_it(make_run: MakeRun, complete: Complete) -> None:
    class Bad(Regularizer):
        def discriminator_penalty(self, critic: Critic, batch: UpdateBatch) -> Tensor:
            return batch.real_logits.mean() * (NAN if batch.clock.fraction == 0.3 else 1.0)

    objective = Objective(NonSaturating(), {"bad": Bad()})
    run, callbacks = make_run(Log(every=10), steps=20, objective=objective)
    with pytest.raises(DivergedError, match=r"^penalty/bad is nan at step 7 \(noticed at step 10\)"):
        complete(run, callbacks)


SYNCHRONIZING_METHODS = (
    "item",
    "tolist",
    "cpu",
    "numpy",
    "__bool__",
    "__float__",
    "__int__",
    "__index__",
    "__array__",
    "__repr__",
)
SYNCHRONIZING_OPERATORS = ("_local_scalar_dense", "_to_copy", "nonzero", "equal", "is_nonzero", "masked_select")


@contextmanager
def synchronizations() -> Iterator[list[str]]:
    """Record the methods and operators that would synchronize with a device."""
    seen: list[str] = []

    class Functions(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if getattr(func, "__name__", "") in SYNCHRONIZING_METHODS:
                seen.append(func.__name__)
            return func(*args, **(kwargs or {}))

    class Operators(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.overloadpacket.__name__ in SYNCHRONIZING_OPERATORS:
                seen.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    with Functions(), Operators():
        yield seen


@pytest.mark.parametrize("ema", [False, True])
def test_the_device_is_synchronized_once_at_a_logged_step_and_never_otherwise(make_run: MakeRun, ema: bool) -> None:
    run, callbacks = make_run(log := Log(every=5), steps=100, ema=ema)
    call_log(callbacks, 5)
    seen: dict[int, list[str]] = {}
    for step in range(6, 16):
        run.state.step, logs = step, logs_of(step)
        with synchronizations() as seen[step]:
            log(run.state, logs)
    assert seen == {step: ["tolist"] if step % 5 == 0 else [] for step in range(6, 16)}


def test_recorder_sees_every_synchronization() -> None:
    x = torch.ones(2)
    with synchronizations() as seen:
        assert x[0] > 0
        float(x[0]), x.tolist(), x.nonzero()
    assert {"__bool__", "__float__", "tolist", "nonzero"} <= set(seen)


@pytest.mark.parametrize(("loss", "gap"), [(NonSaturating(), "logits/gap"), (Wasserstein(), "wasserstein/estimate")])
def test_published_scalars_have_their_values(make_run: MakeRun, loss: Loss, gap: str) -> None:
    run, callbacks = make_run(Log(every=5), listener := Listener(), steps=10, objective=Objective(loss))
    call_log(callbacks, 5)
    size = sum(p.numel() for p in run.state.D.parameters())
    expected = {
        "loss/discriminator": 5.5,
        "logits/real": 1.5,
        gap: 2.0,
        "gradient_norm/discriminator": 1e-3 * math.sqrt(size),
        "learning_rate/generator": 1e-3,
    }
    assert {tag: listener.by_step[5][tag] for tag in expected} == pytest.approx(expected)
    assert ("wasserstein/estimate" in listener.by_step[5]) == isinstance(loss, Wasserstein)


def test_the_first_tensor_with_nan_or_inf_is_found() -> None:
    ones = torch.ones(3)
    assert first_nonfinite([("a", ones), ("b", ones * 1e30)]) is None
    assert first_nonfinite([("a", ones), ("b", ones * -INF), ("c", ones * NAN)]) == "b holds inf"
    assert first_nonfinite([("a", torch.tensor([INF, NAN])), ("b", ones * NAN)]) == "a holds nan"


GRADIENT_PENALTY = {"_target_": "gantrain.regularizers.gradient_penalty.GradientPenalty", "weight": 10.0, "every": 1}
WEIGHT_CLIP = {"_target_": "gantrain.regularizers.weight_clip.WeightClip", "limit": 0.01}
LABEL_NOISE = {"_target_": "gantrain.regularizers.label_noise.LabelNoise", "amount": 0.2}
WASSERSTEIN = {"_target_": "gantrain.losses.wasserstein.Wasserstein"}
MINIMAX = {"_target_": "gantrain.losses.minimax.Minimax"}


@pytest.mark.parametrize(
    ("config", "expected", "absent"),
    [
        ({}, ["batch_size (now 16)", "on_divergence=rollback"], ["lr", "regularizer"]),
        ({"optimizer": {"lr": 2e-4}}, ["optimizer.lr=2e-05 (now 0.0002)"], ["discriminator_optimizer"]),
        (
            {"optimizer": {"lr": 2e-4}, "discriminator_optimizer": {"lr": 1e-3}},
            [" optimizer.lr=2e-05", "discriminator_optimizer.lr=0.0001 (now 0.001)"],
            [],
        ),
        ({"discriminator_optimizer": {"lr": None}}, [], ["lr"]),
        ({"loss": WASSERSTEIN, "regularizer": {}}, ["regularizer=[gradient_penalty]"], []),
        ({"loss": WASSERSTEIN, "regularizer": {"label_noise": LABEL_NOISE}}, ["regularizer=[gradient_penalty]"], []),
        ({"loss": MINIMAX, "regularizer": {}}, [], ["regularizer"]),
        (
            {"loss": WASSERSTEIN, "regularizer": {"gradient_penalty": GRADIENT_PENALTY}},
            ["regularizer.gradient_penalty.weight (now 10.0)"],
            ["=[gradient_penalty]"],
        ),
        (
            {"loss": WASSERSTEIN, "regularizer": {"weight_clip": WEIGHT_CLIP, "gradient_penalty": {"weight": 1.0}}},
            ["regularizer.weight_clip.limit (now 0.01)"],
            ["gradient_penalty"],
        ),
        ({"on_divergence": "rollback"}, ["another seed"], ["on_divergence"]),
    ],
)
def test_the_remedies_after_a_divergence_fit_the_run(
    make_run: MakeRun, config: dict[str, Any], expected: list[str], absent: list[str]
) -> None:
    objective = build_objective(Config(**config)) if "loss" in config else None
    run, _ = make_run(objective=objective, **config)
    run.state.step = 40
    message = str(diverged(run, 37, "loss/discriminator is nan"))
    assert message.startswith("loss/discriminator is nan at step 37 (noticed at step 40): the training has diverged.")
    for text in expected:
        assert text in message
    for text in absent:
        assert text not in message
    assert "noticed" not in str(diverged(run, 40, "D.layers.1.weight holds nan"))
