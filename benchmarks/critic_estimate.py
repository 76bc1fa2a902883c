"""Compare a Wasserstein critic's estimate with the exact distance, while it trains on vectors.

python benchmarks/critic_estimate.py docs/pictures/critic_estimate.png

It prints, for WGAN and WGAN-GP on two data sets, Spearman's rank correlation of the estimate with the exact distance
over the training: of all values, and of those that gantrain calls reliable. The plot shows both against the step.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib
from scipy.stats import spearmanr

matplotlib.use("agg")
from matplotlib import pyplot as plt

CASES = [(model, dataset) for dataset in ("gaussian", "gaussians_8") for model in ("wgan", "wgan_gp")]
WIDTH = ("model.generator.width=128", "model.discriminator.width=128")

Row = dict[str, float]


def main() -> None:
    """Train all cases, print the table, and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="PNG file for the plot")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--every", type=int, default=50, help="interval of the estimates in steps")
    arguments = parser.parse_args()
    print("| model | dataset | reliable estimates | rank correlation, all | rank correlation, reliable |\n|-|-|-|-|-|")
    runs = []
    for model, dataset in CASES:
        rows = train(model, dataset, arguments.steps, arguments.every)
        runs.append((f"{model}, {dataset}", rows))
        reliable = [row for row in rows if row["wasserstein/reliable"]]
        cells = [f"{len(reliable)} of {len(rows)}", correlation(rows), correlation(reliable)]
        print(f"| {model} | {dataset} | {' | '.join(cells)} |", flush=True)
    draw(arguments.output, runs)


def train(model: str, dataset: str, steps: int, every: int) -> list[Row]:
    """Train a model on a data set, and return the rows of its metrics that have an estimate."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "gantrain", f"model={model}", f"dataset={dataset}", f"steps={steps}"]
        command += ["callback=[wasserstein,log,csv]", f"callback.wasserstein.every={every}", "runtime.threads=1"]
        command += [*(WIDTH if dataset != "gaussian" else ()), f"run_dir={folder}/run"]
        subprocess.run(command, check=True, capture_output=True)
        with (Path(folder) / "run/metrics.csv").open() as file:
            rows = [{tag: float(value) for tag, value in row.items() if value} for row in csv.DictReader(file)]
    return [row for row in rows if "wasserstein/train" in row]


def correlation(rows: list[Row]) -> str:
    """Return Spearman's rank correlation of the normalized estimate with the exact distance."""
    if len(rows) < 3:
        return "too few"
    estimates, exact = ([row[f"wasserstein/{tag}"] for row in rows] for tag in ("normalized", "exact"))
    return f"{spearmanr(estimates, exact).statistic:.2f}"


def draw(path: Path, runs: list[tuple[str, list[Row]]]) -> None:
    """Draw the estimate and the exact distance against the step, with a panel for each run."""
    figure, panels = plt.subplots(2, 2, figsize=(11, 7), constrained_layout=True)
    for axes, (title, rows) in zip(panels.flat, runs, strict=True):
        steps = [row["step"] for row in rows]
        axes.plot(steps, [row["wasserstein/exact"] for row in rows], color="black", label="exact distance")
        axes.plot(steps, [row["wasserstein/normalized"] for row in rows], color="C0", alpha=0.4)
        for is_reliable, style in ((1, "o"), (0, "x")):
            points = [row for row in rows if row["wasserstein/reliable"] == is_reliable]
            label = "estimate / observed Lipschitz bound" if is_reliable else "the same, not reliable"
            color = "C0" if is_reliable else "C3"
            x, y = [row["step"] for row in points], [row["wasserstein/normalized"] for row in points]
            axes.plot(x, y, style, color=color, label=label, markersize=5)
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    panels[0, 0].legend()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
