"""Train each recipe for 500 steps on 200 pictures at reduced width, and put its samples side by side.

    python benchmarks/stability.py --faces FOLDER --picture docs/pictures/stability.jpg

Prints, for each recipe, the findings of the verdicts, p of the adaptive augmentation, and the time. Runs that exist in
`--folder` already are not repeated. The picture has two rows of samples of each recipe, after two rows of real images.

Conditional recipes get labels: the darker and the lighter half of the pictures. Each of their rows is one class, as is
each row of real images.
"""

import argparse
import csv
import shutil
from pathlib import Path

import numpy as np
import torch
from equal_time import gantrain, is_finished, record
from PIL import Image

from gantrain.datasets.batches import to_signed
from gantrain.datasets.image_folder import image_folder
from gantrain.evaluation.grids import grid

COLUMNS = 8
NARROW = ("model.generator.width=32", "model.discriminator.width=32", "batch_size=16")
SMALL = ("model.generator.width=12", "model.discriminator.width=12", "batch_size=8")  # large networks, or five updates
FEW_HEADS = [
    f"model.{network}.{option}"
    for network in ("generator", "discriminator")
    for option in ("num_heads=2", "head_dim=16")
]
RECIPES = {
    "dcgan": ("model=dcgan", *NARROW),
    "wgan_gp": ("model=wgan_gp", *NARROW[:2], "batch_size=8"),
    "sngan": ("model=sngan", *SMALL),
    "wgan_gp_resnet": ("model=wgan_gp_resnet", *SMALL),
    "cgan_pd": ("model=cgan_pd", *SMALL),
    "sagan": ("model=sagan", *SMALL),
    "biggan": ("model=biggan", *SMALL),
    "stylegan2": ("model=stylegan2", *NARROW, "horizontal_flip=true"),
    "stylegan2_ada": ("experiment=stylegan2_ada_folder", *NARROW),
    "lightweight": ("experiment=lightweight_folder", *NARROW, *FEW_HEADS, "accumulate=1"),
    "r3gan": ("experiment=r3gan_folder", "model.generator.width=64", "model.discriminator.width=64", "batch_size=16"),
}
CONDITIONAL = ("cgan_pd", "sagan", "biggan")


def main() -> None:
    """Train all recipes, and draw their samples."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", required=True, help="folder of pictures")
    parser.add_argument("--folder", type=Path, default=Path("outputs/stability"), help="folder of the runs")
    parser.add_argument("--picture", type=Path, required=True, help="PNG or JPEG file to write")
    parser.add_argument("--num", type=int, default=200, help="number of pictures")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--only", nargs="*", default=list(RECIPES), choices=list(RECIPES))
    arguments = parser.parse_args()
    cache = arguments.folder / "cache"
    root = halves(Path(arguments.faces), arguments.folder / "pictures", arguments.num)
    data = ("dataset=image_folder", f"dataset.root={root}", "dataset.image_size=64", f"dataset.cache_dir={cache}")
    options = {"labels": "folders", "image_size": 64, "channels": 3, "cache_dir": str(cache), "max_bad_fraction": 0.0}
    shown = torch.cat([torch.arange(start, start + COLUMNS) for start in (0, arguments.num // 2)])
    pictures = [to_signed(image_folder(root=str(root), **options).gather(shown))]
    for name in arguments.only:
        run = arguments.folder / name
        if not is_finished(run):
            end = ("runtime.threads=1", "log_every=25", f"steps={arguments.steps}", "epochs=null", f"run_dir={run}")
            labels = f"dataset.labels={'folders' if name in CONDITIONAL else 'none'}"
            gantrain(*RECIPES[name], *data, labels, *end)
        print(describe(name, run), flush=True)
        pictures.append(samples(run, is_conditional=name in CONDITIONAL))
    Image.fromarray(grid(torch.cat(pictures).clamp(-1, 1), columns=COLUMNS)).save(arguments.picture, quality=90)


def halves(faces: Path, folder: Path, num: int) -> Path:
    """Copy the first pictures into two folders by their brightness, and return the folder of both."""
    if not folder.exists():
        paths = sorted(faces.glob("*.jpg"))[:num]
        by_brightness = sorted(paths, key=lambda path: float(np.asarray(Image.open(path).convert("L")).mean()))
        for i, path in enumerate(by_brightness):
            half = folder / ("dark" if i < num // 2 else "light")
            half.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, half)
    return folder


def describe(name: str, run: Path) -> str:
    """Return a line with the findings of the verdicts, the largest p, and the time of a step."""
    found = record(run)
    with (run / "metrics.csv").open() as file:
        strengths = [float(row["augment/ada/p"]) for row in csv.DictReader(file) if row.get("augment/ada/p")]
    p = f", p up to {max(strengths):.4f}" if strengths else ""
    findings = ", ".join(finding["verdict"] for finding in found["verdicts"]) or "none"
    return f"{name}: findings: {findings}{p}; {found['wall_seconds'] / found['steps']:.2f} s a step"


def samples(run: Path, *, is_conditional: bool) -> torch.Tensor:
    """Return two rows of samples of a run, in [-1, 1]; a row for each class if it is conditional."""
    path = run / "samples.npz"
    if not path.exists():
        labels = ["labels=all"] if is_conditional else []
        gantrain("task=sample", f"run={run}", f"num={2 * COLUMNS}", f"output={path}", "seed=1", *labels)
    with np.load(path) as archive:
        return to_signed(torch.from_numpy(archive["images"]).permute(0, 3, 1, 2))


if __name__ == "__main__":
    main()
