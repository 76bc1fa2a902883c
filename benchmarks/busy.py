"""Measure gantrain alone, beside a busy process and beside a second run, in alternation; print medians and ratios.

    python benchmarks/busy.py                                    # all cases
    python benchmarks/busy.py default gaussian --rounds 5        # some cases
    python benchmarks/busy.py default --override runtime.threads=1
    python benchmarks/busy.py default --environment GOMP_SPINCOUNT=1000

Each turn starts a new process of the command with its default callbacks, in a temporary folder. The speed is read from
metrics.csv, after some seconds of warm-up. The busy process keeps one core busy. For two runs their mean speed is
reported. No other programs should run at the same time; the last column is the number of cores that they used (only on
Linux).
"""

import argparse
import csv
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch
from compare import write_mnist


@dataclass(frozen=True)
class Case:
    """A config to measure.

    Attributes:
        log_every: steps between two rows of metrics.csv; they take about 0.2 s in a run alone.
    """

    overrides: tuple[str, ...]
    log_every: int


CASES = {
    "default": Case((), 5),
    "dcgan": Case(("model=dcgan",), 10),
    "dcgan_64px": Case(("model=dcgan", "dataset.image_size=64"), 1),
    "mlp_mnist": Case(("experiment=mlp_mnist", "dataset.download=false"), 10),
    "gaussian": Case(("experiment=gaussian",), 20),
}
SITUATIONS = ("alone", "beside a busy process", "beside a second run")
ENDLESS = "steps=100000000"


@dataclass(frozen=True)
class Measurement:
    """The result of one turn: images per second, and the number of cores that other programs used."""

    speed: float
    others: float


def main() -> None:
    """Measure the cases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="case", help=", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="seconds to measure in each turn")
    parser.add_argument("--warmup", type=float, default=4.0, help="seconds of training before the measurement")
    parser.add_argument("--override", action="append", default=[], help="a config override, as runtime.threads=1")
    parser.add_argument("--environment", action="append", default=[], metavar="NAME=VALUE", help="set for the runs")
    arguments = parser.parse_args()
    if unknown := [case for case in arguments.cases if case not in CASES]:
        parser.error(f"{unknown[0]}: must be one of {', '.join(CASES)}")
    if wrong := [setting for setting in arguments.environment if "=" not in setting]:
        parser.error(f"{wrong[0]}: must be NAME=VALUE")
    environment = dict(os.environ) | dict(setting.split("=", 1) for setting in arguments.environment)
    cores = os.cpu_count()
    print(f"{date.today()}, {platform.machine()} CPU, {cores} cores, Python {platform.python_version()}, ", end="")
    print(f"torch {torch.__version__}\n")
    columns = "alone, images/s | beside a busy process | ratio to alone | beside a second run | ratio to alone"
    print(f"| case | {columns} | cores of other programs |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as data:
        write_mnist(Path(data) / "MNIST" / "raw")
        for case in arguments.cases or CASES:
            command = [*case_command(case, Path(data)), *arguments.override]
            rounds = []
            for i in range(arguments.rounds):
                print(f"{case}: round {i + 1} of {arguments.rounds}", file=sys.stderr)
                rounds.append(
                    {
                        situation: measure(situation, command, environment, arguments.warmup, arguments.seconds)
                        for situation in SITUATIONS
                    }
                )
            report(case, rounds)


def case_command(name: str, data: Path) -> list[str]:
    """Return the command that trains the case until it is killed."""
    case = CASES[name]
    data_overrides = [f"dataset.root={data}", f"dataset.cache_dir={data}/cache"] if name == "mlp_mnist" else []
    return [sys.executable, "-m", "gantrain", *case.overrides, *data_overrides, ENDLESS, f"log_every={case.log_every}"]


def measure(
    situation: str, command: Sequence[str], environment: dict[str, str], warmup: float, seconds: float
) -> Measurement:
    """Train in the given situation for warmup and seconds, then kill the runs; return the mean speed."""
    with tempfile.TemporaryDirectory() as folder:
        names = ["first", "second"] if situation == "beside a second run" else ["first"]
        with (
            busy_process(situation == "beside a busy process") as helpers,
            running(command, environment, Path(folder), names) as runs,
        ):
            wait_for_rows(runs, Path(folder), warmup)
            before = {name: last_row(Path(folder) / name) for name in names}
            used, own = busy_seconds(), sum(map(cpu_seconds, [*helpers, *runs]))
            start = time.monotonic()
            time.sleep(seconds)
            wait_for_rows(runs, Path(folder), max(at for _, at in before.values()) + seconds / 2)
            elapsed = time.monotonic() - start
            others = (busy_seconds() - used - sum(map(cpu_seconds, [*helpers, *runs])) + own) / elapsed
            after = {name: last_row(Path(folder) / name) for name in names}
    speeds = [(after[name][0] - before[name][0]) / (after[name][1] - before[name][1]) for name in names]
    return Measurement(statistics.mean(speeds), others)


@contextmanager
def busy_process(enabled: bool) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Keep one core busy while the block runs, if `enabled`."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"])] if enabled else []
    try:
        yield processes
    finally:
        kill(processes)


@contextmanager
def running(
    command: Sequence[str], environment: dict[str, str], folder: Path, names: Sequence[str]
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start the runs, each in its own folder, and kill them at the end of the block."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for name in names:
            with (folder / f"{name}.log").open("w") as log:
                arguments = [*command, f"run_dir={folder / name}"]
                processes.append(subprocess.Popen(arguments, env=environment, stdout=log, stderr=subprocess.STDOUT))
        yield processes
    finally:
        kill(processes)


def kill(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Kill processes and wait for them."""
    for process in processes:
        process.kill()
        process.wait()


