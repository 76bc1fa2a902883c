"""task=benchmark measures, reports, and leaves nothing behind."""

import json
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD

from gantrain.build import build_ema, build_regularizers
from gantrain.config import critic_schedule
from gantrain.seeding import seed_everything
from gantrain.tasks.benchmark import (
    Clock,
    Laps,
    Product,
    TimedBatches,
    TimedRuntime,
    _Products,
    copy_rate,
    product_rate,
)
from gantrain.train import TrainState, train

ROOT = Path(__file__).parents[2]
SMALL = ("model.generator.width=2", "model.discriminator.width=2", "batch_size=4")


def test_the_parts_make_the_step_and_nothing_is_left_behind(gantrain, tmp_path: Path) -> None:
    result = gantrain("task=benchmark", "model=wgan_gp", "n_critic=2", *SMALL, "steps=8", "output=speed.json")
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
    for word in ("images/s", "critic", "generator", "callbacks", "ceiling", "floor"):
        assert word in result.stderr


def test_time_is_given_to_what_took_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("gantrain.tasks.benchmark.time.perf_counter", lambda: now[0])
    clock = Clock(torch.device("cpu"))

    class Slow:
        batch_size = 1

        def __getitem__(self, i: int) -> torch.Tensor:
            now[0] += 2
            return torch.zeros(1)

    batches, closing = TimedBatches(Slow(), clock), Laps(clock)
    state = TrainState(*(nn.Linear(1, 1) for _ in range(2)), *(SGD([torch.zeros(1)], lr=1.0) for _ in range(2)))

    def update_critic(x: torch.Tensor) -> dict[str, torch.Tensor]:
        now[0] += 5
        return {"x": x}

    def update_generator() -> dict[str, torch.Tensor]:
        now[0] += 7
        return {}

    accelerate = TimedRuntime(device=torch.device("cpu"), clock=clock).accelerate(state)
    critic, generator = accelerate(update_critic), accelerate(update_generator)
    for _ in range(2):
        for i in range(3):
            assert critic(batches[i])["x"] == 0
        generator()
        now[0] += 1
        state.step += 1
        closing(state, {})
    # Each step: three batches, three updates of the critic, one of the generator, and what is left.
    laps = {"data": 6, "critic": 15, "generator": 7, "rest": 1}
    assert clock.steps() == {1: laps, 2: laps}


def test_the_operations_are_those_of_the_layers(gantrain, tmp_path: Path) -> None:
    # Linear layers of 1-D data: 2 multiply-adds a weight forward, twice that backward.
    n, widths = 4, {"G": [(100, 8), (8, 1)], "D": [(1, 8), (8, 1)]}
    result = gantrain(
        *("task=benchmark", "dataset=gaussian", "model=vanilla", "network=mlp", "loss=minimax", f"batch_size={n}"),
        *("model.generator.width=8", "model.discriminator.width=8", "model.generator.multipliers=[1]"),
        *("model.discriminator.multipliers=[1]", "latent.z_dim=100", "output=speed.json", "callback=[]"),
        *("model.generator.norm=none", "model.discriminator.norm=none"),
    )
    assert result.status == 0, result.stderr
    forward = {player: sum(2 * n * a * b for a, b in layers) for player, layers in widths.items()}
    # D's update: D forward and backward to weights and inner inputs for real and fake, G forward. G's update: both
    # forward, D backward to its input, G backward without its first input.
    inner = {player: sum(2 * n * a * b for a, b in layers[1:]) for player, layers in widths.items()}
    critic = forward["G"] + 2 * (2 * forward["D"] + inner["D"])
    generator = 2 * forward["G"] + inner["G"] + 2 * forward["D"]
    assert json.loads((tmp_path / "speed.json").read_text())["flops_per_step"] == critic + generator


def test_a_product_reads_and_writes_its_tensors() -> None:
    with _Products() as products:
        a, b = torch.ones(3, 5), torch.ones(5, 7, dtype=torch.float32)
        _ = a @ b
        _ = a.bfloat16() @ b.bfloat16()
        _ = a + 1
        x, w = torch.ones(2, 3, 8, 8, requires_grad=True), torch.ones(4, 3, 4, 4, requires_grad=True)
        torch.conv2d(x, w, stride=2).sum().backward()
    forward = 2 * 2 * 3 * 3 * 4 * 3 * 4 * 4
    sizes = {"x": 2 * 3 * 8 * 8, "w": 4 * 3 * 4 * 4, "y": 2 * 4 * 3 * 3}
    assert products.found == [
        Product(torch.float32, 2 * 3 * 5 * 7, 4 * (15 + 35 + 21)),
        Product(torch.bfloat16, 2 * 3 * 5 * 7, 2 * (15 + 35 + 21)),
        Product(torch.float32, forward, 4 * sum(sizes.values())),
        Product(torch.float32, 2 * forward, 4 * (sum(sizes.values()) + sizes["x"] + sizes["w"])),
    ]


