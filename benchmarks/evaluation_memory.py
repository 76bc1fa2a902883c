"""Measure the peak memory of an evaluation with 50,000 generated and 50,000 real images of 256 pixels.

    python benchmarks/evaluation_memory.py                        # FID and KID, which keeps all features
    python benchmarks/evaluation_memory.py --num 5000 --size 64

The real images are a file of zeros that takes no space on the disk, the generator draws noise, and the extractor has
2,048 features, as many as Inception, but takes less time. The memory of a network of features comes on top.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from gantrain.datasets.mapped import MappedImages
from gantrain.engine.distributed import SINGLE_PROCESS
from gantrain.engine.rates import peak_resident_bytes
from gantrain.evaluation.evaluator import Evaluator, numbered
from gantrain.evaluation.features.base import Extracted
from gantrain.evaluation.sampling import BLOCK_SIZE, sample_blocks
from gantrain.metrics.fid import FID
from gantrain.metrics.kid import KID
from gantrain.models.latent import Normal

CPU = torch.device("cpu")


class Projection:
    """2,048 random projections of the image, averaged to 8x8 pixels, after a sine."""

    name, resizer, precision, sha256 = "projection", "8 px, averages", "float32", None

    def __init__(self) -> None:
        self.versions: dict[str, str] = {}
        self.weights = torch.randn(192, 2048, generator=torch.Generator().manual_seed(0))

    def check(self, image_shape: tuple[int, ...]) -> None:
        """Accept all images."""

    def load(self, device: torch.device) -> None:
        """Do nothing, because there are no weights to load."""

    def __call__(self, images: Tensor) -> Extracted:
        """Return the features."""
        small = adaptive_avg_pool2d(images.float(), 8).flatten(1)
        return Extracted((small @ self.weights / 100).sin())


class Noise(nn.Module):
    """Maps 192 latents to an image: 8x8 pixels, enlarged."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, z: Tensor) -> Tensor:
        """Return images in [-1, 1]."""
        return interpolate(z.view(-1, 3, 8, 8).tanh(), (self.size, self.size))


def main() -> None:
    """Measure, and print a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=50_000, help="images on either side")
    parser.add_argument("--size", type=int, default=256, help="side of an image in pixels")
    arguments = parser.parse_args()
    num, size = arguments.num, arguments.size
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        with path.open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (num, 3, size, size)}
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + num * 3 * size * size)
        images = np.lib.format.open_memmap(path, mode="r")
        data = MappedImages(path, images, name="zeros", labels=None, num_classes=None, fingerprint="zeros")
        metrics = {
            "fid": FID(num_samples=num, num_real=None),
            "kid": KID(num_samples=num, num_real=None, subset_size=min(1000, num), num_subsets=100),
        }
        features = {"features": Projection()}
        evaluator = Evaluator(
            metrics, features, data, device=CPU, folder=Path(folder) / "statistics", processes=SINGLE_PROCESS
        )
        evaluator.check(conditional=False)
        before, began = peak_resident_bytes(), time.monotonic()
        blocks = sample_blocks(Noise(size), Normal(z_dim=192), num, device=CPU, key=(0, "evaluate"))
        scores = evaluator(numbered(blocks, None, block_size=BLOCK_SIZE), ema=False, seed=0)
        taken = time.monotonic() - began
    print(
        f"{num:,} generated and {num:,} real images of {size}x{size} pixels: {', '.join(scores)} in {taken:.0f} s; "
        f"peak memory {peak_resident_bytes() / 1e9:.2f} GB, of which {before / 1e9:.2f} GB were in use before"
    )


if __name__ == "__main__":
    main()
