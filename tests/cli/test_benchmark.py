"""task=benchmark measures the speed of a config, and writes only its report; benchmarks/ compares programs."""

import json
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import ESTIMATE, Process, server, start
from torch import nn
from torch.optim import SGD

from gantrain.assemble import build_ema
from gantrain.budget import critic_schedule
from gantrain.callbacks.base import Callback
from gantrain.datasets.batches import Batch
from gantrain.engine.rates import Product, ProductCounter, copy_rate, product_rate
from gantrain.engine.timing import (
    EndOfStep,
    LapTimer,
    TimedBatches,
    TimedCallback,
    TimedRuntime,
    lazy_seconds,
    median_parts,
    total,
)
from gantrain.schedules.base import Clock
from gantrain.seeding import seed_everything
from gantrain.session.trials import RepeatedBatch
from gantrain.train import TrainState, train
from gantrain.updates import Logs

__all__ = ["server", "start"]

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
SMALL = ("model=dcgan", "model.generator.width=2", "model.discriminator.width=2", "batch_size=4", "metric=[]")


def test_parts_sum_to_the_step_time_and_only_the_report_is_written(gantrain, tmp_path: Path) -> None:
    result = gantrain(
        "task=benchmark", "model=wgan_gp", "n_critic=2", *ESTIMATE, *SMALL, "steps=8", "output=speed.json"
    )
    assert result.status == 0, result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["speed.json"]
    figures = json.loads((tmp_path / "speed.json").read_text())
    parts, seconds = figures["parts"], figures["seconds_per_step"]
    assert set(parts) == {"data", "critic", "generator", "rest", "callbacks"}
    assert all(part >= 0 for part in parts.values())
    assert sum(parts.values()) == pytest.approx(seconds)
    assert figures["images_per_second"] == pytest.approx(2 * 4 / seconds)
    rates = figures["matrix_product_flops_per_second"]
    assert set(rates) == {"float32"}
    assert 0 < figures["flops_per_second"] < rates["float32"]
    assert figures["share_of_ceiling"] == pytest.approx(figures["flops_per_second"] / rates["float32"])
    assert figures["share_of_ceiling"] * seconds <= figures["floor_seconds"] < seconds
    assert figures["peak_bytes"] > 50e6
    for word in ("images/s", "critic", "generator", "callbacks", "GFLOP/s", "peak", "roofline"):
        assert word in result.stderr


@pytest.fixture(autouse=True)
def small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure the device with matrices that a core multiplies in milliseconds."""
    monkeypatch.setattr("gantrain.engine.rates.product_rate", lambda device, dtype: product_rate(device, dtype, 256))


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The current time of a fake clock, in a list of one number; only tests advance it."""
    now = [0.0]
    monkeypatch.setattr("gantrain.engine.timing.time.perf_counter", lambda: now[0])
    return now


def make_state() -> TrainState:
    return TrainState(*(nn.Linear(1, 1) for _ in range(2)), *(SGD([torch.zeros(1)], lr=1.0) for _ in range(2)))


