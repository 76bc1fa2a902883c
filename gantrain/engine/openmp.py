"""OpenMP's threads on a busy machine: how long they spin while they wait, and how many there are.

By default an OpenMP thread that waits for the others spins for milliseconds. Where another program needs the core, all
wait for the one that does not run, many times a step. Nothing here imports torch when it is imported.
"""

import os
import sys
import time
from collections.abc import Callable, MutableMapping
from pathlib import Path

AUTO_SPIN = 10_000
"""Iterations of a waiting loop, some tens of microseconds: longer than the gaps between operations of a small step."""

SECONDS_BETWEEN_LOOKS = 0.5
NUM_AGREEING = 2
"""Looks in a row that must ask for the same number of threads before it is changed."""


def bound_spin(spin: object, environment: MutableMapping[str, str] = os.environ) -> None:
    """Bound how long OpenMP's threads spin; they read it when torch is imported, so call this before.

    What the user's environment sets stays.

    Args:
        spin: "auto", "system" (as OpenMP does by itself), or the number of iterations.
    """
    is_set = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & environment.keys()
    if spin == "system" or is_set or "torch" in sys.modules:
        return
    environment["GOMP_SPINCOUNT"] = str(AUTO_SPIN if spin == "auto" else spin)


def can_follow_load() -> bool:
    """Tell whether the load of the machine can be read, and the environment leaves the number of threads open."""
    return Path("/proc/stat").exists() and not {"OMP_NUM_THREADS", "MKL_NUM_THREADS"} & os.environ.keys()


def busy_seconds() -> float:
    """Return for how long the cores that this process may use have been busy since the machine started, in all."""
    ticks, cores = os.sysconf("SC_CLK_TCK"), os.sched_getaffinity(0)
    busy = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name[3:].isdecimal() and int(name[3:]) in cores:
            user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, fields)
            busy += user + nice + system + irq + softirq
    return busy / ticks


class ThreadsFollowLoad:
    """Computes with as many threads as other programs leave cores, halving and doubling.

    A number of threads is taken only if it gives the same bits, which `gives_same_bits` finds out at its first use:
    some convolutions sum in another order with another number, and a run must not depend on other programs.

    Args:
        most: threads on a machine without other work.
        set_threads: takes the number of threads from now on.
        gives_same_bits: tells whether a step with this number gives the same numbers as one with `most`.
        busy_seconds, own_seconds, now: clocks, in seconds: of the cores, of this process on them, of the wall.
    """

    def __init__(
        self,
        most: int,
        *,
        set_threads: Callable[[int], None],
        gives_same_bits: Callable[[int], bool],
        busy_seconds: Callable[[], float] = busy_seconds,
        own_seconds: Callable[[], float] = time.process_time,
        now: Callable[[], float] = time.monotonic,
    ):
        self.most = self.threads = most
        self.set_threads, self.gives_same_bits = set_threads, gives_same_bits
        self.clocks = (busy_seconds, own_seconds, now)
        self.now = now
        self.verdicts = {most: True}
        self.wanted: list[int] = []
        self.restart()

    def restart(self) -> None:
        """Begin a new window of measurement."""
        self.start = [clock() for clock in self.clocks]

    def __call__(self, *_: object) -> None:
        """Look at the load if it is time, and change the number of threads if it calls for that."""
        if self.now() - self.start[2] < SECONDS_BETWEEN_LOOKS:
            return
        busy, own, wall = (clock() - start for clock, start in zip(self.clocks, self.start, strict=True))
        others = max(0.0, (busy - own) / wall)
        self.wanted = [*self.wanted, self.fitting(others)][-NUM_AGREEING:]
        if len(self.wanted) == NUM_AGREEING and len(set(self.wanted)) == 1 and self.wanted[0] != self.threads:
            self.change(self.wanted[0])
        self.restart()

    def fitting(self, others: float) -> int:
        """Return the largest of most, most/2, most/4, ... that fits beside so many busy cores."""
        threads = self.most
        while threads > 1 and threads > self.most - others + 0.5:
            threads //= 2
        return threads

    def change(self, threads: int) -> None:
        """Take another number of threads, if it gives the same bits."""
        if threads not in self.verdicts:
            self.verdicts[threads] = self.gives_same_bits(threads)
        if self.verdicts[threads]:
            self.threads = threads
            self.set_threads(threads)
