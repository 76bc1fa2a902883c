"""On a busy machine: the bounded spin, and threads that follow the load."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gantrain.engine.openmp import AUTO_SPIN, NUM_AGREEING, AdaptThreads, bound_spin, busy_seconds


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
def test_the_spin_is_bounded_unless_the_environment_says_otherwise(
    spin: object, environment: dict[str, str], expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    bound_spin(spin, environment)
    assert environment == expected


def test_after_torch_is_imported_nothing_is_set() -> None:
    environment: dict[str, str] = {}
    bound_spin("auto", environment)
    assert environment == {}


@pytest.mark.parametrize(("typed", "expected"), [((), str(AUTO_SPIN)), (("runtime.spin=system",), "None")])
def test_the_command_sets_the_spin_before_torch_is_imported(
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
    """A machine of `cores` on which others use some, seen through clocks that are moved by hand."""

    others: float = 0.0
    time: float = 0.0
    busy: float = 0.0
    own: float = 0.0
    chosen: list[int] = field(default_factory=list)
    tried: list[int] = field(default_factory=list)

    def follow(self, most: int, *, same: bool = True) -> AdaptThreads:
        def gives_same_bits(threads: int) -> bool:
            self.tried.append(threads)
            return same

        return AdaptThreads(
            most,
            set_threads=self.chosen.append,
            gives_same_bits=gives_same_bits,
            busy_seconds=lambda: self.busy,
            own_seconds=lambda: self.own,
            now=lambda: self.time,
        )

    def pass_time(self, follower: AdaptThreads, seconds: float) -> None:
        for _ in range(round(seconds / 0.1)):
            self.time += 0.1
            self.own += 0.1
            self.busy += 0.1 * (1 + self.others)
            follower()


def test_alone_nothing_is_changed_and_nothing_is_tried() -> None:
    machine = Machine()
    follower = machine.follow(2)
    machine.pass_time(follower, 10)
    assert (machine.chosen, machine.tried) == ([], [])


def test_beside_a_busy_process_a_thread_is_given_up_and_taken_back() -> None:
    machine = Machine(others=1.0)
    follower = machine.follow(2)
    machine.pass_time(follower, 3)
    assert machine.chosen == [1]
    machine.others = 0.0
    machine.pass_time(follower, 3)
    assert machine.chosen == [1, 2]
    machine.others = 1.0
    machine.pass_time(follower, 3)
    assert machine.chosen == [1, 2, 1]
    assert machine.tried == [1]  # once


def test_a_short_burst_of_others_changes_nothing() -> None:
    machine = Machine()
    follower = machine.follow(2)
    machine.pass_time(follower, 1.2)
    machine.others = 1.0
    machine.pass_time(follower, 0.3)
    machine.others = 0.0
    machine.pass_time(follower, 3)
    assert NUM_AGREEING > 1
    assert machine.chosen == []


def test_where_the_bits_would_differ_the_number_stays() -> None:
    machine = Machine(others=1.0)
    follower = machine.follow(2, same=False)
    machine.pass_time(follower, 5)
    assert machine.chosen == []
    assert machine.tried == [1]


@pytest.mark.parametrize(
    ("most", "others", "expected"),
    [(2, 0.0, 2), (2, 0.4, 2), (2, 0.6, 1), (2, 2.0, 1), (8, 1.0, 4), (8, 0.4, 8), (8, 5.0, 2), (8, 8.0, 1)],
)
def test_the_largest_half_that_fits_beside_the_others(most: int, others: float, expected: int) -> None:
    assert Machine().follow(most).fitting(others) == expected


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="reads Linux's counters")
def test_busy_seconds_count_what_this_process_uses() -> None:
    busy, own = busy_seconds(), time.process_time()
    while time.process_time() - own < 0.5:
        pass
    assert busy_seconds() - busy > 0.4