def test_time_is_attributed_to_the_part_that_took_it(now: list[float]) -> None:
    timer, clock = LapTimer(CPU), Clock(0.0, 0)

    class Slow(RepeatedBatch):
        def __getitem__(self, i: int) -> Batch:
            now[0] += 2
            return super().__getitem__(i)

    batches, end_of_step, state = TimedBatches(Slow(Batch(torch.zeros(1, 1)), 1), timer), EndOfStep(timer), make_state()

    def update_critic(batch: Batch | None, clock: Clock) -> Logs:
        now[0] += 5
        return {"x": batch.x}  # type: ignore[union-attr]

    def update_generator(batch: Batch | None, clock: Clock) -> Logs:
        now[0] += 7
        return {}

    def update_critic_r1(batch: Batch | None, clock: Clock) -> Logs:
        now[0] += 30
        return {}

    accelerate = TimedRuntime(device=CPU, around=timer.lap_of).accelerate(state)
    critic, generator, r1 = (accelerate(update) for update in (update_critic, update_generator, update_critic_r1))
    for step in range(3):
        for i in range(3):
            assert critic(batches[i], clock)["x"] == 0
        if step == 1:
            r1(batches[0], clock)
        generator(batches.for_generator()[step], clock)
        now[0] += 1
        state.step += 1
        end_of_step(state, {})
    # A step takes four batches (2 s each), three critic updates (5 s), one generator update (7 s), and the rest (1 s).
    taken = timer.steps()
    parts = {"data": 8, "critic": 15, "generator": 7, "rest": 1}
    assert median_parts(taken) == parts
    assert {step: total(laps, *parts) for step, laps in taken.items()} == {1: 31, 2: 33, 3: 31}
    # A lazy penalty is averaged over its own interval, however often it was measured.
    assert lazy_seconds(taken, {"critic_r1": 3 / 16}) == {"critic": 30 * 3 / 16, "generator": 0}


@pytest.mark.parametrize(("every", "expected"), [(100, 1 + 10 / 100), (3, 1 + 10 / 3), (2, 1 + 10 / 2), (None, 1)])
def test_callback_time_is_averaged_over_its_interval(now: list[float], every: int | None, expected: float) -> None:
    timer, state = LapTimer(CPU), make_state()

    class Slow(Callback):
        def __call__(self, state: TrainState, logs: object) -> None:
            now[0] += 11 if self.is_due(state.step) else 1

    slow = Slow()
    slow.every, slow.name = every, "slow"
    timed = TimedCallback(slow, timer, max_every=3)
    for state.step in range(1, 13):
        timed(state, {})
        now[0] += 100
        EndOfStep(timer)(state, {})
    intervals = [] if timed.every is None else [timed.every]
    assert timed.seconds_per_step(timer.steps(), intervals) == pytest.approx(expected)


def test_waiting_between_turns_is_not_counted(now: list[float]) -> None:
    timer, state = LapTimer(CPU), make_state()

    def wait(timer: LapTimer) -> None:
        now[0] += 1000

    end_of_step = EndOfStep(timer, wait, since=2)
    for state.step in (1, 2, 3):
        now[0] += 1
        end_of_step(state, {})
    assert now[0] == 2003
    assert median_parts(timer.steps())["rest"] == 1


OWN_CALLBACK = """
import time

from gantrain.callbacks.base import Callback


class Slow(Callback):
    def __init__(self, *, every):
        self.every = every

    def __call__(self, state, logs):
        if self.is_due(state.step):
            time.sleep(0.2)
"""


def test_time_of_own_callback_is_averaged_over_its_interval(gantrain, tmp_path: Path) -> None:
    (tmp_path / "slow_callback.py").write_text(OWN_CALLBACK)
    (tmp_path / "my/callback").mkdir(parents=True)
    (tmp_path / "my/callback/slow.yaml").write_text("slow: {_target_: slow_callback.Slow, every: 100}\n")
    own = ("--config-dir", "my", "callback=[log,slow]", "trust=[slow_callback]")
    result = gantrain("task=benchmark", *own, *SMALL, "steps=8", "output=speed.json")
    assert result.status == 0, result.stderr
    callbacks = json.loads((tmp_path / "speed.json").read_text())["callbacks"]
    assert set(callbacks) == {"log", "slow"}
    assert callbacks["slow"] == pytest.approx(0.2 / 100, rel=0.5)


