"""With data larger than memory, a run starts within seconds, and its memory does not grow while it reads."""

import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from processes import Process, gantrain, seconds_waiting_for_cpu, server, slowness, start, work
from runs import run_json

from gantrain.datasets import cache as module
from gantrain.datasets.base import ImageDataset
from gantrain.datasets.image_folder import image_folder

__all__ = ["gantrain", "server", "start", "work"]

SIZE, NUM = 256, 102_000  # 20 GB


@pytest.fixture
def photos(work: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder of 102,000 images with a finished cache, which is a sparse file."""
    folder = work / "photos"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(work / "one.png")
    for i in range(NUM):
        if i % 50_000 == 0:  # file systems limit the number of hard links to a file
            (work / f"{i}.png").write_bytes((work / "one.png").read_bytes())
        os.link(work / f"{i - i % 50_000}.png", folder / f"{i}.png")
    sources: list[Any] = []

    def listed(source: module.Source, **options: Any) -> ImageDataset:
        sources.append(source)
        return module.cached(source, **options)

    monkeypatch.setattr("gantrain.datasets.image_folder.cached", listed)
    monkeypatch.chdir(work)
    image_folder(root="photos", labels="auto", image_size=SIZE, channels=3, cache_dir="cache", max_bad_fraction=0.0)
    (source,) = sources
    stem = work / "cache" / f"image_folder-{source.key()[:16]}"
    stem.parent.mkdir()
    with Path(f"{stem}.npy").open("wb") as file:
        module._write_header(file, (NUM, *source.image_shape))
        file.truncate(file.tell() + NUM * SIZE * SIZE * 3)
        stamp = module._file_stamp(file)
    facts = {"version": module.FORMAT_VERSION, "key": source.key(), "bad": {}, "fingerprint": "f", "file": stamp}
    Path(f"{stem}.json").write_text(json.dumps(facts))
    assert stamp["num_bytes"] > 20e9
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_20_gb_reach_step_1_within_4_seconds_of_the_imports(
    start: Callable[..., Process], work: Path, photos: Path
) -> None:
    small = ("model=dcgan", "model.generator.width=1", "model.discriminator.width=1", "batch_size=2")
    data = ("dataset=image_folder", "dataset.root=photos", f"dataset.image_size={SIZE}", "dataset.cache_dir=cache")
    before = "import time; open('began.txt', 'w').write(str(time.time()))"

    def seconds_to_step_1(run: str) -> float:
        process = start(*small, *data, "steps=2", f"run_dir={run}", before=before)  # the modules are imported already
        assert process.until(lambda: "step 1/2" in process.stderr)
        seconds = time.time() - float((work / "began.txt").read_text()) - seconds_waiting_for_cpu(process.pid)
        assert process.wait().status == 0, process.stderr
        assert run_json(work / run)["dataset"]["num_images"] == NUM
        assert "Decoding" not in process.stderr
        print(f"at step 1 after {seconds:.2f} s")
        return seconds

    limit = 4 * slowness()
    assert any(seconds_to_step_1(run) < limit for run in "abc")  # the machine may be busy with other tests


READ = """
import os, numpy, torch
from pathlib import Path
from gantrain.datasets.batches import make_batches
from gantrain.datasets.mapped import MappedImages

path = Path("images.npy")
images = numpy.lib.format.open_memmap(path, mode="r")
data = MappedImages(path, images, name="holes", labels=None, num_classes=None, fingerprint="f")
batches = make_batches(data, batch_size=64, seed=0, device=torch.device("cpu"))
pages = lambda: int(Path("/proc/self/statm").read_text().split()[1])
for i in range(NUM_BATCHES):
    assert (batches[i].x == -1).all()
    print(pages() * os.sysconf("SC_PAGE_SIZE"), flush=True)
raise SystemExit
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("shape", "num_batches"), [((1, 28, 28), 1000), ((3, 64, 64), 500), ((3, 256, 256), 120)])
def test_mapped_images_are_read_in_constant_memory(
    start: Callable[..., Process], work: Path, shape: tuple[int, ...], num_batches: int
) -> None:
    """Also for small images, whose pages contain many other images of the file."""
    num = int(1.5e9) // math.prod(shape)
    with (work / "images.npy").open("wb") as file:
        module._write_header(file, (num, *shape))
        file.truncate(file.tell() + num * math.prod(shape))
    process = start(before=f"NUM_BATCHES = {num_batches}\n{READ}")
    assert process.wait().status == 0, process.stderr
    held = list(map(int, process.stderr.split()))  # the log of both streams
    assert len(held) == num_batches
    growth = max(held) - held[1]
    print(f"{shape}: grows by at most {growth / 1e6:.0f} MB")
    assert growth < 160e6  # three batches of the largest, as float32; all that are read have 30 GB
