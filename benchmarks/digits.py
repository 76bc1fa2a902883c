"""Judge the default run with a classifier that is trained here, on MNIST's training images.

    python benchmarks/digits.py --data data

For each seed it runs `gantrain` in a new process, draws 10,000 samples with the class frequencies of the data, and
prints the seconds from Enter to prompt, the CPU seconds, the Frechet distance of 128 features to MNIST's training
images, the mean confidence, and the shares of the classes. The data of the default run (MNIST's test images) and noise
are judged too. The classifier is trained at the first call, in about a minute. Arguments behind `--` are given to every
run.
"""

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from gantrain.datasets.batches import to_signed
from gantrain.datasets.digits import digits
from gantrain.datasets.mnist import read_mnist
from gantrain.metrics.frechet import frechet_distance_of_features

EPOCHS, BATCH_SIZE, LR, MAX_SHIFT = 3, 100, 2e-3, 2
NUM_SAMPLES = 10_000


class Classifier(nn.Module):
    """A classifier with 128 features; its layers are not those of features=digits."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 24, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(24, 48, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(48, 64, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * 7 * 7, 128),
            nn.ReLU(),
        )
        self.head = nn.Linear(128, 10)

    def forward(self, x: Float[Tensor, "n 1 28 28"]) -> tuple[Float[Tensor, "n 10"], Float[Tensor, "n 128"]]:
        """Return logits and features."""
        features = self.body(x)
        return self.head(F.dropout(features, 0.3, self.training)), features


def train(classifier: Classifier, x: Float[Tensor, "n 1 28 28"], y: Int64[Tensor, " n"]) -> None:
    """Train the classifier with cross-entropy on shifted images."""
    steps = EPOCHS * len(x) // BATCH_SIZE
    optimizer = torch.optim.AdamW(classifier.parameters(), LR, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps, pct_start=0.1)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x)).split(BATCH_SIZE):
            shift = torch.randint(-MAX_SHIFT, MAX_SHIFT + 1, (2,)).tolist()  # the background wraps around
            loss = F.cross_entropy(classifier(x[rows].roll(shift, (2, 3)))[0], y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


class Opinion(NamedTuple):
    """What the judge says of images: shares of the classes, mean confidence, and Frechet distance to MNIST."""

    shares: Float[Tensor, "10"]
    confidence: float
    distance: float

    def __str__(self) -> str:
        shares = " ".join(f"{100 * share:.1f}" for share in self.shares.tolist())
        smallest = 100 * self.shares.min().item()
        scores = f"Frechet {self.distance:5.1f}, confidence {self.confidence:.3f}"
        return f"{scores}, smallest class {smallest:.1f} % ({shares})"


class Judge:
    """The classifier, and its features of MNIST's training images.

    Args:
        data: folder with MNIST.
        weights: file of the trained classifier; trained and written if it does not exist.
    """

    def __init__(self, data: Path, weights: Path):
        images, labels = read_mnist(data, download=False)
        x, y = to_signed(torch.from_numpy(images)), torch.from_numpy(labels)
        self.classifier = Classifier()
        if weights.exists():
            self.classifier.load_state_dict(torch.load(weights, weights_only=True))
        else:
            train(self.classifier, x, y)
            torch.save(self.classifier.state_dict(), weights)
        self.classifier.eval().requires_grad_(False)
        self.real_features = self.look(x)[1]

    def look(self, x: Float[Tensor, "n 1 28 28"]) -> tuple[Float[Tensor, "n 10"], Float[Tensor, "n 128"]]:
        """Return probabilities and features of images in [-1, 1]."""
        logits, features = zip(*(self.classifier(block) for block in x.split(1000)), strict=True)
        return torch.cat(logits).softmax(1), torch.cat(features)

    def __call__(self, x: Float[Tensor, "n 1 28 28"]) -> Opinion:
        """Judge images in [-1, 1]."""
        chances, features = self.look(x)
        confidence, classes = chances.max(1)
        shares = torch.bincount(classes, minlength=10) / len(x)
        return Opinion(shares, confidence.mean().item(), frechet_distance_of_features(self.real_features, features))


def gantrain(*typed: str) -> tuple[float, float]:
    """Run the command in a new process; return the seconds from Enter to prompt, and the seconds of CPU time."""
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "gantrain", *typed], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - started, cpu


def samples(run: Path, name: str, *typed: str) -> Float[Tensor, "n 1 28 28"]:
    """Draw samples of a run, in [-1, 1]."""
    path = run / name
    if not path.exists():
        gantrain("task=sample", f"run={run}", f"output={path}", "seed=1", *typed)
    with np.load(path) as archive:
        return to_signed(torch.from_numpy(archive["images"]).permute(0, 3, 1, 2))


def main() -> None:
    """Run the command for each seed, and print what the judge says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder with MNIST")
    parser.add_argument("--folder", type=Path, default=Path("outputs/digits"), help="folder of the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("overrides", nargs="*", help="for every run, for example model=dcgan")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    judge = Judge(arguments.data, arguments.folder / "judge.pt")
    test = to_signed(digits(image_size=None).images)
    print(f"{'test images':<12} {judge(test)}")
    print(f"{'noise':<12} {judge(torch.rand(2000, 1, 28, 28) * 2 - 1)}", flush=True)
    for seed in arguments.seeds:
        run = arguments.folder / f"seed-{seed}"
        wall, cpu = gantrain(*arguments.overrides, f"seed={seed}", f"run_dir={run}")
        opinion = judge(samples(run, "samples.npz", f"num={NUM_SAMPLES}"))
        print(f"seed {seed}: {wall:.0f} s, CPU {cpu:.0f} s, {opinion}", flush=True)


if __name__ == "__main__":
    main()
