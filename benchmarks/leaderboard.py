"""Train recipes on MNIST for equal CPU time, three seeds each, and write a table and a picture of their samples.

python benchmarks/leaderboard.py --root data --table docs/leaderboard.md --picture docs/pictures/leaderboard.png

The time of a step is measured first, so every recipe gets the steps that take
`--seconds` of CPU time on one thread. Runs that exist in `--folder` already are not repeated.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gantrain.datasets.batches import to_signed
from gantrain.evaluation.features.digits import Digits
from gantrain.evaluation.grids import grid, save_png
from gantrain.evaluation.receipts import differ, in_words

RELATIVISTIC = ("loss=relativistic", "regularizer=[r1,r2]", "regularizer.r1.gamma=1", "regularizer.r2.gamma=1")
RECIPES = {
    "vanilla": ("model=vanilla",),
    "lsgan": ("model=lsgan",),
    "dcgan": ("model=dcgan",),
    "wgan": ("model=wgan",),
    "wgan_gp": ("model=wgan_gp",),
    "relativistic, R1 and R2": ("model=dcgan", "model.discriminator.norm=none", *RELATIVISTIC),
}
SCORES = ("metric/fid_digits", "metric/coverage_digits", "metric/density_digits")
BATCH_SIZE = 16
QUIET = ("callback=[evaluate,log,csv,checkpoint]", "runtime.threads=1", f"batch_size={BATCH_SIZE}")
METRICS = ("metric=[fid,density_coverage]", "metric.fid.num_samples=10000", "metric.fid.num_real=null")
MIN_SHARE = 0.05
"""Share of the samples that a class needs to count as covered; in the data each has about 10 %."""


def main() -> None:
    """Train all recipes, and write the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data", help="folder with MNIST")
    parser.add_argument("--folder", type=Path, default=Path("outputs/leaderboard"), help="folder of the runs")
    parser.add_argument("--table", type=Path, required=True, help="Markdown file to write")
    parser.add_argument("--picture", type=Path, required=True, help="PNG file to write")
    parser.add_argument("--seconds", type=float, default=90, help="CPU time of each run")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    data = ("dataset=mnist", f"dataset.root={arguments.root}", f"statistics_dir={arguments.folder / 'statistics'}")
    rows, pictures = [], []
    for name, recipe in RECIPES.items():
        stem = name.split(",")[0]
        runs = [arguments.folder / f"{stem}-{seed}" for seed in range(arguments.seeds)]
        if not all(is_finished(run) for run in runs):
            steps = arguments.seconds / seconds_per_step((*recipe, *data), arguments.folder / f"trial-{stem}")
            for seed, run in enumerate(runs):
                end = (*METRICS, f"steps={round(steps)}", f"evaluate_every={round(steps)}", f"seed={seed}")
                gantrain(*recipe, *data, *QUIET, *end, f"run_dir={run}")
        rows.append(row(name, runs))
        pictures.append(samples(runs[0])[:20])
        print(rows[-1]["text"], flush=True)
    require_one_protocol([receipt for r in rows for receipt in r["receipts"]])
    save_png(arguments.picture, grid(torch.cat(pictures), columns=20))
    arguments.table.write_text(page(rows, arguments))


def gantrain(*typed: str) -> float:
    """Run the command on one thread, and return its CPU time in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "gantrain", *typed], check=True, capture_output=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def seconds_per_step(typed: tuple[str, ...], folder: Path) -> float:
    """Return the CPU time of a step: that of 150 steps more, so that the start does not count."""
    few, many = (
        gantrain(*typed, *QUIET, "metric=[]", f"steps={steps}", f"run_dir={folder}-{steps}") for steps in (50, 200)
    )
    return (many - few) / 150


def is_finished(run: Path) -> bool:
    """Return whether the run exists and has finished."""
    path = run / "run.json"
    return path.is_file() and json.loads(path.read_text())["status"] == "finished"


def samples(run: Path) -> torch.Tensor:
    """Return 2,000 samples of a run, in [-1, 1]."""
    path = run / "samples.npz"
    if not path.exists():
        gantrain("task=sample", f"run={run}", "num=2000", f"output={path}", "seed=1")
    with np.load(path) as archive:
        return to_signed(torch.from_numpy(archive["images"]).permute(0, 3, 1, 2))


def covered_classes(run: Path) -> int:
    """Count the classes that have at least MIN_SHARE of the samples, by the classifier of features=digits."""
    extractor = Digits()
    extractor.load(torch.device("cpu"))
    images = ((samples(run) + 1) * 127.5).round().to(torch.uint8)
    logits = torch.cat([extractor(block).logits for block in images.split(500)])
    shares = torch.bincount(logits.argmax(1), minlength=10) / len(images)
    return int((shares >= MIN_SHARE).sum())


def row(name: str, runs: list[Path]) -> dict[str, Any]:
    """Collect the scores of the seeds of a recipe."""
    records = [json.loads((run / "run.json").read_text()) for run in runs]
    last = [record["metrics"]["last"] for record in records]
    cells = [spread([values[tag] for values in last]) for tag in SCORES]
    cells.append(spread([float(covered_classes(run)) for run in runs], digits=1))
    text = f"| {name} | {records[0]['steps']:,} | {' | '.join(cells)} |"
    receipts = [record["metrics"]["receipts"][SCORES[0]] for record in records]
    distance = statistics.mean(values[SCORES[0]] for values in last)
    return {"text": text, "receipts": receipts, "distance": distance, "record": records[0]}


def spread(values: list[float], digits: int = 3) -> str:
    """Format the mean and the standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    if digits == 1:
        return f"{statistics.mean(values):.1f} ± {deviation:.1f}"
    return f"{statistics.mean(values):.3g} ± {deviation:.2g}"


def require_one_protocol(receipts: list[dict[str, Any]]) -> None:
    """Refuse to rank scores of different protocols."""
    for receipt in receipts[1:]:
        if (reason := differ(receipts[0], receipt)) is not None:
            raise SystemExit(f"The scores cannot be ranked: {reason}.")


def page(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> str:
    """Return the page with the table, the best recipe first."""
    ranked = sorted(rows, key=lambda r: float(r["distance"]))
    record, receipt = rows[0]["record"], rows[0]["receipts"][0]
    names, sizes = ", ".join(RECIPES), receipt["real_images"]
    lines = [
        "# Leaderboard",
        "",
        f"Recipes on MNIST, {arguments.seconds:g} seconds of CPU time on one thread each, batch {BATCH_SIZE}, "
        f"{arguments.seeds} seeds: mean ± standard deviation. Made by `python benchmarks/leaderboard.py`, which first "
        "measures the time of a step of each recipe.",
        "",
        "| recipe | steps | `fid_digits` (lower is better) | coverage | density | classes covered, of 10 |",
        "|---|---|---|---|---|---|",
        *(r["text"] for r in ranked),
        "",
        f"Protocol: {in_words(receipt)}; coverage and density with 10,000 images on both sides and k = 5. Real images "
        f"({sizes['num_generated']:,} against {sizes['num_real']:,} others) have `fid_digits` {receipt['real']:.3g}. "
        f"A class is covered if the classifier of `features=digits` finds it in at least {MIN_SHARE:.0%} of 2,000 "
        f"samples. gantrain {record['versions']['gantrain']}, torch {record['versions']['torch']}, "
        f"{record['device']}.",
        "",
        f"{arguments.seconds:g} seconds of one core are short: the ranking says which recipe learns fastest, not "
        "which is best in the end.",
        "",
        "![Samples of each recipe](pictures/leaderboard.png)",
        "",
        f"*A row for each recipe, seed 0, in this order: {names}.*",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
