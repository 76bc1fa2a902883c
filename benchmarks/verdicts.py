"""Train healthy runs, in which no verdict may find anything, and provoked failures, and print two tables in Markdown.

    python benchmarks/verdicts.py                         # both tables
    python benchmarks/verdicts.py healthy --out runs      # one of them; keeps the runs, to look at their samples
    python benchmarks/verdicts.py healthy wgan lsgan      # some of its runs

The healthy runs call the verdicts twice as often as by default, and evaluate a metric where that takes little time.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Failure:
    """A run in which a verdict finds its failure.

    Attributes:
        verdict: the verdict.
        why: how the failure is provoked.
        steps: within which it is found.
        overrides: of the config.
    """

    verdict: str
    why: str
    steps: int
    overrides: str


POINTS = "dataset=gaussians_8 network=mlp_toy model.generator.width=64 model.discriminator.width=64 batch_size=64"
FEW_IMAGES = (
    "model=vanilla dataset.image_size=8 loss=relativistic regularizer=[r1] "
    "regularizer.r1.gamma=0.1 model.generator.width=128 model.discriminator.width=128 model.discriminator.dropout=0 "
    "optimizer.lr=1e-3 optimizer.betas=[0,0.99] batch_size=16"
)
GREEDY = f"{POINTS} optimizer.lr=2e-3 discriminator_optimizer.lr=2e-4"
PROVOKED = (
    Failure(
        "collapse",
        "G learns ten times as fast as D, on eight Gaussians",
        200,
        f"{GREEDY} verdict.collapse.after=100 verdict.collapse.after_slow_start=100",
    ),
    Failure(
        "discriminator_wins",
        "minimax loss, and D learns 200 times as fast as G",
        200,
        "model=vanilla loss=minimax optimizer.lr=1e-5 discriminator_optimizer.lr=2e-3 batch_size=32 "
        "model.generator.width=32 model.discriminator.width=32",
    ),
    Failure("discriminator_overfits", "ten training images", 500, f"{FEW_IMAGES} dataset.holdout=0.999"),
    Failure(
        "generator_stalls",
        "the learning rate of G is 1e-8",
        150,
        "dataset=gaussian network=mlp_gaussian optimizer.lr=1e-8 discriminator_optimizer.lr=1e-3",
    ),
    Failure(
        "metric_worsens",
        "as for collapse, with metric=[moments]",
        250,
        f"{GREEDY} metric=[moments] metric.moments.num_samples=1000 evaluate_every=20",
    ),
    Failure(
        "clipping",
        "weight_clip.limit is 0.0005",
        150,
        "model=wgan regularizer.weight_clip.limit=0.0005 optimizer.lr=5e-4 critic_warmup=null batch_size=8 "
        "model.generator.width=2 model.discriminator.width=4",
    ),
    Failure("memorization", "five training images", 1000, f"{FEW_IMAGES} dataset.holdout=0.9995"),
)
EVERY = 50
"""Interval of the verdicts in the provoked runs, in steps."""

FID = "metric=[fid] metric.fid.num_samples=1000 evaluate_every=500"
HELD_OUT = "dataset.holdout=0.05"
SWD = "metric=[sliced_wasserstein] metric.sliced_wasserstein.num_samples=1000 evaluate_every=300"
SMALL = f"batch_size=16 {HELD_OUT} {SWD}"
HEALTHY = {
    "dcgan": f"model=dcgan seed=0 {HELD_OUT} {FID}",
    "wgan_gp": f"model=wgan_gp seed=1 {HELD_OUT} {FID} steps=1250",
    "wgan": f"model=wgan seed=2 {HELD_OUT} {FID} steps=1500",
    "lsgan": f"model=lsgan seed=3 {HELD_OUT} {FID} steps=2000",
    "vanilla": f"model=vanilla seed=4 {HELD_OUT} {FID} steps=5000",
    "gaussian": "experiment=gaussian seed=5",
    "gaussians_8": "experiment=toy seed=6 model.generator.width=128 model.discriminator.width=128 steps=2000 "
    "metric=[modes,moments] evaluate_every=250",
    "relativistic": "model=dcgan loss=relativistic regularizer=[r1,r2] model.discriminator.norm=none "
    f"seed=7 {HELD_OUT} {FID} steps=1500",
    "cgan_mnist on digits": f"experiment=cgan_mnist dataset=digits seed=8 {HELD_OUT} {FID} steps=2000",
    "fashion_mnist": f"model=dcgan dataset=fashion_mnist seed=9 {SMALL} steps=1500",
    "celeba at 32 px": f"model=dcgan dataset=celeba dataset.image_size=32 seed=10 batch_size=16 {SWD} steps=1500",
    "cifar10": f"model=dcgan dataset=cifar10 seed=11 {SMALL} steps=1500",
}
NEEDS_DATA = ("fashion_mnist", "celeba at 32 px", "cifar10")


def main() -> None:
    """Run what the arguments select, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", nargs="?", choices=("healthy", "provoked", "both"), default="both")
    parser.add_argument("names", nargs="*", help="some of the runs; without names all of them")
    parser.add_argument("--data", default="data", help="folder of the data sets that are not included")
    parser.add_argument("--out", type=Path, help="folder for the runs; without one they are deleted")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.out or Path(temporary)
        if arguments.which in ("healthy", "both"):
            healthy(folder, arguments)
        if arguments.which in ("provoked", "both"):
            provoked(folder, arguments)


