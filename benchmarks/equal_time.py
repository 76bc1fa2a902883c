"""Train methods for equal CPU time on one thread, some seeds each, and format their scores; used by the tables here."""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

QUIET = ("runtime.threads=1", "verdict=[]")


def gantrain(*typed: str) -> float:
    """Run the command on one thread, and return its CPU time in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "gantrain", *typed], check=False, capture_output=True, text=True, env=environment
    )
    if done.returncode:
        raise SystemExit(f"gantrain {' '.join(typed)} ended with status {done.returncode}:\n{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def seconds_per_step(typed: tuple[str, ...], folder: Path, *, steps: tuple[int, int] = (50, 200)) -> float:
    """Return the CPU time of a step: that of the additional steps of a longer run, so that the start does not count."""
    few, many = (
        gantrain(*typed, *QUIET, "callback=[log]", "metric=[]", f"steps={n}", f"run_dir={folder}-{n}") for n in steps
    )
    return (many - few) / (steps[1] - steps[0])


def is_finished(run: Path) -> bool:
    """Return whether the run exists and has finished."""
    return (run / "run.json").is_file() and record(run)["status"] == "finished"


def record(run: Path) -> dict[str, Any]:
    """Read run.json."""
    found: dict[str, Any] = json.loads((run / "run.json").read_text())
    return found


def train_seeds(recipe: tuple[str, ...], end: tuple[str, ...], stem: Path, *, seeds: int, seconds: float) -> list[Path]:
    """Train a recipe with some seeds for the steps that take some CPU time; runs that exist are not repeated.

    Args:
        end: overrides of the runs but not of the trial that measures the time of a step.
        stem: the run with seed 0 is in the folder <stem>-0.
    """
    runs = [stem.with_name(f"{stem.name}-{seed}") for seed in range(seeds)]
    if not all(map(is_finished, runs)):
        steps = steps_in(seconds, recipe, stem)
        for seed, run in enumerate(runs):
            if not is_finished(run):
                gantrain(
                    *recipe, *QUIET, *end, f"steps={steps}", f"evaluate_every={steps}", f"seed={seed}", f"run_dir={run}"
                )
    return runs


def steps_in(seconds: float, recipe: tuple[str, ...], stem: Path) -> int:
    """Return the number of steps that take some CPU time; kept beside the runs, so that all seeds make as many."""
    kept = stem.with_name(f"{stem.name}-steps.json")
    if not kept.exists():
        with tempfile.TemporaryDirectory() as folder:
            steps = round(seconds / seconds_per_step(recipe, Path(folder) / "trial"))
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(steps))
    return int(json.loads(kept.read_text()))


def spread(values: list[float], digits: int | None = None) -> str:
    """Format the mean and the standard deviation.

    Args:
        digits: after the decimal point; None: three significant ones.
    """
    mean, deviation = statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{mean:.3g} ± {deviation:.2g}" if digits is None else f"{mean:.{digits}f} ± {deviation:.{digits}f}"
