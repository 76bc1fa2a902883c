"""Measure the naive loop, the bare loop and gantrain itself in turn, A B C A B C, and print medians and ratios.

    python benchmarks/compare.py                       # every case
    python benchmarks/compare.py gaussian default      # some
    python benchmarks/compare.py --rounds 5 --markdown

Each measurement is a process of its own. One that is disturbed stands out in its row, and hardly moves the median.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

import torch
from cases import CASES, make_files

from gantrain.datasets.digits import digits

HERE = Path(__file__).parent
STEPS = {
    "cpu": {
        "wgan_gp_celeba_f64": 3,
        "wgan_gp_celeba_f128": 3,
        "dcgan_cifar10": 6,
        "study_vanilla": 400,
        "gaussian": 400,
        "default": 60,
    },
    "cuda": {
        "wgan_gp_celeba_f64": 40,
        "wgan_gp_celeba_f128": 40,
        "dcgan_cifar10": 100,
        "study_vanilla": 2000,
        "gaussian": 1000,
        "default": 1000,
    },
}


def main() -> None:
    """Measure the cases that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=[*CASES], choices=[*CASES, []])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of each measurement; by default what suits the case and the device")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} CPU, {os.cpu_count()} cores"
    print(f"{date.today()}, {name}, Python {platform.python_version()}, torch {torch.__version__}\n")
    print("| case | naive, ms a step | bare | gantrain | gantrain is faster than naive | and of bare |")
    print("|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as data:
        prepare(Path(data))
        for case in arguments.cases or CASES:
            steps = str(arguments.steps or STEPS[device][case])
            rounds = [measure(case, steps, Path(data)) for _ in range(arguments.rounds)]
            report(case, rounds)


def prepare(data: Path) -> None:
    """Make the data of gantrain's own runs, of the real formats."""
    make_files(data / "celeba" / "img_align_celeba")
    write_mnist(data / "MNIST" / "raw")
    write_cifar(data / "cifar-10-batches-py")


def write_mnist(folder: Path) -> None:
    """The digits that come with gantrain, six times over, as MNIST's files."""
    folder.mkdir(parents=True)
    dataset = digits(image_size=None)
    images, labels = dataset.images.repeat(6, 1, 1, 1).numpy(), dataset.labels.repeat(6).numpy()
    header = bytes.fromhex("00000803") + b"".join(n.to_bytes(4, "big") for n in (len(images), 28, 28))
    (folder / "train-images-idx3-ubyte").write_bytes(header + images.tobytes())
    header = bytes.fromhex("00000801") + len(labels).to_bytes(4, "big")
    (folder / "train-labels-idx1-ubyte").write_bytes(header + labels.astype("uint8").tobytes())


def write_cifar(folder: Path) -> None:
    """Noise, as CIFAR-10's files."""
    import pickle

    import numpy as np

    folder.mkdir(parents=True)
    numbers = np.random.default_rng(0)
    for i in range(1, 6):
        data = numbers.integers(0, 256, (1000, 3072), dtype=np.uint8)
        batch = {"data": data, "labels": numbers.integers(0, 10, 1000).tolist()}
        (folder / f"data_batch_{i}").write_bytes(pickle.dumps(batch, protocol=2))


def measure(case: str, steps: str, data: Path) -> dict[str, float]:
    """One round: milliseconds a step of each program."""
    milliseconds = {}
    for program in ("naive", "bare"):
        done = run([sys.executable, HERE / f"{program}.py", case, "--steps", steps], data)
        milliseconds[program] = 1e3 * json.loads(done)["seconds_per_step"]
    output = data / "figures.json"
    output.unlink(missing_ok=True)
    overrides = [*CASES[case].overrides, f"steps={steps}", f"output={output}"]
    if CASES[case].source != "numbers" and case != "default":
        overrides += [f"dataset.root={data}", f"dataset.cache_dir={data / 'cache'}", "dataset.download=false"]
    run([sys.executable, "-m", "gantrain", "task=benchmark", *overrides], data)
    milliseconds["gantrain"] = 1e3 * json.loads(output.read_text())["seconds_per_step"]
    return milliseconds


def run(command: list[str | Path], folder: Path) -> str:
    """Run a program and return what it printed."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command} failed:\n{done.stderr}")
    return done.stdout


def report(case: str, rounds: list[dict[str, float]]) -> None:
    """Print a row: medians, and the ratios round by round."""
    middle = {program: statistics.median(r[program] for r in rounds) for program in rounds[0]}
    faster = [r["naive"] / r["gantrain"] for r in rounds]
    share = [r["bare"] / r["gantrain"] for r in rounds]
    cells = [f"{middle[program]:,.4g}" for program in ("naive", "bare", "gantrain")]
    cells += [f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" for ratios in (faster, share)]
    print(f"| {case} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