def healthy(folder: Path, arguments: argparse.Namespace) -> None:
    """Train the healthy runs, and print their table."""
    print("| run | overrides | steps | findings | seconds |\n|---|---|---|---|---|", flush=True)
    for name, overrides in HEALTHY.items():
        if arguments.names and name not in arguments.names:
            continue
        data = [f"dataset.root={arguments.data}"] if name in NEEDS_DATA else []
        more = ["callback.verdicts.every=250", f"runtime.threads={arguments.threads}", *data]
        record, seconds = train(folder / name.replace(" ", "_"), overrides, more)
        found = [f"{f['verdict']} at step {f['step']}" for f in record["verdicts"]]
        print(
            f"| {name} | `{overrides}` | {record['steps']:,} | {', '.join(found) or 'none'} | {seconds:.0f} |",
            flush=True,
        )


def provoked(folder: Path, arguments: argparse.Namespace) -> None:
    """Train the provoked failures, and print their table."""
    print("\n| verdict | provoked by | found at step | within | others found |\n|---|---|---|---|---|", flush=True)
    for failure in PROVOKED:
        if arguments.names and failure.verdict not in arguments.names:
            continue
        record, _ = train(folder / f"provoked_{failure.verdict}", *command(failure, threads=arguments.threads))
        steps = [f["step"] for f in record["verdicts"] if f["verdict"] == failure.verdict]
        others = [f["verdict"] for f in record["verdicts"] if f["verdict"] != failure.verdict]
        cells = (
            *(failure.verdict, failure.why, str(steps[0]) if steps else "never", str(failure.steps)),
            ", ".join(dict.fromkeys(others)) or "none",
        )
        print(f"| {' | '.join(cells)} |", flush=True)


def command(failure: Failure, *, threads: int = 1) -> tuple[str, list[str]]:
    """Return the overrides of a provoked failure, in two parts."""
    often = ["callback=[evaluate,log,verdicts]", "log_every=10", f"callback.verdicts.every={EVERY}"]
    return failure.overrides, [*often, f"steps={failure.steps}", f"runtime.threads={threads}"]


def train(folder: Path, overrides: str, more: list[str]) -> tuple[dict[str, Any], float]:
    """Run gantrain; return run.json and the seconds that it took."""
    started = time.monotonic()
    arguments = [*overrides.split(), *more, f"run_dir={folder}", "statistics_dir=null"]
    done = subprocess.run([sys.executable, "-m", "gantrain", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads((folder / "run.json").read_text()), time.monotonic() - started


if __name__ == "__main__":
    main()
