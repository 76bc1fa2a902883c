"""Compare objectives on stacked MNIST with the same small networks, for equal CPU time, and write a table.

    python benchmarks/stacked_mnist.py --root data --table stacked_mnist.md
    python benchmarks/stacked_mnist.py --root data --seconds 20 --seeds 1 --table stacked_mnist.md

The data set has 1,000 modes. Every objective gets the steps that take `--seconds` of CPU time on one thread. Runs that
exist in `--folder` already are not repeated.

Source: Lin 2018 (PacGAN), section 4.2: 26,000 samples, a classifier of digits, modes and KL divergence.
"""

import argparse
from pathlib import Path

from equal_time import record, spread, train_seeds

NETWORKS = (
    *("network=dcgan", "model.generator.width=16", "model.discriminator.width=16", "model.discriminator.norm=none"),
    *("latent=normal", "latent.z_dim=100", "batch_size=64"),
)
ADAM = ("optimizer=adam", "optimizer.lr=1e-3", "optimizer.betas=[0.0,0.99]")
OBJECTIVES = {
    "non-saturating (vanilla)": ("loss=nonsaturating", "n_critic=1", *ADAM),
    "WGAN-GP": ("loss=wasserstein", "regularizer=[gradient_penalty]", "n_critic=5", *ADAM),
    "relativistic, R1 and R2": (
        *("loss=relativistic", "regularizer=[r1,r2]", "regularizer.r1.gamma=1", "regularizer.r2.gamma=1"),
        *("n_critic=1", *ADAM),
    ),
}
SCORES = {"metric/modes": 0, "metric/modes_5_hits": 0, "metric/kl_uniform": 2}
END = ("metric=[stacked_modes]", "callback=[evaluate,log,csv,checkpoint,samples]", "sample_every=100000")


def main() -> None:
    """Train with each objective, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data", help="folder with MNIST")
    parser.add_argument("--folder", type=Path, default=Path("outputs/stacked_mnist"), help="folder of the runs")
    parser.add_argument("--table", type=Path, required=True, help="Markdown file to write")
    parser.add_argument("--seconds", type=float, default=300, help="CPU time of each run")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    data = ("dataset=stacked_mnist", f"dataset.root={arguments.root}", f"statistics_dir={arguments.folder}/statistics")
    lines = ["| objective | steps | modes, of 1,000 | modes with 5 samples or more | KL |", "|---|---|---|---|---|"]
    for name, typed in OBJECTIVES.items():
        stem = arguments.folder / name.partition(" ")[0].strip(",").lower()
        runs = train_seeds((*NETWORKS, *typed, *data), END, stem, seeds=arguments.seeds, seconds=arguments.seconds)
        records = [record(run) for run in runs]
        cells = [spread([found["metrics"]["last"][tag] for found in records], digits) for tag, digits in SCORES.items()]
        lines.append(f"| {name} | {records[0]['steps']:,} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    arguments.table.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
