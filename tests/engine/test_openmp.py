"""The spin count of OpenMP threads, and the number of threads that adapts to the load of the machine."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gantrain.engine.openmp import (
    AUTO_SPIN,
    NUM_AGREEING,
    AdaptThreads,
    Load,
    bound_spin,
    busy_seconds,
    fitting_threads,
    own_seconds,
)


@pytest.mark.parametrize(
    ("spin", "environment", "expected"),
    [
        ("auto", {}, {"GOMP_SPINCOUNT": str(AUTO_SPIN)}),
        (300, {}, {"GOMP_SPINCOUNT": "300"}),
        (0, {}, {"GOMP_SPINCOUNT": "0"}),
        ("system", {}, {}),
        ("auto", {"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        (300, {"OMP_WAIT_POLICY": "passive"}, {"OMP_WAIT_POLICY": "passive"}),
    ],
)
def test_spin_count_is_set_unless_the_environment_sets_it(
    spin: object, environment: dict[str, str], expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    bound_spin(spin, environment)
    assert environment == expected


def test_spin_count_is_not_set_after_torch_is_imported() -> None:
    environment: dict[str, str] = {}
    bound_spin("auto", environment)
    assert environment == {}


@pytest.mark.parametrize(("typed", "expected"), [((), str(AUTO_SPIN)), (("runtime.spin=system",), "None")])
def test_command_sets_the_spin_count_before_torch_is_imported(
    tmp_path: Path, typed: tuple[str, ...], expected: str
) -> None:
    (tmp_path / "spun.py").write_text(
        "import os, sys\nseen = 'torch' in sys.modules, os.environ.get('GOMP_SPINCOUNT')\n"
        "import gantrain.command.cli as cli\nresolve = cli.trust.resolve\n"
        "def look(*arguments):\n    print('torch' in sys.modules, os.environ.get('GOMP_SPINCOUNT')); sys.exit(0)\n"
        "cli.trust.resolve = look\ncli.main()\n"
    )
    environment = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    command = [sys.executable, "spun.py", "steps=1", *typed]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False", expected], done.stderr


@dataclass
class Machine:
    """A simulated machine on which other processes use `others` cores."""

    others: float = 0.0
    time: float = 0.0
    busy: float = 0.0
    own: float = 0.0
    chosen: list[int] = field(default_factory=list)
    tried: list[int] = field(default_factory=list)

    def adapt_threads(self, most: int, *, same: bool = True) -> AdaptThreads:
        def is_bitwise_equal(threads: int) -> bool:
            self.tried.append(threads)
            return same

        return AdaptThreads(
            most,
            set_threads=self.chosen.append,
            is_bitwise_equal=is_bitwise_equal,
            load=self.measure_load(),
        )

    def measure_load(self) -> Load:
        return Load(busy_seconds=lambda: self.busy, own_seconds=lambda: self.own, now=lambda: self.time)

    def pass_time(self, adapter: AdaptThreads, seconds: float) -> None:
        for _ in range(round(seconds / 0.1)):
            self.time += 0.1
            self.own += 0.1
            self.busy += 0.1 * (1 + self.others)
            adapter()


def test_child_processes_that_have_ended_do_not_count_as_other_programs() -> None:
    before = own_seconds()
    subprocess.run([sys.executable, "-c", "sum(range(10**7))"], check=True)
    assert own_seconds() - before > 0.05


def test_idle_machine_keeps_all_threads() -> None:
    machine = Machine()
    adapter = machine.adapt_threads(2)
    machine.pass_time(adapter, 10)
    assert (machine.chosen, machine.tried) == ([], [])


def test_threads_are_reduced_beside_a_busy_process_and_restored_after_it() -> None:
    machine = Machine(others=1.0)
    adapter = machine.adapt_threads(2)
    machine.pass_time(adapter, 3)
    assert machine.chosen == [1]
    machine.others = 0.0
    machine.pass_time(adapter, 3)
    assert machine.chosen == [1, 2]
    machine.others = 1.0
    machine.pass_time(adapter, 3)
    assert machine.chosen == [1, 2, 1]
    assert machine.tried == [1]  # tried once


def test_callbacks_run_with_all_threads() -> None:
    machine = Machine(others=1.0)
    adapter = machine.adapt_threads(2)
    machine.pass_time(adapter, 3)
    assert machine.chosen == [1]
    seen: list[list[int]] = []
    for callback in adapter.around([lambda: seen.append(list(machine.chosen))]):
        callback()
    assert seen == [[1, 2]]
    assert machine.chosen == [1, 2, 1]


def test_short_bursts_of_other_processes_change_nothing() -> None:
    machine = Machine()
    adapter = machine.adapt_threads(2)
    machine.pass_time(adapter, 1.2)
    machine.others = 1.0
    machine.pass_time(adapter, 0.3)
    machine.others = 0.0
    machine.pass_time(adapter, 3)
    assert NUM_AGREEING > 1
    assert machine.chosen == []


def test_number_of_threads_stays_if_results_would_differ() -> None:
    machine = Machine(others=1.0)
    adapter = machine.adapt_threads(2, same=False)
    machine.pass_time(adapter, 5)
    assert machine.chosen == []
    assert machine.tried == [1]


@pytest.mark.parametrize(
    ("most", "others", "expected"),
    [(2, 0.0, 2), (2, 0.4, 2), (2, 0.6, 1), (2, 2.0, 1), (8, 1.0, 4), (8, 0.4, 8), (8, 5.0, 2), (8, 8.0, 1)],
)
def test_number_of_threads_is_halved_until_it_fits(most: int, others: float, expected: int) -> None:
    assert fitting_threads(most, others) == expected


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="reads Linux's counters")
def test_busy_seconds_include_this_process() -> None:
    busy, own = busy_seconds(), time.process_time()
    while time.process_time() - own < 0.5:
        pass
    assert busy_seconds() - busy > 0.4
