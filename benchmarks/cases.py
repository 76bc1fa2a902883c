"""Define the benchmark cases: configs of gantrain, and the networks and data that every program uses."""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from PIL import Image

from gantrain.assemble import build_dataset, build_latent, build_objective, build_state
from gantrain.command.folders import register
from gantrain.config import CONF, Config
from gantrain.datasets.base import ImageDataset
from gantrain.datasets.digits import digits
from gantrain.game import Objective
from gantrain.models.latent import Latent
from gantrain.train import TrainState


@dataclass(frozen=True)
class Case:
    """A config and its data.

    Attributes:
        image_shape: shape of a sample, (c, h, w) or (d,).
        source: what the naive loop reads: "files", "arrays", or "numbers" for vectors.
        num_images: size of the dataset; a data loader restarts its workers after each epoch.
    """

    overrides: tuple[str, ...]
    image_shape: tuple[int, ...]
    source: str
    num_images: int


CASES = {
    "wgan_gp_celeba_f64": Case(("experiment=wgan_gp_celeba_f64", "critic_warmup=null"), (3, 64, 64), "files", 202_599),
    "wgan_gp_celeba_f128": Case(
        ("experiment=wgan_gp_celeba_f128", "critic_warmup=null"), (3, 64, 64), "files", 202_599
    ),
    "dcgan_cifar10": Case(("experiment=dcgan_cifar10",), (3, 64, 64), "arrays", 50_000),
    "study_vanilla": Case(("experiment=study_vanilla",), (1, 28, 28), "arrays", 60_000),
    "gaussian": Case(("experiment=gaussian",), (1,), "numbers", 0),
    "default": Case((), (1, 28, 28), "arrays", 10_000),
}
NATIVE_SIZE = {"dcgan_cifar10": (3, 32, 32)}
"""(c, h, w) of the stored images, if they are resized for training."""

NUM_FILES = 512
WARMUP_STEPS = 2


def composed(case: Case, *overrides: str) -> Config:
    """Compose the config of a case as the gantrain command does."""
    register(fixed_run_dir=False)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF.absolute()), version_base="1.3"):
        config = compose("train", [*case.overrides, *overrides, "run_dir=unused"])
        node = OmegaConf.to_container(config, resolve=True)
    made: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), node))
    return made


def networks(case: Case, config: Config, device: torch.device) -> tuple[TrainState, Latent, Objective]:
    """Build the networks and optimizers, the latent distribution, and the objective of a case."""
    latent = build_latent(config.latent)
    if case.source == "numbers":
        dataset = build_dataset(config.dataset)
    else:  # only the shape is used
        image = torch.zeros(1, *case.image_shape, dtype=torch.uint8)
        dataset = ImageDataset("none", image, labels=None, num_classes=None, fingerprint="")
    return build_state(config, dataset, latent, device), latent, build_objective(config)


def penalty_weight(config: Config) -> float:
    """Return the weight of the gradient penalty; 0 if there is none."""
    node = config.regularizer.get("gradient_penalty")
    return float(node["weight"]) if node else 0.0


def make_files(folder: Path) -> None:
    """Write JPEGs of CelebA's size, smooth like photographs so that they compress like them."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = np.random.default_rng(0)
    for i in range(NUM_FILES):
        small = numbers.integers(0, 256, (12, 10, 3), dtype=np.uint8)
        Image.fromarray(small).resize((178, 218), Image.Resampling.BICUBIC).save(folder / f"{i:06d}.jpg", quality=95)


def make_arrays(name: str, case: Case) -> np.ndarray:
    """Return images [n, h, w] or [n, h, w, 3], uint8, at their native size."""
    if case.image_shape == (1, 28, 28):
        return digits(image_size=None).images[:, 0].numpy()
    c, h, w = NATIVE_SIZE.get(name, case.image_shape)
    return np.random.default_rng(0).integers(0, 256, (4096, h, w, c), dtype=np.uint8)


class Turns:
    """Yields once for each step to run; each line of standard input is the number of steps of the next turn.

    At the end of a turn the seconds per step are printed. So compare.py can measure several programs in
    alternation.
    The first steps are a warm-up, which belongs to no turn.
    """

    def __init__(self, device: torch.device):
        self.device = device

    def __iter__(self) -> Iterator[None]:
        yield from [None] * WARMUP_STEPS
        for line in sys.stdin:
            start = self.now()
            yield from [None] * int(line)
            print((self.now() - start) / int(line), flush=True)

    def now(self) -> float:
        """Wait for the device and return the time in seconds."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()
