"""Train each recipe for 500 steps on a small folder of pictures at reduced width, and put its samples side by side.

    python benchmarks/stability.py --faces FOLDER --picture docs/pictures/stability.png

Prints, for each recipe, the findings of the verdicts, p of the adaptive augmentation, and the time. Runs that exist in
`--folder` already are not repeated. The picture has two rows of samples of each recipe, after two rows of real images.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import torch
from equal_time import gantrain, is_finished, record

from gantrain.datasets.batches import to_signed
from gantrain.datasets.image_folder import image_folder
from gantrain.evaluation.grids import grid, save_png

COLUMNS = 16
NARROW = ("model.generator.width=32", "model.discriminator.width=32", "batch_size=16")
RECIPES = {
    "dcgan": ("model=dcgan", *NARROW),
    "wgan_gp": ("model=wgan_gp", *NARROW),
    "sngan": ("model=sngan", "model.generator.width=64", "model.discriminator.width=32", "batch_size=16"),
    "wgan_gp_resnet": ("model=wgan_gp_resnet", *NARROW),
    "stylegan2_ada": ("experiment=stylegan2_ada_folder", *NARROW),
    "lightweight": ("experiment=lightweight_folder", *NARROW, "accumulate=1"),
    "r3gan": ("experiment=r3gan_folder", "model.generator.width=64", "model.discriminator.width=64", "batch_size=16"),
}


def main() -> None:
    """Train all recipes, and draw their samples."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", required=True, help="folder of pictures")
    parser.add_argument("--folder", type=Path, default=Path("outputs/stability"), help="folder of the runs")
    parser.add_argument("--picture", type=Path, required=True, help="PNG file to write")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--only", nargs="*", default=list(RECIPES), choices=list(RECIPES))
    arguments = parser.parse_args()
    cache = arguments.folder / "cache"
    data = (
        "dataset=image_folder",
        f"dataset.root={arguments.faces}",
        "dataset.image_size=64",
        f"dataset.cache_dir={cache}",
    )
    options = {"labels": "auto", "image_size": 64, "channels": 3, "cache_dir": str(cache), "max_bad_fraction": 0.0}
    pictures = [to_signed(image_folder(root=arguments.faces, **options).gather(torch.arange(2 * COLUMNS)))]
    for name in arguments.only:
        run = arguments.folder / name
        if not is_finished(run):
            end = ("runtime.threads=1", "log_every=25", f"steps={arguments.steps}", "epochs=null", f"run_dir={run}")
            gantrain(*RECIPES[name], *data, *end)
        print(describe(name, run), flush=True)
        pictures.append(samples(run))
    save_png(arguments.picture, grid(torch.cat(pictures).clamp(-1, 1), columns=COLUMNS))


def describe(name: str, run: Path) -> str:
    """Return a line with the findings of the verdicts, the course of p, and the time of a step."""
    found = record(run)
    with (run / "metrics.csv").open() as file:
        strengths = [float(row["augment/ada/p"]) for row in csv.DictReader(file) if row.get("augment/ada/p")]
    p = f", p {strengths[0]:.3f} to {strengths[-1]:.3f}" if strengths else ""
    findings = ", ".join(finding["verdict"] for finding in found["verdicts"]) or "none"
    return f"{name}: findings: {findings}{p}; {found['wall_seconds'] / found['steps']:.2f} s a step"


def samples(run: Path) -> torch.Tensor:
    """Return two rows of samples of a run, in [-1, 1]."""
    path = run / "samples.npz"
    if not path.exists():
        gantrain("task=sample", f"run={run}", f"num={2 * COLUMNS}", f"output={path}", "seed=1")
    with np.load(path) as archive:
        return to_signed(torch.from_numpy(archive["images"]).permute(0, 3, 1, 2))


if __name__ == "__main__":
    main()
