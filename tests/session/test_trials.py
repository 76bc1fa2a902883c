"""Trial steps on copies of the training state, and the estimates that are based on them."""

import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from composing import composed

from gantrain.assemble import Training, assemble
from gantrain.config import Config
from gantrain.engine.finite import named_tensors
from gantrain.engine.memory import container_limits, is_out_of_memory, largest_fitting
from gantrain.engine.openmp import Load
from gantrain.session import trials
from gantrain.session.outcome import out_of_memory
from gantrain.session.run import PreviousSession
from gantrain.session.trials import (
    choose_threads,
    fitting_accumulate,
    fitting_rows,
    is_bitwise_equal,
    with_adaptive_threads,
)
from gantrain.tasks.job import Job

SMALL = ("model.generator.width=4", "model.discriminator.width=4", "batch_size=8", "steps=100", "callback=[]")


def training(*overrides: str) -> Training:
    config = composed(*SMALL, *overrides)
    job = Job(name="trial", folder=Path("unused"), config=config, choices={}, typed=[], resume_command="")
    made = assemble(job, config)
    made.run.state.step = 3
    return made


def numbers(made: Training) -> list[torch.Tensor]:
    return [tensor.clone() for _, tensor in named_tensors(made.run.state)]


@pytest.mark.parametrize(
    "overrides", [(), ("regularizer=[r1]", "regularizer.r1.every=4", "model.discriminator.norm=none")]
)
def test_trial_steps_do_not_change_the_run(overrides: tuple[str, ...]) -> None:
    made = training(*overrides)
    before, random = numbers(made), torch.get_rng_state()
    settings = deepcopy([group["lr"] for group in made.run.state.D_optimizer.param_groups])
    assert is_bitwise_equal(made, 1, 1)
    assert all(torch.equal(a, b) for a, b in zip(numbers(made), before, strict=True))
    assert made.run.state.step == 3
    assert torch.equal(torch.get_rng_state(), random)
    assert [group["lr"] for group in made.run.state.D_optimizer.param_groups] == settings


def test_dependence_on_the_number_of_threads_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    made, real = training(), trials.tensors_after_step

    def by_threads(given: Training) -> list[torch.Tensor]:
        first, *rest = real(given)
        return [first + 1e-7 * torch.get_num_threads(), *rest]

    monkeypatch.setattr(trials, "tensors_after_step", by_threads)
    usual = torch.get_num_threads()
    assert not is_bitwise_equal(made, 1, 2)
    assert torch.get_num_threads() == usual