def wait_for_rows(runs: Sequence[subprocess.Popen[bytes]], folder: Path, seconds: float) -> None:
    """Wait until each run has logged a row after this many seconds of training."""
    for process, name in zip(runs, ["first", "second"], strict=False):
        while last_row(folder / name)[1] < seconds:
            if process.poll() is not None:
                raise SystemExit(f"gantrain failed:\n{(folder / f'{name}.log').read_text()}")
            time.sleep(0.05)


def last_row(folder: Path) -> tuple[int, float]:
    """Return the images and seconds in the last complete row of a run's metrics.csv; zeros if there is none."""
    path = folder / "metrics.csv"
    if not path.exists():
        return 0, 0.0
    lines = path.read_text().splitlines(keepends=True)
    rows = list(csv.DictReader(line for line in lines if line.endswith("\n")))
    return (int(rows[-1]["images"]), float(rows[-1]["seconds"])) if rows else (0, 0.0)


def busy_seconds() -> float:
    """Return the seconds that all cores were busy since boot, summed; 0 on systems without /proc."""
    path = Path("/proc/stat")
    if not path.exists():
        return 0.0
    user, nice, system, _, _, interrupts, soft_interrupts = map(int, path.read_text().split()[1:8])
    return (user + nice + system + interrupts + soft_interrupts) / os.sysconf("SC_CLK_TCK")


def cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    """Return the CPU seconds of a process; 0 on systems without /proc."""
    path = Path(f"/proc/{process.pid}/stat")
    if not path.exists():
        return 0.0
    user, system = path.read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def report(case: str, rounds: Sequence[dict[str, Measurement]]) -> None:
    """Print a row of the table: medians of the speeds, and of the ratios of each round."""
    speeds = {situation: [turns[situation].speed for turns in rounds] for situation in SITUATIONS}
    alone = speeds["alone"]
    cells = [f"{statistics.median(alone):,.4g}"]
    for situation in SITUATIONS[1:]:
        ratios = [speed / other for speed, other in zip(speeds[situation], alone, strict=True)]
        cells += [f"{statistics.median(speeds[situation]):,.4g}", spread(ratios)]
    others = statistics.median(measured.others for turns in rounds for measured in turns.values())
    print(f"| {case} | {' | '.join(cells)} | {max(others, 0.0):.2f} |", flush=True)


def spread(ratios: Sequence[float]) -> str:
    """Format the median with the minimum and the maximum."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    main()
