"""Measure the naive loop, the bare loop and gantrain in alternation (A B C A B C), and print medians and ratios.

    python benchmarks/compare.py                       # all cases
    python benchmarks/compare.py gaussian default      # some cases
    python benchmarks/compare.py default --override batch_size=256

Each program is a process that runs some steps, then waits while the others run theirs. gantrain's figure includes its
callbacks at their default intervals. Ratios are computed for each round, and printed as median (quartiles).
"""

import argparse
import os
import pickle
import platform
import statistics
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cases import CASES, make_files

from gantrain.datasets.digits import digits

HERE = Path(__file__).parent
STEPS = {
    "cpu": {
        "wgan_gp_celeba_f64": 1,
        "wgan_gp_celeba_f128": 1,
        "dcgan_cifar10": 2,
        "study_vanilla": 100,
        "gaussian": 300,
        "default": 60,
    },
    "cuda": {
        "wgan_gp_celeba_f64": 20,
        "wgan_gp_celeba_f128": 20,
        "dcgan_cifar10": 50,
        "study_vanilla": 500,
        "gaussian": 500,
        "default": 500,
    },
}


def main() -> None:
    """Measure the chosen cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="case", help=", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--override", action="append", default=[], help="a config override, for example batch_size=256")
    parser.add_argument("--steps", type=int, help="steps in each turn; the default depends on the case and the device")
    arguments = parser.parse_args()
    if unknown := [case for case in arguments.cases if case not in CASES]:
        parser.error(f"{unknown[0]}: must be one of {', '.join(CASES)}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} CPU, {os.cpu_count()} cores"
    print(f"{date.today()}, {name}, Python {platform.python_version()}, torch {torch.__version__}\n")
    columns = "case | naive, ms/step | bare, ms/step | gantrain, ms/step | speedup over naive | speedup over bare"
    print(f"| {columns} |")
    print("|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as data:
        prepare(Path(data))
        for case in arguments.cases or CASES:
            steps = arguments.steps or STEPS[device][case]
            report(case, measure(case, steps, arguments.rounds, Path(data), arguments.override))


def prepare(data: Path) -> None:
    """Write the data of gantrain's runs in the published formats."""
    make_files(data / "celeba" / "img_align_celeba")
    write_mnist(data / "MNIST" / "raw")
    write_cifar(data / "cifar-10-batches-py")


def write_mnist(folder: Path) -> None:
    """Write gantrain's 10,000 digits, repeated six times, in the files of MNIST."""
    folder.mkdir(parents=True)
    dataset = digits(image_size=None)
    images, labels = dataset.images.repeat(6, 1, 1, 1).numpy(), dataset.labels.repeat(6).numpy()
    header = bytes.fromhex("00000803") + b"".join(n.to_bytes(4, "big") for n in (len(images), 28, 28))
    (folder / "train-images-idx3-ubyte").write_bytes(header + images.tobytes())
    header = bytes.fromhex("00000801") + len(labels).to_bytes(4, "big")
    (folder / "train-labels-idx1-ubyte").write_bytes(header + labels.astype("uint8").tobytes())


def write_cifar(folder: Path) -> None:
    """Write noise in the files of CIFAR-10."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for i in range(1, 6):
        data = random.integers(0, 256, (1000, 3072), dtype=np.uint8)
        batch = {"data": data, "labels": random.integers(0, 10, 1000).tolist()}
        (folder / f"data_batch_{i}").write_bytes(pickle.dumps(batch, protocol=2))


@dataclass
class Program:
    """One of the three programs; it runs steps when asked to."""

    name: str
    process: Any
    errors: Path

    def turn(self, steps: int) -> float:
        """Run some steps and return the seconds per step."""
        with suppress(BrokenPipeError):
            self.process.stdin.write(f"{steps}\n")
            self.process.stdin.flush()
        return float(self.process.stdout.readline() or self.finish())

    def finish(self) -> str:
        """Close its input, wait until it exits, and return the rest of its output."""
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        output = self.process.stdout.read()
        self.process.wait()
        if self.process.returncode:
            raise SystemExit(f"{self.name} failed:\n{self.errors.read_text()}")
        return output


def measure(case: str, steps: int, rounds: int, data: Path, overrides: list[str]) -> list[dict[str, float]]:
    """Return the milliseconds per step of each program, in each round."""
    arguments = {"naive": [], "bare": [], "product": [str(steps * rounds), str(data)]}
    programs = []
    for name, own_arguments in arguments.items():
        command = [sys.executable, HERE / f"{name}.py", case, *own_arguments, *overrides]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        errors = data / f"{case}-{name}.log"
        with errors.open("w") as file:
            programs.append(Program(name, subprocess.Popen(command, cwd=data, stderr=file, **pipes), errors))
    try:
        seconds = []
        for i in range(rounds):
            print(f"{case}: round {i + 1} of {rounds}", file=sys.stderr)
            seconds.append({program.name: program.turn(steps) for program in programs})
        outputs = {program.name: program.finish() for program in programs}
    finally:
        for program in programs:
            program.process.kill()
    for taken in seconds:
        taken["product"] += float(outputs["product"])  # callbacks and lazy penalties at their intervals
    return [{name: 1e3 * s for name, s in taken.items()} for taken in seconds]


def report(case: str, rounds: list[dict[str, float]]) -> None:
    """Print a row of the table: medians of the times and of the ratios."""
    medians = {program: statistics.median(r[program] for r in rounds) for program in rounds[0]}
    over_naive = [r["naive"] / r["product"] for r in rounds]
    over_bare = [r["bare"] / r["product"] for r in rounds]
    cells = [f"{ms:,.4g}" for ms in medians.values()] + [spread(over_naive), spread(over_bare)]
    print(f"| {case} | {' | '.join(cells)} |", flush=True)


def spread(ratios: list[float]) -> str:
    """Format the median, with quartiles if there are at least four ratios."""
    if len(ratios) < 4:
        return f"{statistics.median(ratios):.2f}"
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