@pytest.mark.parametrize(
    ("overrides", "most", "environment", "expected"),
    [
        ((), 2, None, 1),
        ((), 1, None, 0),
        (("runtime.threads=2",), 2, None, 0),
        ((), 2, "2", 0),
    ],
)
def test_threads_adapt_to_the_load_unless_their_number_is_set(
    overrides: tuple[str, ...], most: int, environment: str | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    if environment is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", environment)
    monkeypatch.setattr(torch, "get_num_threads", lambda: most)
    callbacks = with_adaptive_threads(training(*overrides), [print])
    assert print in callbacks
    assert len(callbacks) - 1 == (2 * expected if Path("/proc/stat").exists() else 0)


def test_trial_step_makes_one_critic_update_whatever_the_warmup(monkeypatch: pytest.MonkeyPatch) -> None:
    made = training("n_critic=5", "critic_warmup={n_critic:100,steps:25,every:500}")
    counted: list[int] = []
    monkeypatch.setattr(type(made.run.objective.loss), "discriminator", counting(made.run.objective.loss, counted))
    assert is_bitwise_equal(made, 1, 1)
    assert len(counted) == 2


def counting(loss: Any, counted: list[int]) -> Any:
    real = type(loss).discriminator

    def discriminator(self: Any, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> Any:
        counted.append(len(real_logits))
        return real(self, real_logits, fake_logits)

    return discriminator


@pytest.mark.parametrize(
    ("overrides", "rows"),
    [
        ((), 4),
        (("accumulate=2",), 2),
        (("packing=2", "batch_size=12"), 6),
        (("packing=2", "batch_size=4"), 2),
        (("batch_size=1",), 0),
    ],
)
def test_without_a_gpu_half_of_the_rows_are_suggested(overrides: tuple[str, ...], rows: int) -> None:
    assert fitting_rows(training("model.discriminator.norm=none", *overrides)) == rows


@pytest.mark.parametrize(
    ("limit", "rows"),
    [(10_000, 24), (None, 4)],
)
def test_on_a_gpu_two_small_steps_are_measured(limit: int | None, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of n rows takes 1,000 + 250 n bytes; with limit None even the small steps do not fit."""
    made = training("batch_size=64", "accumulate=2")
    measured: list[int] = []

    def measure_peak_bytes(_: Training, n: int) -> int:
        measured.append(n)
        if limit is None:
            raise torch.OutOfMemoryError
        return 1_000 + 250 * n

    monkeypatch.setattr(trials, "measure_peak_bytes", measure_peak_bytes)
    monkeypatch.setattr(trials, "total_bytes", lambda _: limit)
    monkeypatch.setattr(type(made.run), "device", torch.device("cuda"))
    assert fitting_rows(made) == rows  # 0.9 * 10,000 bytes are enough for 32 rows, but 32 did not fit
    assert measured == ([8, 16] if limit else [8])


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "packing", "num_processes", "rows", "expected"),
    [
        (64, 1, 1, 1, 32, 2),
        (64, 2, 1, 1, 16, 4),
        (64, 1, 1, 1, 20, 4),
        (64, 1, 1, 4, 8, 2),
        (60, 1, 2, 1, 25, 3),
        (60, 1, 4, 1, 25, 3),
        (4, 2, 2, 1, 0, None),
        (7, 1, 1, 1, 3, 7),
    ],
)
def test_the_smallest_accumulate_that_fits_is_suggested(
    batch_size: int, accumulate: int, packing: int, num_processes: int, rows: int, expected: int | None
) -> None:
    config = Config(batch_size=batch_size, accumulate=accumulate, packing=packing)
    assert fitting_accumulate(config, rows, num_processes=num_processes) == expected


@pytest.mark.parametrize(
    ("overrides", "remedy"),
    [
        ((), "batch_size=4 is likely to fit, and so is accumulate=2 with the same batch_size."),
        (("accumulate=2",), "batch_size=4 is likely to fit, and so is accumulate=4 with the same batch_size."),
        (("accumulate=8",), "use narrower networks or smaller images."),
        (("batch_size=1",), "use narrower networks or smaller images."),
    ],
)
def test_out_of_memory_message_names_settings_that_are_likely_to_fit(overrides: tuple[str, ...], remedy: str) -> None:
    made = training("model.discriminator.norm=none", *overrides)
    message = out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), made)
    assert message.startswith(f"batch_size={made.run.config.batch_size}: cpu ran out of memory (CUDA out of memory.")
    assert message.endswith(remedy)


@pytest.mark.parametrize(
    ("peaks", "available", "below", "expected"),
    [
        ([(16, 2_600), (32, 4_200)], 10_000, 200, 80),  # 1,000 and 100 per sample: (9,000 - 1,000) / 100 is 80
        ([(1, 1_100), (2, 1_200)], 1_300, 8, 1),
        ([(16, 2_600), (32, 4_200)], 100_000, 64, 56),
    ],
)
def test_largest_fitting_batch_is_extrapolated_from_two_peaks(
    peaks: list[tuple[int, int]], available: int, below: int, expected: int
) -> None:
    assert largest_fitting(peaks, available, below) == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
            True,
        ),
        (MemoryError(), True),
        (RuntimeError("shape mismatch"), False),
    ],
)
def test_out_of_memory_errors_are_recognized(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) == expected


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/docker/abc\n", {"sys/fs/cgroup/memory.max": "1000\n"}, [1000]),
        ("0::/a/b\n", {"sys/fs/cgroup/a/memory.max": "500\n", "sys/fs/cgroup/a/b/memory.max": "max\n"}, [500]),
        ("4:memory:/x\n3:cpu:/x\n", {"sys/fs/cgroup/memory/x/memory.limit_in_bytes": "700\n"}, [700]),
        ("0::/\n", {"sys/fs/cgroup/memory.max": "max\n"}, []),
    ],
)
def test_the_limits_of_a_container_are_read(
    cgroup: str, files: dict[str, str], expected: list[int], tmp_path: Path
) -> None:
    written: dict[str, Any] = {"proc/self/cgroup": cgroup, **files}
    for name, text in written.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert container_limits(tmp_path) == expected


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert container_limits(tmp_path) == []


BUSY = {"busy_seconds": lambda: 2.0 * time.monotonic(), "own_seconds": time.monotonic}
IDLE = {"busy_seconds": time.monotonic, "own_seconds": time.monotonic}
NEEDS_PROC = pytest.mark.skipif(not Path("/proc/stat").exists(), reason="the load cannot be read here")


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


def started(clocks: dict[str, Any]) -> Load:
    load = Load(**clocks)
    time.sleep(0.01)
    return load


@NEEDS_PROC
@pytest.mark.parametrize(
    ("clocks", "same", "overrides", "expected"),
    [
        (BUSY, False, (), (1, True)),
        (BUSY, True, (), (None, False)),  # adapted while the run goes on
        (IDLE, False, (), (None, False)),
        (BUSY, False, ("runtime.threads=2",), (2, False)),
    ],
)
def test_a_run_that_starts_on_a_busy_machine_keeps_fewer_threads_if_results_depend_on_them(
    clocks: dict[str, Any],
    same: bool,
    overrides: tuple[str, ...],
    expected: tuple[int | None, bool],
    two_threads: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(trials, "is_bitwise_equal", lambda *_: same)
    made = training(*overrides)
    choose_threads(made, started(clocks), {})
    runtime = made.run.runtime
    assert (runtime.threads, runtime.fixed_by_load) == expected
    assert ("this run has 1 thread to its end instead of 2" in caplog.text) == expected[1]
    assert ("1 thread (other programs use cores)" in str(runtime)) == expected[1]


@NEEDS_PROC
def test_load_that_ends_before_the_trial_changes_nothing(two_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "is_bitwise_equal", lambda *_: False)
    load, made = started(BUSY), training()
    assert load.others() == pytest.approx(1.0, abs=0.01)

    def restart_idle() -> None:
        load.clocks = (time.monotonic, time.monotonic, time.monotonic)
        load.start = [time.monotonic()] * 3

    monkeypatch.setattr(load, "restart", restart_idle)
    choose_threads(made, load, {})
    assert made.run.runtime.threads is None


@NEEDS_PROC
@pytest.mark.parametrize(
    ("earlier", "expected"),
    [
        ({"threads": 1, "threads_fixed_by_load": True}, 1),
        ({"threads": 2, "threads_fixed_by_load": False}, None),
        ({"threads": 64, "threads_fixed_by_load": True}, None),
        ({}, None),
    ],
)
@pytest.mark.parametrize("clocks", [BUSY, IDLE])
def test_a_resumed_run_takes_the_number_of_run_json_again_whatever_the_load(
    clocks: dict[str, Any], earlier: dict[str, Any], expected: int | None, two_threads: None
) -> None:
    made = training()
    made.run.previous = PreviousSession(100)
    choose_threads(made, started(clocks), earlier)
    assert (made.run.runtime.threads, made.run.runtime.fixed_by_load) == (expected, expected is not None)
