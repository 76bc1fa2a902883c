"""Measure a training step of every recipe, loss, regularizer and augmentation against DCGAN; print tables in Markdown.

    python benchmarks/method_cost.py --root data               # on CIFAR-10, 32 px
    python benchmarks/method_cost.py --root data --only sagan r1

A recipe has the networks of its config; a loss, regularizer or augmentation is added to DCGAN. In each round DCGAN's
step is measured anew before every third method, and each method is compared with the last one. The table has the
medians of the times and of the ratios over the rounds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

DCGAN = ("model=dcgan",)
RECIPES = {
    "vanilla": ("model=vanilla",),
    "lsgan": ("model=lsgan",),
    "wgan": ("model=wgan",),
    "wgan_gp": ("model=wgan_gp",),
    "cdcgan": ("network=cdcgan", *DCGAN),
    "acgan": ("network=acgan", *DCGAN, "regularizer=[auxiliary_classifier]"),
    "sngan": ("model=sngan",),
    "sngan_cnn": ("model=sngan", "network=sngan_cnn"),
    "wgan_gp_resnet": ("model=wgan_gp_resnet",),
    "wgan_gp_resnet_acgan": (
        "model=wgan_gp_resnet",
        "network=wgan_gp_resnet_acgan",
        "regularizer=[gradient_penalty,auxiliary_classifier]",
    ),
    "cgan_pd": ("model=cgan_pd",),
    "sagan": ("model=sagan",),
    "biggan": ("model=biggan",),
    "stylegan2": ("model=stylegan2",),
    "stylegan2 without path_length": ("model=stylegan2", "regularizer=[r1]"),
    "stylegan2_cond": ("model=stylegan2", "network=stylegan2_cond"),
    "stylegan2_ada": ("model=stylegan2_ada",),
    "r3gan": ("model=r3gan",),
    "r3gan_cond": ("model=r3gan", "network=r3gan_cond"),
    "lightweight": ("model=lightweight",),
    "lightweight without reconstruction": ("model=lightweight", "regularizer=[r1,r2]"),
}
NO_NORM = "model.discriminator.norm=none"  # penalties on the gradient at each image need it
PARTS = {
    "minimax": ("loss=minimax",),
    "lsgan loss": ("loss=lsgan",),
    "hinge": ("loss=hinge",),
    "wasserstein": ("loss=wasserstein",),
    "relativistic": ("loss=relativistic",),
    "ralsgan": ("loss=ralsgan",),
    "no BatchNorm in D": (NO_NORM,),
    "spectral norm in D": ("model.discriminator.norm=spectral",),
    "weight_clip": ("regularizer=[weight_clip]",),
    "gradient_penalty": ("regularizer=[gradient_penalty]", NO_NORM),
    "r1": ("regularizer=[r1]", NO_NORM),
    "r1 every 16": ("regularizer=[r1]", "regularizer.r1.every=16", NO_NORM),
    "r1 and r2": ("regularizer=[r1,r2]", NO_NORM),
    "dragan": ("regularizer=[dragan]", NO_NORM),
    "lecam": ("regularizer=[lecam]",),
    "cr": ("regularizer=[cr]",),
    "bcr": ("regularizer=[bcr]",),
    "diffaugment": ("augment=[diffaugment]",),
    "ada": ("augment=[ada]",),
    "packing=2": ("packing=2",),
    "EMA of G": ("ema_halflife_images=1000",),
}

BETWEEN = 3
"""Methods between two measurements of DCGAN."""


def main() -> None:
    """Measure, and print a table of the recipes and one of the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data", help="folder with CIFAR-10")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=24, help="steps of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[*RECIPES, *PARTS], choices=[*RECIPES, *PARTS], metavar="method")
    arguments = parser.parse_args()
    data = ("dataset=cifar10", f"dataset.root={arguments.root}", "dataset.download=false")
    common = (*data, f"batch_size={arguments.batch}", "accumulate=1", f"steps={arguments.steps}")
    for kind, methods in (("recipe", RECIPES), ("DCGAN with", {name: DCGAN + part for name, part in PARTS.items()})):
        chosen = {name: typed for name, typed in methods.items() if name in arguments.only}
        if not chosen:
            continue
        turns: dict[str, list[tuple[float, float]]] = {name: [] for name in chosen}
        for _ in range(arguments.rounds):
            for i, (name, typed) in enumerate(chosen.items()):
                base = milliseconds(*DCGAN, *common) if i % BETWEEN == 0 else base
                turns[name].append((base, milliseconds(*typed, *common)))
        print(f"| {kind} | ms per step | relative to DCGAN |\n|---|---|---|")
        for name, found in turns.items():
            ratio = statistics.median(own / base for base, own in found)
            print(f"| {name} | {statistics.median(own for _, own in found):,.0f} | {ratio:.2f} |", flush=True)


def milliseconds(*typed: str) -> float:
    """Return the time of a step on one thread, in milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "figures.json"
        quiet = ("runtime.threads=1", "callback=[]", "verdict=[]", "metric=[]", f"output={output}")
        done = subprocess.run(
            [sys.executable, "-m", "gantrain", "task=benchmark", *typed, *quiet],
            check=False,
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        if done.returncode:
            raise SystemExit(f"gantrain {' '.join(typed)} ended with status {done.returncode}:\n{done.stderr}")
        return 1e3 * float(json.loads(output.read_text())["seconds_per_step"])


if __name__ == "__main__":
    main()
