"""Measure the share of the time that evaluations take, for several values of max_eval_fraction.

    python benchmarks/evaluation_cost.py
    python benchmarks/evaluation_cost.py --steps 3000 --repeats 3 model=wgan_gp

The CPU time of whole runs on one thread is compared with that of the same run without metrics, in turn. The statistics
of the real images are in the cache already. Other arguments are overrides of all runs.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

FRACTIONS = (0.05, 0.1, 0.3)


def main() -> None:
    """Run, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--repeats", type=int, default=3)
    arguments, overrides = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        common = [*overrides, "callback=[evaluate,log,csv]", "runtime.threads=1"]
        common += [f"statistics_dir={folder / 'statistics'}", f"steps={arguments.steps}"]
        seconds(folder / "cache", [*common, "steps=1"])
        without: list[float] = []
        taken: dict[float, list[float]] = {fraction: [] for fraction in FRACTIONS}
        evaluated: dict[float, int] = {}
        for i in range(arguments.repeats):
            without.append(seconds(folder / f"without-{i}", [*common, "metric=[]"]))
            for fraction in FRACTIONS:
                run = folder / f"{fraction}-{i}"
                budget = ["evaluate_every=null", f"max_eval_fraction={fraction}"]
                taken[fraction].append(seconds(run, [*common, *budget]))
                evaluated[fraction] = num_evaluations(run)
        print("| max_eval_fraction | evaluations | CPU seconds | without metrics | share of the time |")
        print("|---|---|---|---|---|")
        base = statistics.median(without)
        for fraction in FRACTIONS:
            total = statistics.median(taken[fraction])
            print(f"| {fraction} | {evaluated[fraction]} | {total:.0f} | {base:.0f} | {1 - base / total:.1%} |")


def seconds(run: Path, overrides: list[str]) -> float:
    """Train, and return the CPU time of the process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "gantrain", *overrides, f"run_dir={run}"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def num_evaluations(run: Path) -> int:
    """Count the rows of metrics.csv that have a score."""
    header, *rows = (line.split(",") for line in (run / "metrics.csv").read_text().splitlines())
    scores = [i for i, tag in enumerate(header) if tag.startswith("metric/")]
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    return sum(any(row[i] for i in scores) for row in rows)


if __name__ == "__main__":
    main()
