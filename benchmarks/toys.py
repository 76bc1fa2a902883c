"""Train on 2-D toys with one factor changed at a time, and write a table and a picture of the samples.

    python benchmarks/toys.py --table toys.md --picture docs/pictures/toys.png
    python benchmarks/toys.py --steps 500 --seeds 1 --only hinge --table toys.md --picture toys.png

First the loss is changed, then the regularizer, with the same networks, optimizer and latents. All methods make the
same number of steps, except those with five updates of D in each step: they make 0.4 times as many. Runs that exist in
`--folder` already are not repeated.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from equal_time import QUIET, gantrain, is_finished, record, spread
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

BASE = (
    *(
        "network=mlp_toy",
        "model.generator.width=128",
        "model.discriminator.width=128",
        "latent=normal",
        "latent.z_dim=2",
    ),
    *("n_critic=1", "batch_size=256", "optimizer=adam", "optimizer.lr=1e-3", "optimizer.betas=[0.5,0.9]"),
)
END = ("metric=[modes,wasserstein]", "metric.wasserstein.num_samples=1000", "callback=[evaluate,log,csv,checkpoint]")
R1 = ("regularizer=[r1]", "regularizer.r1.gamma=0.1")
R1_R2 = ("regularizer=[r1,r2]", "regularizer.r1.gamma=0.1", "regularizer.r2.gamma=0.1")
PENALTY = ("regularizer=[gradient_penalty]", "regularizer.gradient_penalty.weight=0.1")
METHODS = {
    "loss": {
        "nonsaturating": ("loss=nonsaturating",),
        "minimax": ("loss=minimax",),
        "least squares": ("loss=lsgan",),
        "hinge": ("loss=hinge",),
        "relativistic": ("loss=relativistic",),
        "relativistic average LS": ("loss=ralsgan",),
        "Wasserstein, clipped": ("loss=wasserstein", "n_critic=5", "regularizer=[weight_clip]"),
    },
    "regularizer, nonsaturating": {
        "R1": R1,
        "R1 and R2": R1_R2,
        "gradient penalty": PENALTY,
        "DRAGAN": ("regularizer=[dragan]",),
        "LeCam": ("regularizer=[lecam]",),
        "spectral norm": ("model.discriminator.norm=spectral",),
        "spectral norm, 5 updates": ("model.discriminator.norm=spectral", "loss=hinge", "n_critic=5"),
        "packing 2": ("packing=2",),
    },
    "regularizer, relativistic": {
        "relativistic, R1": ("loss=relativistic", *R1),
        "relativistic, R1 and R2": ("loss=relativistic", *R1_R2),
    },
    "regularizer, Wasserstein": {"Wasserstein, gradient penalty": ("loss=wasserstein", "n_critic=5", *PENALTY)},
}
COLUMNS = 9
NUM_MODES = {"gaussians_8": 8, "gaussians_25": 25}


def main() -> None:
    """Train all methods, and write the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("outputs/toys"), help="folder of the runs")
    parser.add_argument("--table", type=Path, required=True, help="Markdown file to write")
    parser.add_argument("--picture", type=Path, required=True, help="PNG file to write")
    parser.add_argument("--steps", type=int, default=5_000, help="of each run: up to a minute on one thread")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="methods; the default is all")
    arguments = parser.parse_args()
    methods = {name: typed for group in METHODS.values() for name, typed in group.items()}
    names = arguments.only or list(methods)
    if unknown := [name for name in names if name not in methods]:
        parser.error(f"{unknown[0]}: must be one of {', '.join(methods)}")
    lines = [
        f"| method | {' | '.join(f'{data}: modes | near a mode | Wasserstein-1' for data in NUM_MODES)} |",
        f"|---|{'---|' * 3 * len(NUM_MODES)}",
    ]
    first_runs = {}
    for name in names:
        cells = []
        for data in NUM_MODES:
            stem = arguments.folder / f"{data}-{name.replace(' ', '_').replace(',', '')}"
            steps = arguments.steps * (2 if "n_critic=5" in methods[name] else 5) // 5
            recipe = (*BASE, *methods[name], f"dataset={data}", *END, f"steps={steps}", f"evaluate_every={steps}")
            runs = [stem.with_name(f"{stem.name}-{seed}") for seed in range(arguments.seeds)]
            for seed, run in enumerate(runs):
                if not is_finished(run):
                    gantrain(*recipe, *QUIET, f"seed={seed}", f"run_dir={run}")
            first_runs[name, data] = runs[0]
            cells += scores(runs)
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    arguments.table.write_text("\n".join(lines) + "\n")
    draw(names, first_runs, arguments.picture)


def scores(runs: list[Path]) -> list[str]:
    """Return the cells of a method on one data set: modes, share of samples near a mode, distance."""
    records = [record(run) for run in runs]
    of = {
        tag: [found["metrics"]["last"][f"metric/{tag}"] for found in records]
        for tag in ("modes_covered", "high_quality", "wasserstein")
    }
    shares = [100 * share for share in of["high_quality"]]
    return [spread(of["modes_covered"], 1), f"{spread(shares, 0)} %", spread(of["wasserstein"], 2)]


def draw(names: list[str], runs: dict[tuple[str, str], Path], path: Path) -> None:
    """Draw 1,000 samples of each method, seed 0, over real points."""
    columns = min(COLUMNS, len(names))
    rows = len(NUM_MODES) * -(-len(names) // columns)
    figure = Figure(figsize=(1.3 * columns, 1.5 * rows), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    for i, data in enumerate(NUM_MODES):
        for j, name in enumerate(names):
            row = len(NUM_MODES) * (j // columns) + i
            axes = figure.add_subplot(rows, columns, row * columns + j % columns + 1)
            x = samples(runs[name, data])
            axes.scatter(*x.T, s=1, color="#d55e00", linewidths=0)
            reach = 3.0 if data == "gaussians_25" else 2.2
            axes.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect="equal")
            if i == 0:
                axes.set_title(name.replace(", ", ",\n"), fontsize=8)
            if j % columns == 0:
                axes.set_ylabel(data, fontsize=8)
    figure.savefig(path)


def samples(run: Path) -> np.ndarray:
    """Return 1,000 samples of a run, [1000, 2]."""
    path = run / "samples.npz"
    if not path.exists():
        gantrain("task=sample", f"run={run}", "num=1000", f"output={path}", "seed=1")
    with np.load(path) as archive:
        return torch.from_numpy(archive["samples"]).double().numpy()


if __name__ == "__main__":
    main()
