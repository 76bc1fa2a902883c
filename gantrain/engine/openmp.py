"""Limit how long OpenMP threads spin, and adapt their number to the load of the machine.

By default, an OpenMP thread that waits for the others spins for milliseconds. If another program uses one of the cores,
all threads wait for the one that does not run, many times per step. This module does not import torch.
"""

import os
import sys
import time
from collections.abc import Callable, MutableMapping, Sequence
from pathlib import Path

AUTO_SPIN = 3_000
"""Iterations of the spin loop, ten to twenty microseconds: longer than the gaps between operations of a small step."""

SECONDS_BETWEEN_CHECKS = 0.5
NUM_AGREEING = 2
"""Consecutive checks that must find the same number of threads before it is changed."""


def bound_spin(spin: object, environment: MutableMapping[str, str] = os.environ) -> None:
    """Limit how long OpenMP threads spin; call this before the import of torch, when OpenMP reads the setting.

    Environment variables that the user has set are not changed.

    Args:
        spin: "auto", "system" (the default of OpenMP), or the number of iterations.
    """
    is_set = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & environment.keys()
    if spin == "system" or is_set or "torch" in sys.modules:
        return
    environment["GOMP_SPINCOUNT"] = str(AUTO_SPIN if spin == "auto" else spin)


def can_adapt_threads() -> bool:
    """Return whether the load of the machine can be read, and the environment does not set the number of threads."""
    return Path("/proc/stat").exists() and not {"OMP_NUM_THREADS", "MKL_NUM_THREADS"} & os.environ.keys()


def busy_seconds() -> float:
    """Return the seconds that the cores of this process have been busy since boot, summed over the cores.

    It is 0 where the system does not tell.
    """
    if not Path("/proc/stat").exists():
        return 0.0
    ticks, cores = os.sysconf("SC_CLK_TCK"), os.sched_getaffinity(0)
    busy = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name[3:].isdecimal() and int(name[3:]) in cores:
            user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, fields)
            busy += user + nice + system + irq + softirq
    return busy / ticks


def own_seconds() -> float:
    """Return the CPU seconds of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class Load:
    """Measures how many cores other programs use on average, from its creation or the last restart.

    Args:
        busy_seconds, own_seconds, now: clocks in seconds: busy time of the cores, CPU time of this process, wall time.
    """

    def __init__(
        self,
        busy_seconds: Callable[[], float] = busy_seconds,
        own_seconds: Callable[[], float] = own_seconds,
        now: Callable[[], float] = time.monotonic,
    ):
        self.clocks = (busy_seconds, own_seconds, now)
        self.restart()

    def restart(self) -> None:
        """Start a new measurement."""
        self.start = [clock() for clock in self.clocks]

    @property
    def seconds(self) -> float:
        """Duration of the measurement so far."""
        return self.clocks[2]() - self.start[2]

    def others(self) -> float:
        """Return how many cores other programs have used on average."""
        busy, own, wall = (clock() - start for clock, start in zip(self.clocks, self.start, strict=True))
        return max(0.0, (busy - own) / wall) if wall > 0 else 0.0


def fitting_threads(max_threads: int, others: float) -> int:
    """Return the largest of max_threads, max_threads / 2, ... for which enough cores are free.

    Args:
        others: average number of cores that other programs use.
    """
    threads = max_threads
    while threads > 1 and threads > max_threads - others + 0.5:
        threads //= 2
    return threads


class AdaptThreads:
    """Callback that adapts the number of CPU threads of the updates to the cores that other programs leave free.

    The number is max_threads, or a half, a quarter, ... of it. It is used only if its results are bitwise identical,
    which is checked once for each number: with a different number of threads some convolutions sum in a different
    order, and the result of a run must not depend on other programs. What callbacks compute, such as metrics, cannot be
    checked, so they always run with max_threads.

    Args:
        max_threads: number of threads on an idle machine.
        set_threads: sets the number of threads.
        is_bitwise_equal: returns whether a training step with this number of threads is bitwise identical to one with
            max_threads.
        load: measures what other programs use.
    """

    def __init__(
        self,
        max_threads: int,
        *,
        set_threads: Callable[[int], None],
        is_bitwise_equal: Callable[[int], bool],
        load: Load | None = None,
    ):
        self.max_threads = self.threads = self.current = max_threads
        self.set_threads, self.is_bitwise_equal = set_threads, is_bitwise_equal
        self.load = load or Load()
        self.is_equal = {max_threads: True}
        self.wanted: list[int] = []

    def around(self, callbacks: Sequence[Callable[..., None]]) -> list[Callable[..., None]]:
        """Return the callbacks, preceded by one that sets max_threads, and followed by this one."""
        return [lambda *_: self.set_current(self.max_threads), *callbacks, self]

    def __call__(self, *_: object) -> None:
        """Set the number of threads for the next step; check the load first if the last check is long enough ago."""
        self.check_load()
        self.set_current(self.threads)

    def set_current(self, threads: int) -> None:
        """Set the number of threads that PyTorch uses now."""
        if threads != self.current:
            self.set_threads(threads)
            self.current = threads

    def check_load(self) -> None:
        """Measure how many cores other programs use, and choose the number of threads for the updates."""
        if self.load.seconds < SECONDS_BETWEEN_CHECKS:
            return
        fitting = fitting_threads(self.max_threads, self.load.others())
        self.wanted = [*self.wanted, fitting][-NUM_AGREEING:]
        if len(self.wanted) == NUM_AGREEING and len(set(self.wanted)) == 1 and self.wanted[0] != self.threads:
            self.change(self.wanted[0])
        self.load.restart()

    def change(self, threads: int) -> None:
        """Choose the number of threads for the updates, if the results are bitwise identical."""
        if threads not in self.is_equal:
            self.is_equal[threads] = self.is_bitwise_equal(threads)
        if self.is_equal[threads]:
            self.threads = threads