def test_flops_of_a_lazy_penalty_are_averaged_over_its_interval(gantrain, tmp_path: Path) -> None:
    def flops(*typed: str) -> int:
        (tmp_path / "speed.json").unlink(missing_ok=True)
        own = ("model.discriminator.norm=none", "callback=[]", "n_critic=3", "steps=3", "output=speed.json")
        result = gantrain("task=benchmark", *SMALL, *own, *typed)
        assert result.status == 0, result.stderr
        made: int = json.loads((tmp_path / "speed.json").read_text())["flops_per_step"]
        return made

    without = flops()
    lazy = {every: flops("regularizer=[r1]", f"regularizer.r1.every={every}") - without for every in (2, 4)}
    assert lazy[2] > 0
    assert lazy[4] == pytest.approx(lazy[2] / 2, abs=1)
    accumulated = flops("regularizer=[r1]", "regularizer.r1.every=4", "accumulate=2") - flops("accumulate=2")
    assert accumulated == pytest.approx(lazy[4], rel=1e-6)


def test_flops_match_a_count_by_hand(gantrain, tmp_path: Path) -> None:
    # Linear layers on 1-D data: 2 FLOPs per weight and sample forward, twice that backward.
    n, widths = 4, {"G": [(100, 8), (8, 1)], "D": [(1, 8), (8, 1)]}
    result = gantrain(
        *("task=benchmark", "dataset=gaussian", "model=vanilla", "network=mlp", "loss=minimax", f"batch_size={n}"),
        *("model.generator.width=8", "model.discriminator.width=8", "model.generator.multipliers=[1]"),
        *("model.discriminator.multipliers=[1]", "latent.z_dim=100", "output=speed.json", "callback=[]"),
        *("model.generator.norm=none", "model.discriminator.norm=none"),
    )
    assert result.status == 0, result.stderr
    forward = {player: sum(2 * n * a * b for a, b in layers) for player, layers in widths.items()}
    # D's update: G forward; D forward and backward to its weights and inner inputs, for real and fake samples.
    # G's update: both forward, D backward to its input, G backward to its weights and inner inputs.
    inner = {player: sum(2 * n * a * b for a, b in layers[1:]) for player, layers in widths.items()}
    critic = forward["G"] + 2 * (2 * forward["D"] + inner["D"])
    generator = 2 * forward["G"] + inner["G"] + 2 * forward["D"]
    assert json.loads((tmp_path / "speed.json").read_text())["flops_per_step"] == critic + generator


def test_products_are_counted_with_their_flops_and_bytes() -> None:
    with ProductCounter() as products:
        a, b = torch.ones(3, 5), torch.ones(5, 7, dtype=torch.float32)
        _ = a @ b
        _ = a.bfloat16() @ b.bfloat16()
        _ = a + 1
        x, w = torch.ones(2, 3, 8, 8, requires_grad=True), torch.ones(4, 3, 4, 4, requires_grad=True)
        torch.conv2d(x, w, stride=2).sum().backward()
    forward = 2 * 2 * 3 * 3 * 4 * 3 * 4 * 4
    sizes = {"x": 2 * 3 * 8 * 8, "w": 4 * 3 * 4 * 4, "y": 2 * 4 * 3 * 3}
    assert products.products == [
        Product(torch.float32, 2 * 3 * 5 * 7, 4 * (15 + 35 + 21)),
        Product(torch.bfloat16, 2 * 3 * 5 * 7, 2 * (15 + 35 + 21)),
        Product(torch.float32, forward, 4 * sum(sizes.values())),
        Product(torch.float32, 2 * forward, 4 * (sum(sizes.values()) + sizes["x"] + sizes["w"])),
    ]


def test_rates_match_a_simple_timing() -> None:
    size = 512
    a = torch.randn(size, size)
    taken = []
    for _ in range(20):
        start = time.perf_counter()
        torch.mm(a, a)
        taken.append(time.perf_counter() - start)
    assert product_rate(CPU, torch.float32, size) == pytest.approx(2 * size**3 / min(taken), rel=0.8)
    assert 1e8 < copy_rate(CPU) < 1e12


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("steps=2", "steps=2: a benchmark needs at least 3"),
        ("output=x.txt", "output=x.txt: the name must end in .json"),
        ("output=a/x.json", "there is no folder a"),
    ],
)
def test_invalid_benchmark_settings_are_refused(gantrain, typed: str, message: str) -> None:
    result = gantrain("task=benchmark", *SMALL, typed)
    assert result.status == 2
    assert message in result.stderr


