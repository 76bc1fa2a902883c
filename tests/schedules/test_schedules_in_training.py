"""Scheduled values and lazy rescaling at each step of train() match closed forms, also after resuming."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conditional_runs import BATCH_SIZE, make_state, restore, run, snapshot
from oracles import load, oracle_files
from torch.testing import assert_close

from gantrain.augment.ada import ADA
from gantrain.augment.diffaugment import DiffAugment
from gantrain.config import CONF
from gantrain.datasets.labels import RealLabels
from gantrain.ema import EMA
from gantrain.errors import ConfigError
from gantrain.game import Objective
from gantrain.losses.nonsaturating import NonSaturating
from gantrain.regularizers.r1 import R1
from gantrain.schedules.apply import Schedules
from gantrain.schedules.base import Clock, Schedule
from gantrain.schedules.cosine import Cosine
from gantrain.schedules.linear import Linear
from gantrain.schedules.steps import Steps
from gantrain.train import TrainState

STEPS = 8


def linear(*of: str, start: float = 1.0, end: float = 0.0) -> Linear:
    return Linear(of=list(of), start=start, end=end, begin=0.0, finish=1.0, unit="fraction")


def adam_state(**options: Any) -> TrainState:
    return make_state(optimizer=torch.optim.Adam, ema=True, **{"lr": 0.01, "betas": (0.5, 0.9)} | options)


class Training:
    """A training run with lazy R1 in which every value is scheduled."""

    def __init__(self, named: dict[str, Schedule], *, every: int):
        self.state = adam_state()
        self.r1 = R1(gamma=10.0, every=every)
        self.augment = DiffAugment(policy=["color", "translation"], strength=0.8)
        self.ema = EMA(halflife_images=100.0, rampup=None)
        self.objective = Objective(NonSaturating(), {"r1": self.r1}, {"diffaugment": self.augment})
        self.schedules = Schedules(self.state, self.objective, ema=self.ema, schedules=named)

    def scheduled_values(self) -> list[float]:
        """Return the current value of everything that is scheduled."""
        groups = [o.param_groups[0] for o in (self.state.G_optimizer, self.state.D_optimizer)]
        of_optimizers = [x for group in groups for x in (group["lr"], *group["betas"])]
        return [float(x) for x in (*of_optimizers, self.r1.gamma, self.ema.halflife_images, self.augment.strength)]

    def run(self, callback: Callable[[TrainState, Any], None]) -> list[Any]:
        options: dict[str, Any] = {"ema": self.ema, "schedules": self.schedules, "fake_labels": RealLabels()}
        return run(self.state, self.objective, steps=STEPS, callbacks=[callback], **options)


def all_schedules() -> dict[str, Schedule]:
    half_period = Cosine(of=["regularizer.r1.gamma"], start=1.0, end=0.1, begin=0, finish=4 * BATCH_SIZE, unit="images")
    return {
        "lr": linear("optimizer.lr", "discriminator_optimizer.lr"),
        "beta2": linear("discriminator_optimizer.beta2", start=0.9, end=0.98),
        "penalty": half_period,
        "half-life": linear("ema_halflife_images", start=0.0, end=1.0),
        "strength": Steps(of=["augment.diffaugment.strength"], values=[1.0, 0.25], at=[0.5], unit="fraction"),
    }


@pytest.mark.parametrize("every", [1, 2])
def test_each_step_has_the_scheduled_values(every: int) -> None:
    training, seen = Training(all_schedules(), every=every), list[list[float]]()
    training.run(lambda *_: seen.append(training.scheduled_values()))
    c = 1.0 if every == 1 else 1 / (1 + 1 / every)  # only D has a lazy penalty
    for step, found in enumerate(seen):
        t = step / STEPS
        gamma = 10 * (0.1 + 0.9 * (1 + math.cos(math.pi * min(step / 4, 1))) / 2)
        of_G = [0.01 * (1 - t), 0.5, 0.9]
        of_D = [0.01 * (1 - t) * c, 0.5**c, (0.9 + 0.08 * t) ** c]  # with two digits, so it is not rounded
        expected = [*of_G, *of_D, gamma, 100 * t, 0.8 * (1.0 if t < 0.5 else 0.25)]
        assert found == pytest.approx(expected, rel=1e-6), step  # strength is a float32 tensor


def test_resumed_run_has_the_same_scheduled_values_and_weights() -> None:
    straight, saved, numbers = Training(all_schedules(), every=3), list[Any](), list[list[float]]()

    def note(state: TrainState, _: Any) -> None:
        saved.append(snapshot(state))
        numbers.append(straight.scheduled_values())

    logs = straight.run(note)
    for stop in (1, 5):
        resumed, again = Training(all_schedules(), every=3), list[list[float]]()
        restore(resumed.state, saved[stop - 1])
        logs_again = resumed.run(lambda *_, again=again, resumed=resumed: again.append(resumed.scheduled_values()))
        assert again == numbers[stop:]
        assert_close(logs_again, logs[stop:], rtol=0, atol=0)
        assert_close(snapshot(resumed.state), saved[-1], rtol=0, atol=0)


@pytest.mark.parametrize("path", oracle_files("lazy_regularisation_adam*.npz"), ids=lambda path: path.stem)
def test_lazy_penalties_rescale_scheduled_values(path: Path) -> None:
    arrays = load(path)
    for case in sorted({name.split(".")[0] for name in arrays}):
        lr, beta1, beta2, k = arrays[f"{case}.in.lr_beta1_beta2_interval"].tolist()
        # The schedules start from other values, and reach those of the file at half of the training.
        state = adam_state(lr=4 * lr, betas=(0.1, 0.2))
        named: dict[str, Schedule] = {
            "lr": linear("discriminator_optimizer.lr", start=0.5, end=0.0),
            "beta1": linear("discriminator_optimizer.beta1", start=beta1, end=beta1),
            "beta2": linear("discriminator_optimizer.beta2", start=beta2 - 0.01, end=beta2 + 0.01),
        }
        schedules = Schedules(state, Objective(NonSaturating(), {"r1": R1(gamma=1.0, every=int(k))}), schedules=named)
        schedules(Clock(0.2, 0))
        schedules(Clock(0.5, 0))
        (group,) = state.D_optimizer.param_groups
        expected = arrays[f"{case}.out.lr_beta1_beta2"].tolist()
        assert [group["lr"], *group["betas"]] == pytest.approx(expected, rel=1e-12)
        assert all(type(beta) is float for beta in group["betas"])


def test_several_lazy_penalties_rescale_by_the_sum_of_their_intervals() -> None:
    state = adam_state()
    objective = Objective(NonSaturating(), {"r1": R1(gamma=1.0, every=16), "again": R1(gamma=1.0, every=4)})
    Schedules(state, objective)(Clock(0.0, 0))
    c = 1 / (1 + 1 / 16 + 1 / 4)
    (group,) = state.D_optimizer.param_groups
    assert [group["lr"], *group["betas"]] == pytest.approx([0.01 * c, 0.5**c, 0.9**c], rel=1e-12)
    # G has no lazy penalty, and new Schedules start again from the configured values.
    assert "initial_lr" not in state.G_optimizer.param_groups[0]
    Schedules(state, objective)(Clock(0.0, 0))
    assert group["lr"] == pytest.approx(0.01 * c, rel=1e-12)


@pytest.mark.parametrize("lr", [0.01, 3e-4])
def test_schedule_is_a_factor_of_the_configured_learning_rate(lr: float) -> None:
    state = adam_state(lr=lr)
    schedules = Schedules(state, Objective(NonSaturating()), schedules={"lr": linear("optimizer.lr")})
    schedules(Clock(0.25, 0))
    assert state.G_optimizer.param_groups[0]["lr"] == pytest.approx(0.75 * lr)
    assert state.D_optimizer.param_groups[0].keys() == adam_state().D_optimizer.param_groups[0].keys()


def test_two_schedules_of_the_same_key_are_refused() -> None:
    named: dict[str, Schedule] = {"one": linear("optimizer.lr"), "two": linear("optimizer.lr")}
    with pytest.raises(ConfigError, match=r"schedule.two.of: another schedule sets optimizer.lr already"):
        Schedules(adam_state(), Objective(NonSaturating()), schedules=named)


@pytest.mark.parametrize(
    "of",
    ["optimizer.beta2", "regularizer.r1.every", "regularizer.lecam.weight", "ema_halflife_images", "augment.strength"],
)
def test_values_that_the_run_does_not_have_cannot_be_scheduled(of: str) -> None:
    """SGD has no betas, an interval is not schedulable, and there is neither an EMA nor an augmentation."""
    objective = Objective(NonSaturating(), {"r1": R1(gamma=1.0, every=2)})
    with pytest.raises(ConfigError, match=rf"{of} cannot be scheduled; the keys that can are .*regularizer.r1.gamma"):
        Schedules(make_state(), objective, schedules={"mine": linear(of)})


@pytest.mark.parametrize("of", ["augment.strength", "augment.ada.strength"])
def test_a_strength_that_adapts_cannot_be_scheduled(of: str) -> None:
    (node,) = yaml.safe_load((CONF / "augment/ada.yaml").read_text()).values()
    del node["_target_"]
    adaptive, fixed = ADA(**node), ADA(**node | {"target": None, "strength": 0.5})
    with pytest.raises(ConfigError, match=f"{of} cannot be scheduled"):
        Schedules(adam_state(), Objective(NonSaturating(), augment={"ada": adaptive}), schedules={"one": linear(of)})
    both = Objective(NonSaturating(), augment={"ada": fixed, "other": adaptive})
    Schedules(adam_state(), both, schedules={"one": linear(of)})(Clock(0.0, 0))
    assert (float(fixed.strength), float(adaptive.strength)) == (0.5 * linear(of)(Clock(0.0, 0)), 0.0)
