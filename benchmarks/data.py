"""Measure the data path: decoding, compared with one Pillow thread, and batches from a finished cache.

    python benchmarks/data.py
    python benchmarks/data.py --parquet --images 5000   # a Parquet file compared with a folder of the same files

JPEGs of CelebA's size are resized to 64x64. The methods run in alternation on the same files. The finished cache is
already in the page cache of the system.
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
from gantrain.datasets.parquet import parquet
from gantrain.engine.cores import num_cores

SIZE, BATCH_SIZE = 64, 64


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--parquet", action="store_true")
    arguments = parser.parse_args()
    if arguments.parquet:
        compare_with_parquet(arguments.images, arguments.rounds)
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_files(root / "originals")
        originals = sorted((root / "originals").iterdir())
        (root / "photos").mkdir()
        for i in range(arguments.images):
            (root / f"photos/{i:06d}.jpg").hardlink_to(originals[i % len(originals)])
        methods = {
            "one Pillow thread": lambda _: one_thread(root / "photos"),
            f"{num_cores()} workers": lambda _: decode(root / "photos"),
            "workers and cache": lambda n: cached(root, f"cache-{n}"),
        }
        turns = [
            {name: seconds(partial(method, n)) for name, method in methods.items()} for n in range(arguments.rounds)
        ]
        for name in methods:
            rate = arguments.images / statistics.median(turn[name] for turn in turns)
            ratio = statistics.median(turn["one Pillow thread"] / turn[name] for turn in turns)
            print(f"{name:<20} {rate:,.0f} images/s, {ratio:.2f}", flush=True)
        rates = batches(cached(root, "cache-0"), arguments.rounds)
        print(f"{'batches':<20} {statistics.median(rates):,.0f} images/s ({min(rates):,.0f} to {max(rates):,.0f})")


def compare_with_parquet(num: int, rounds: int) -> None:
    """Decode the same JPEGs from a folder and from a Parquet file, in alternation, from the listing to the cache."""
    import pyarrow
    from pyarrow.parquet import write_table

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_files(root / "originals")
        originals = [path.read_bytes() for path in sorted((root / "originals").iterdir())]
        content = [originals[i % len(originals)] for i in range(num)]
        (root / "photos").mkdir()
        for i, data in enumerate(content):
            (root / f"photos/{i:06d}.jpg").write_bytes(data)
        # Plain, because a dictionary would store only the few different images.
        table = pyarrow.table({"image": content, "label": [i % 10 for i in range(num)]})
        write_table(table, root / "photos.parquet", use_dictionary=False)
        options = {"split": "train", "image_column": None, "label_column": None, "labels": True, "image_size": SIZE}
        options |= {"channels": 3, "max_bad_fraction": 0.0, "root": str(root / "photos.parquet")}
        methods = {
            "folder": lambda n: cached(root, f"folder-{n}"),
            "parquet": lambda n: parquet(cache_dir=str(root / f"parquet-{n}"), **options).prepare(),
        }
        turns = [{name: seconds(partial(method, n)) for name, method in methods.items()} for n in range(rounds)]
        for name in methods:
            rate = num / statistics.median(turn[name] for turn in turns)
            ratio = statistics.median(turn["folder"] / turn[name] for turn in turns)
            print(f"{name:<20} {rate:,.0f} images/s, {ratio:.2f}", flush=True)


def seconds(function: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def one_thread(photos: Path) -> None:
    """Decode, resize and crop each file in this thread, and discard the result."""
    for path in sorted(photos.iterdir()):
        with Image.open(path) as image:
            rgb = image.convert("RGB")
            width, height = (side * SIZE // min(rgb.size) for side in rgb.size)
            left, top = (width - SIZE) // 2, (height - SIZE) // 2
            resized = rgb.resize((width, height), Image.Resampling.BILINEAR)
            resized.crop((left, top, left + SIZE, top + SIZE)).tobytes()


def decode(photos: Path) -> None:
    """Decode each file with gantrain's workers, and discard the result."""
    files = open_image_files(photos)
    with decoding(lambda i: square(files, i, 3, SIZE), files.names, (3, SIZE, SIZE), None) as images:
        for _ in images:
            pass


def cached(root: Path, cache: str) -> ImageDataset:
    """Build the cache, or map the existing one."""
    options = {"labels": "auto", "image_size": SIZE, "channels": 3, "max_bad_fraction": 0.0}
    dataset = image_folder(root=str(root / "photos"), cache_dir=str(root / cache), **options)
    dataset.prepare()
    return dataset


def batches(dataset: ImageDataset, rounds: int) -> list[float]:
    """Return the images per second of one epoch for each round, as float32 in [-1, 1]; one epoch is a warm-up."""
    made = make_batches(dataset, batch_size=BATCH_SIZE, seed=0, device=torch.device("cpu"))
    num = dataset.num_images // BATCH_SIZE

    def epoch(k: int) -> None:
        for i in range(k * num, (k + 1) * num):
            _ = made[i]

    taken = [seconds(partial(epoch, k)) for k in range(rounds + 1)]
    return [num * BATCH_SIZE / s for s in taken[1:]]


if __name__ == "__main__":
    main()
