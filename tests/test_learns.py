"""Trained models reach a quality that is measured independently of the training."""

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import Process, server, start, work
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gantrain.datasets.batches import to_signed
from gantrain.datasets.digits import digits

__all__ = ["server", "start", "work"]

pytestmark = pytest.mark.slow

Run = Callable[..., None]

FULL = os.environ.get("GANTRAIN_FULL") == "1"


@pytest.fixture
def run(start: Callable[..., Process]) -> Run:
    """Run the command until it ends."""

    def wait(*arguments: str) -> None:
        done = start(*arguments).wait(timeout=600)
        assert done.status == 0, done.stderr

    return wait


def last_row(run: Path) -> dict[str, float]:
    with (run / "metrics.csv").open() as file:
        *_, last = csv.DictReader(file)
    return {tag: float(value) for tag, value in last.items() if value}


def test_gaussian_reaches_mean_and_std(run: Run, work: Path) -> None:
    run("experiment=gaussian", "steps=2000", "run_dir=run")
    run("task=sample", "run=run", "num=20000", "output=samples.npz", "seed=1")
    with np.load(work / "samples.npz") as archive:
        samples = archive["samples"].astype(np.float64)
    assert abs(samples.mean() - 3) <= 0.15
    assert abs(samples.std() - 1) <= 0.15
    assert last_row(work / "run")["metric/mean"] == pytest.approx(samples.mean(), abs=0.05)


def test_wgan_gp_reaches_all_eight_modes(run: Run, work: Path) -> None:
    narrow = ("model.generator.width=128", "model.discriminator.width=128")
    run("experiment=toy", "dataset=gaussians_8", *narrow, "steps=1250", "run_dir=run")
    run("task=sample", "run=run", "num=8000", "output=samples.npz", "seed=1")
    with np.load(work / "samples.npz") as archive:
        samples = archive["samples"].astype(np.float64)
    angles = np.arange(8) * np.pi / 4
    centers = 2 / 1.414 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    distances = np.linalg.norm(samples[:, None] - centers, axis=2)
    near = distances.min(axis=1) < 0.2
    assert near.mean() > 0.5
    counts = np.bincount(distances.argmin(axis=1)[near], minlength=8)
    assert counts.min() > 0.04 * len(samples)
    assert counts.max() < 0.30 * len(samples)


def images(samples: Path) -> Tensor:
    with np.load(samples) as archive:
        return to_signed(torch.from_numpy(archive["images"]).permute(0, 3, 1, 2))


@pytest.fixture(scope="module")
def classifier() -> nn.Module:
    """Train a small convolutional classifier on labelled digits, and check its accuracy on held-out ones."""
    torch.manual_seed(0)
    data = digits(image_size=None)
    x, y = to_signed(data.images), data.labels
    assert y is not None
    net = nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(4):
        for i in torch.randperm(9_000).split(100):
            loss = cross_entropy(net(x[i]), y[i])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    accuracy = (net(x[9_000:]).argmax(1) == y[9_000:]).float().mean()
    assert accuracy > 0.95
    return net.requires_grad_(False)


def test_the_default_run_makes_the_digits_of_its_labels(run: Run, work: Path, classifier: nn.Module) -> None:
    """It does so in less than a tenth of its steps; in that time DCGAN reaches none of this."""
    run("steps=150", "run_dir=run")
    record = json.loads((work / "run/run.json").read_text())
    assert record["name"] == "digits"
    assert record["metrics"]["best"]["metric/fid_digits"]["value"] < 20  # noise: 401, black images: 228
    run("task=sample", "run=run", "num=1000", "labels=all", "output=samples.npz", "seed=1")
    sure, predicted = classifier(images(work / "samples.npz")).softmax(1).max(1)
    right = (predicted == torch.arange(10).repeat_interleave(100)).double().view(10, 100).mean(1)
    assert right.mean() >= 0.8, right
    assert right.min() >= 0.4, right
    assert (sure > 0.9).float().mean() > 0.6


def test_dcgan_makes_all_ten_digits(run: Run, work: Path, classifier: nn.Module) -> None:
    """It does so after less than a quarter of its steps."""
    run("model=dcgan", "steps=800", "run_dir=run")
    record = json.loads((work / "run/run.json").read_text())
    assert record["name"] == "dcgan-digits"
    assert record["metrics"]["best"]["metric/fid_digits"]["value"] < 100  # noise: 401, black images: 228
    run("task=sample", "run=run", "num=2000", "output=samples.npz", "seed=1")
    chances: Tensor = classifier(images(work / "samples.npz")).softmax(1)
    noise_chances: Tensor = classifier(torch.rand(2000, 1, 28, 28) * 2 - 1).softmax(1)
    sure, kind = chances.max(1)
    counts = torch.bincount(kind[sure > 0.5], minlength=10)
    assert counts.min() >= 10, counts
    assert (sure > 0.9).float().mean() > 0.3
    # The classifier does not find all ten digits in noise.
    noise_sure, noise_kind = noise_chances.max(1)
    assert torch.bincount(noise_kind[noise_sure > 0.5], minlength=10).min() < 10
    assert (noise_sure > 0.9).float().mean() < 0.2


def test_relativistic_pairs_with_r1_and_r2_find_25_modes(run: Run, work: Path) -> None:
    """With GANTRAIN_FULL=1, 7,500 steps must find nearly all modes; otherwise, 3,000 steps most of them."""
    steps, modes, share = (7500, 24, 0.5) if FULL else (3000, 20, 0.15)
    small = ("model.generator.width=128", "model.discriminator.width=128", "n_critic=1", "runtime.threads=1")
    objective = ("loss=relativistic", "regularizer=[r1,r2]", "regularizer.r1.gamma=0.1", "regularizer.r2.gamma=0.1")
    data = ("experiment=toy", "dataset=gaussians_25", "metric=[modes]", "callback=[evaluate,log,csv]")
    run(*data, *objective, *small, "optimizer.lr=1e-3", f"steps={steps}", "run_dir=run")
    reached = last_row(work / "run")
    assert reached["metric/modes_covered"] >= modes
    assert reached["metric/high_quality"] >= share


def test_conditional_gan_makes_the_digits_of_its_labels(run: Run, work: Path, classifier: nn.Module) -> None:
    """With GANTRAIN_FULL=1, after 1,250 steps; otherwise, after 250 steps, far more often than by chance."""
    steps, share = (1250, 0.85) if FULL else (250, 0.3)
    options = ("experiment=cgan_mnist", "dataset=digits", "metric=[]", "callback=[log,checkpoint]", "run_dir=run")
    run(*options, f"steps={steps}")
    run("task=sample", "run=run", "num=1000", "labels=all", "output=samples.npz", "seed=1")
    predicted = classifier(images(work / "samples.npz")).argmax(1)
    labels = torch.arange(10).repeat_interleave(100)
    assert (predicted == labels).float().mean() >= share
