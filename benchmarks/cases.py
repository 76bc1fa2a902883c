"""What is measured: configs of gantrain, and networks and data made from them for every program alike."""

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

from gantrain.build import build_latent, build_loss, build_state
from gantrain.config import CONF, register
from gantrain.datasets.digits import digits
from gantrain.models.latent import Latent
from gantrain.train import TrainState


@dataclass(frozen=True)
class Case:
    """A config, and the shape of its data.

    Attributes:
        source: where the naive loop takes its images from: "files", "arrays" or, for vectors, "numbers".
        num_images: of the real data set, which is how seldom a data loader begins anew.
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
"""Of arrays that are resized on their way."""

NUM_FILES = 512
WARMUP_STEPS = 2


def composed(case: Case, *overrides: str) -> dict[str, Any]:
    """The case's config, as the command would compose it."""
    register(fixed_run_dir=False)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF.absolute()), version_base="1.3"):
        config = compose("train", [*case.overrides, *overrides, "run_dir=unused"])
        made: Any = OmegaConf.to_container(config, resolve=True)
    return made


def networks(case: Case, config: dict[str, Any], device: torch.device) -> tuple[TrainState, Latent, Any]:
    """Networks, optimizers, the distribution of z and the loss of the case."""
    latent = build_latent(config)
    return build_state(config, case.image_shape, latent, device), latent, build_loss(config)


def penalty_weight(config: dict[str, Any]) -> float:
    """Of the gradient penalty; 0 where there is none."""
    node = config["regularizer"].get("gradient_penalty")
    return float(node["weight"]) if node else 0.0


def make_files(folder: Path) -> None:
    """Write JPEGs of the size of CelebA's, smooth as photographs are."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = np.random.default_rng(0)
    for i in range(NUM_FILES):
        small = numbers.integers(0, 256, (12, 10, 3), dtype=np.uint8)
        Image.fromarray(small).resize((178, 218), Image.Resampling.BICUBIC).save(folder / f"{i:06d}.jpg", quality=95)


def make_arrays(name: str, case: Case) -> np.ndarray:
    """Images [n, h, w] or [n, h, w, 3], uint8, at their native size."""
    if case.image_shape == (1, 28, 28):
        return digits(image_size=None).images[:, 0].numpy()
    c, h, w = NATIVE_SIZE.get(name, case.image_shape)
    return np.random.default_rng(0).integers(0, 256, (4096, h, w, c), dtype=np.uint8)


class Turns:
    """Steps to make, as many as standard input asks for at a time; each time what a step took goes to standard output.

    So programs can be measured in turn without being started anew.
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
        """The time when all that was asked of the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()
