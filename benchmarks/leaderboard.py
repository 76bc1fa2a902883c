"""Train recipes on MNIST for equal CPU time, three seeds each, and write a table and a picture of their samples.

python benchmarks/leaderboard.py --root data --table docs/leaderboard.md --picture docs/pictures/leaderboard.png

The time of a step is measured first, so every recipe gets the steps that take
`--seconds` of CPU time on one thread. Runs that exist in `--folder` already are not repeated.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from equal_time import gantrain, record, spread, train_seeds

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
METRICS = ("metric=[fid,density_coverage]", "metric.fid.num_samples=10000", "metric.fid.num_real=null")
METRICS += ("callback=[evaluate,log,csv,checkpoint]",)
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
        runs = train_seeds(
            (*recipe, *data, f"batch_size={BATCH_SIZE}"),
            METRICS,
            arguments.folder / stem,
            seeds=arguments.seeds,
            seconds=arguments.seconds,
        )
        rows.append(row(name, runs))
        pictures.append(samples(runs[0])[:20])
        print(rows[-1]["text"], flush=True)
    require_one_protocol([receipt for r in rows for receipt in r["receipts"]])
    save_png(arguments.picture, grid(torch.cat(pictures), columns=20))
    arguments.table.write_text(page(rows, arguments))


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
    records = [record(run) for run in runs]
    last = [found["metrics"]["last"] for found in records]
    cells = [spread([values[tag] for values in last]) for tag in SCORES]
    cells.append(spread([float(covered_classes(run)) for run in runs], digits=1))
    text = f"| {name} | {records[0]['steps']:,} | {' | '.join(cells)} |"
    receipts = [found["metrics"]["receipts"][SCORES[0]] for found in records]
    distance = statistics.mean(values[SCORES[0]] for values in last)
    return {"text": text, "receipts": receipts, "distance": distance, "record": records[0]}


def require_one_protocol(receipts: list[dict[str, Any]]) -> None:
    """Refuse to rank scores of different protocols."""
    for receipt in receipts[1:]:
        if (reason := differ(receipts[0], receipt)) is not None:
            raise SystemExit(f"The scores cannot be ranked: {reason}.")


def page(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> str:
    """Return the page with the table, the best recipe first."""
    ranked = sorted(rows, key=lambda r: float(r["distance"]))
    first, receipt = rows[0]["record"], rows[0]["receipts"][0]
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
        f"samples. gantrain {first['versions']['gantrain']}, torch {first['versions']['torch']}, "
        f"{first['device']}.",
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
