"""Measure the data path: decoding against one Pillow thread, and batches of mapped images.

    python benchmarks/data.py

JPEGs of CelebA's size are resized to 64x64. The decoders run in turn, A B A B, on the same files; batches come from a
finished cache that is already in the page cache.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from cases import make_files
from PIL import Image

from gantrain.datasets.base import ImageDataset
from gantrain.datasets.batches import make_batches
from gantrain.datasets.decoding import decoding
from gantrain.datasets.image_files import open_image_files
from gantrain.datasets.image_folder import image_folder, square
from gantrain.engine.cores import num_cores

SIZE, BATCH_SIZE = 64, 64


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_files(root / "few")
        few = sorted((root / "few").iterdir())
        (root / "photos").mkdir()
        for i in range(arguments.images):
            (root / f"photos/{i:06d}.jpg").hardlink_to(few[i % len(few)])
        ways = {
            "one Pillow thread": lambda _: one_thread(root / "photos"),
            f"{num_cores()} workers": lambda _: decode(root / "photos"),
            "and a cache made": lambda n: cached(root, f"cache-{n}"),
        }
        turns = [{name: seconds(partial(way, n)) for name, way in ways.items()} for n in range(arguments.rounds)]
        for name in ways:
            rate = arguments.images / statistics.median(turn[name] for turn in turns)
            ratio = statistics.median(turn["one Pillow thread"] / turn[name] for turn in turns)
            print(f"{name:<20} {rate:,.0f} images/s, {ratio:.2f}", flush=True)
        rates = batches(cached(root, "cache-0"), arguments.rounds)
        print(f"{'batches':<20} {statistics.median(rates):,.0f} images/s ({min(rates):,.0f} to {max(rates):,.0f})")


def seconds(function: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def one_thread(photos: Path) -> None:
    """Decode, resize and crop each file in this thread, and keep nothing."""
    for path in sorted(photos.iterdir()):
        with Image.open(path) as image:
            whole = image.convert("RGB")
            width, height = (side * SIZE // min(whole.size) for side in whole.size)
            left, top = (width - SIZE) // 2, (height - SIZE) // 2
            resized = whole.resize((width, height), Image.Resampling.BILINEAR)
            resized.crop((left, top, left + SIZE, top + SIZE)).tobytes()


def decode(photos: Path) -> None:
    """Decode each file, and keep nothing."""
    files = open_image_files(photos)
    with decoding(lambda i: square(files, i, 3, SIZE), files.names, (3, SIZE, SIZE), None) as images:
        for _ in images:
            pass


def cached(root: Path, cache: str) -> ImageDataset:
    """Make the cache, or map the existing one."""
    options = {"image_size": SIZE, "channels": 3, "max_bad_fraction": 0.0}
    dataset = image_folder(root=str(root / "photos"), cache_dir=str(root / cache), **options)
    dataset.prepare()
    return dataset


def batches(dataset: ImageDataset, rounds: int) -> list[float]:
    """Return the images per second of an epoch, as float32 in [-1, 1], in each round after the first."""
    made = make_batches(dataset, batch_size=BATCH_SIZE, seed=0, device=torch.device("cpu"))
    num = dataset.num_images // BATCH_SIZE

    def epoch(k: int) -> None:
        for i in range(k * num, (k + 1) * num):
            _ = made[i]

    taken = [seconds(partial(epoch, k)) for k in range(rounds + 1)]
    return [num * BATCH_SIZE / s for s in taken[1:]]


if __name__ == "__main__":
    main()