def test_critic_warmup_is_not_measured(gantrain, tmp_path: Path) -> None:
    """A warm-up of 50 updates in each of the first 100 steps, which are more than a benchmark runs."""
    warm = ("critic_warmup.n_critic=50", "critic_warmup.steps=100", "critic_warmup.every=1000")
    typed = ("task=benchmark", "model=wgan_gp", "n_critic=2", "callback=[log]", *SMALL, "steps=4")
    result = gantrain(*typed, *warm, "output=a.json")
    assert result.status == 0, result.stderr
    assert gantrain(*typed, "output=b.json").status == 0
    one, other = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    assert one["flops_per_step"] == other["flops_per_step"]
    assert one["images_per_second"] == pytest.approx(2 * 4 / one["seconds_per_step"])


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return import_module


NARROW = ("model.generator.width=4", "model.discriminator.width=4", "batch_size=8")


def test_compare_prints_a_row_of_rates_for_each_case(start: Callable[..., Process]) -> None:
    """Its three programs run in forked processes."""
    case = "wgan_gp_celeba_f64"  # files, and a penalty
    options = (*NARROW, "critic_warmup=null")
    command = [str(ROOT / "benchmarks/compare.py"), case, "--steps=3", "--rounds=1"]
    command += [f"--override={override}" for override in options]
    program = f"import forks; forks.run_python({command!r}); raise SystemExit"
    done = start(before=program, forks=True).wait()
    assert done.status == 0, done.stderr
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stderr.splitlines()[-1:]]
    assert [row[0] for row in rows] == [case]
    for _, *cells in rows:
        naive, bare, product, faster, share = map(float, cells)
        assert min(naive, bare, product) > 0
        assert (faster, share) == (pytest.approx(naive / product, abs=0.01), pytest.approx(bare / product, abs=0.01))


def test_ratios_are_medians_over_rounds(benchmarks: Any, capsys: pytest.CaptureFixture[str]) -> None:
    rounds = [{"naive": 10.0 * i, "bare": 2.0 * i, "product": float(i * i)} for i in (1, 2, 4, 5, 10)]
    benchmarks("compare").report("case", rounds)
    assert capsys.readouterr().out == "| case | 40 | 8 | 16 | 2.50 (2.00 to 5.00) | 0.50 (0.40 to 1.00) |\n"


@pytest.mark.parametrize("name", ["wgan_gp_celeba_f64", "dcgan_cifar10", "study_vanilla", "gaussian", "default"])
def test_bare_loop_makes_the_same_updates_as_gantrain(benchmarks: Any, name: str) -> None:
    cases, bare = benchmarks("cases"), benchmarks("bare")
    case = cases.CASES[name]
    config = cases.composed(case, *NARROW)
    x = torch.rand(8, *case.image_shape) * 2 - 1
    one, latent, objective = cases.networks(case, config, CPU)
    other, *_ = cases.networks(case, config, CPU)
    before = [p.clone() for p in one.D.parameters()]
    train(
        *(one, RepeatedBatch(Batch(x), 8), latent, objective),
        steps=1,
        n_critic=critic_schedule(config.n_critic, config.critic_warmup),
        seed=0,
        device=CPU,
        ema=build_ema(config),
    )
    seed_everything(0, "step", 0, device=CPU)
    bare.step(other, latent, objective, x, config)
    assert any(not torch.equal(p, q) for p, q in zip(one.D.parameters(), before, strict=True))
    for network in ("G", "D"):
        for mine, theirs in zip(getattr(one, network).parameters(), getattr(other, network).parameters(), strict=True):
            # Adam's first steps have size lr whatever the gradient, so that rounding of tiny gradients is visible.
            assert float((mine - theirs).detach().abs().mean()) < 0.02 * float(config.optimizer["lr"])