def test_rates_are_those_of_a_stopwatch() -> None:
    size, cpu = 512, torch.device("cpu")
    a = torch.randn(size, size)
    taken = []
    for _ in range(20):
        start = time.perf_counter()
        torch.mm(a, a)
        taken.append(time.perf_counter() - start)
    assert product_rate(cpu, torch.float32, size) == pytest.approx(2 * size**3 / min(taken), rel=0.8)
    assert 1e8 < copy_rate(cpu) < 1e12


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("steps=2", "steps=2: a benchmark needs at least 3"),
        ("output=x.txt", "output=x.txt: the name must end in .json"),
        ("output=a/x.json", "there is no folder a"),
    ],
)
def test_what_cannot_be_measured_is_refused(gantrain, typed: str, message: str) -> None:
    result = gantrain("task=benchmark", *SMALL, typed)
    assert result.status == 2
    assert message in result.stderr


def test_a_critics_warm_up_is_not_what_is_measured(gantrain, tmp_path: Path) -> None:
    """Of 100 updates in each of the first 25 steps, which are more than a benchmark has."""
    warm = ("critic_warmup.n_critic=50", "critic_warmup.steps=100", "critic_warmup.every=1000")
    result = gantrain("task=benchmark", "model=wgan_gp", "n_critic=2", *warm, *SMALL, "steps=4", "output=a.json")
    assert result.status == 0, result.stderr
    assert gantrain("task=benchmark", "model=wgan_gp", "n_critic=2", *SMALL, "steps=4", "output=b.json").status == 0
    one, other = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    assert one["flops_per_step"] == other["flops_per_step"]
    assert one["images_per_second"] == pytest.approx(2 * 4 / one["seconds_per_step"])


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return import_module


# Each of the three ways: files and a penalty, arrays that are resized and BatchNorm, small arrays.
NARROW = ("model.generator.width=4", "model.discriminator.width=4", "batch_size=8")


def test_the_programs_are_compared_in_turn() -> None:
    command = [sys.executable, ROOT / "benchmarks/compare.py", "wgan_gp_celeba_f64", "dcgan_cifar10", "default"]
    command += ["--steps", "3", "--rounds", "1", *(f"--override={override}" for override in NARROW)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()[-3:]]
    assert [row[0] for row in rows] == ["wgan_gp_celeba_f64", "dcgan_cifar10", "default"]
    for _, *cells in rows:
        naive, bare, product, faster, share = map(float, cells)
        assert min(naive, bare, product) > 0
        assert (faster, share) == (pytest.approx(naive / product, abs=0.01), pytest.approx(bare / product, abs=0.01))


def test_ratios_are_taken_round_by_round(benchmarks: Any, capsys: pytest.CaptureFixture[str]) -> None:
    rounds = [{"naive": 10.0 * i, "bare": 2.0 * i, "product": float(i * i)} for i in (1, 2, 4, 5, 10)]
    benchmarks("compare").report("case", rounds)
    assert capsys.readouterr().out == "| case | 40 | 8 | 16 | 2.50 (2.00 to 5.00) | 0.50 (0.40 to 1.00) |\n"


@pytest.mark.parametrize("name", ["wgan_gp_celeba_f64", "dcgan_cifar10", "study_vanilla", "gaussian", "default"])
def test_the_bare_loop_does_the_arithmetic_of_gantrain(benchmarks: Any, name: str) -> None:
    cases, bare = benchmarks("cases"), benchmarks("bare")
    case, cpu = cases.CASES[name], torch.device("cpu")
    config = cases.composed(case, *NARROW)
    x = torch.rand(8, *case.image_shape) * 2 - 1
    one, latent, loss = cases.networks(case, config, cpu)
    other, *_ = cases.networks(case, config, cpu)

    class OneBatch:
        batch_size = 8

        def __getitem__(self, i: int) -> torch.Tensor:
            return x

    before = [p.clone() for p in one.D.parameters()]
    train(
        *(one, OneBatch(), latent, loss, build_regularizers(config)),
        steps=1,
        n_critic=critic_schedule(config),
        seed=0,
        device=cpu,
        ema=build_ema(config),
    )
    seed_everything(0, "step", 0, device=cpu)
    bare.step(other, latent, loss, x, config)
    assert any(not torch.equal(p, q) for p, q in zip(one.D.parameters(), before, strict=True))
    for network in ("G", "D"):
        for mine, theirs in zip(getattr(one, network).parameters(), getattr(other, network).parameters(), strict=True):
            # Adam's first steps are of the size lr whatever the gradient's, so that rounding shows in tiny gradients.
            assert float((mine - theirs).detach().abs().mean()) < 0.02 * float(config["optimizer"]["lr"])
