"""What a user sees who trains in the folder of the pictures: runs, grids and caches are no data."""

import json
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import run_json

from gantrain.session import checkpoint

RUN = (
    *("model=dcgan", "model.generator.width=2", "model.discriminator.width=1", "dataset.image_size=16", "batch_size=4"),
    *("dataset=image_folder", "steps=2", "checkpoint.every=1", "metric=[]", "++callback.samples.num=4", "log_every=1"),
)
NUM = 8


@pytest.fixture(autouse=True)
def pictures(tmp_path: Path) -> None:
    """The pictures, in the folder in which the command is started."""
    rng = np.random.default_rng(0)
    for i in range(NUM):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")


def records(folder: Path = Path()) -> list[dict]:
    return [run_json(path.parent) for path in sorted(folder.rglob("run.json"), key=lambda path: path.stat().st_mtime)]


def num_images(folder: Path = Path()) -> list[int]:
    return [record["dataset"]["num_images"] for record in records(folder)]


def test_every_run_sees_the_same_pictures(gantrain: Callable, tmp_path: Path):
    for _ in range(2):
        assert gantrain(*RUN, "dataset.root=.").status == 0
    last = gantrain(*RUN, "dataset.root=.", "run_dir=runs/last")
    assert (last.status, num_images()) == (0, [NUM] * 3)
    assert len({record["dataset"]["fingerprint"] for record in records()}) == 1
    assert re.search(r"8 images in \.; left out: what gantrain made \(outputs/\S+, outputs/\S+\)\.", last.stderr)
    assert (tmp_path / "runs/last/samples/real.png").exists()
    resumed = gantrain(*RUN, "dataset.root=.", "run_dir=runs/last", "steps=3")  # as a scheduler restarts a job
    assert (resumed.status, run_json(tmp_path / "runs/last")["steps"]) == (0, 3)


def test_every_run_of_a_sweep_sees_the_same_pictures(gantrain: Callable):
    assert gantrain("-m", *RUN, "dataset.root=.", "seed=0,1").status == 0
    assert num_images() == [NUM] * 2


def test_run_in_the_folder_of_the_pictures_itself(gantrain: Callable):
    for steps in (2, 3):
        assert gantrain(*RUN, "dataset.root=.", "run_dir=.", f"steps={steps}").status == 0
        assert num_images() == [NUM]
    assert records()[0]["steps"] == 3


def test_samples_and_grids_are_no_data(gantrain: Callable):
    assert gantrain(*RUN, "dataset.root=.", "run_dir=run").status == 0
    for output in ("grid.png", "samples/", "deep.png"):
        assert gantrain("task=sample", "run=run", f"output={output}", "num=4").status == 0
    again = gantrain(*RUN, "dataset.root=.", "run_dir=again")
    assert (again.status, num_images(Path("again"))) == (0, [NUM])
    assert "were made by gantrain: deep.png, grid.png. They are left out." in again.stderr
    assert "left out: what gantrain made (run, samples)" in again.stderr
    named = gantrain(*RUN, "dataset.root=samples", "run_dir=on_samples")  # who names the folder wants it
    assert (named.status, num_images(Path("on_samples"))) == (0, [4])


def test_arrays_beside_samples(gantrain: Callable):
    images = np.random.default_rng(0).integers(0, 256, (NUM, 16, 16, 3), dtype=np.uint8)
    Path("data/@eaDir").mkdir(parents=True)
    for name in ("data/x.npz", "data/@eaDir/y.npz"):
        np.savez(name, images=images)
    of_arrays = [override for override in RUN if override != "dataset=image_folder"]
    command = (*of_arrays, "dataset=npz", "dataset.root=data")
    assert gantrain(*command, "run_dir=data/run").status == 0
    assert gantrain("task=sample", "run=data/run", "output=data/samples.npz", "num=4").status == 0
    shutil.copy("data/samples.npz", "data/run/of_a_run.npz")
    assert gantrain("task=sample", "run=data/run", "output=again.npz", "num=4").status == 0
    again = gantrain(*command, "run_dir=again")
    assert (again.status, num_images(Path("again"))) == (0, [NUM]), again.stderr
    assert "1 files in data; left out: what gantrain made (run, samples.npz), folders that systems make (@eaDir)." in (
        again.stderr
    )
    named = gantrain(*of_arrays, "dataset=npz", "dataset.root=again.npz", "run_dir=on_samples")
    assert (named.status, num_images(Path("on_samples"))) == (0, [4])


def test_zip_of_the_folder_with_its_runs(gantrain: Callable, tmp_path: Path):
    assert gantrain(*RUN, "dataset.root=.", "run_dir=run").status == 0
    with zipfile.ZipFile("photos.zip", "w") as archive:
        for path in sorted(tmp_path.rglob("*")):
            if path.name != "photos.zip":
                archive.write(path, path.relative_to(tmp_path))
    assert gantrain(*RUN, "dataset.root=photos.zip", "run_dir=of_zip").status == 0
    assert num_images(Path("of_zip")) == [NUM]
    assert run_json(Path("of_zip"))["dataset"]["fingerprint"] == run_json(Path("run"))["dataset"]["fingerprint"]


@pytest.mark.parametrize("holdout", ["null", "0.25"])
def test_refusal_of_changed_data_says_what_changed(gantrain: Callable, tmp_path: Path, holdout: str):
    command = (*RUN, "dataset.root=.", "run_dir=run", f"dataset.holdout={holdout}")
    assert gantrain(*command).status == 0
    for name in ("new 1.png", "new 2.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "3.png").unlink()
    shutil.copy(tmp_path / "4.png", tmp_path / "5.png")
    refused = gantrain(*command, "steps=3")
    assert refused.status == 2
    assert "of the files, 2 came (new 1.png, new 2.png), 1 went (3.png), 1 changed (5.png)" in refused.stderr
    for path in (tmp_path / "data/cache").glob("*.files.gz"):  # as in a cache of an earlier version
        path.unlink()
    (tmp_path / "5.png").unlink()
    (tmp_path / "6.png").unlink()
    record = json.loads((tmp_path / "run/run.json").read_text())["dataset"]["num_images"]
    refused = gantrain(*command, "steps=3")
    assert refused.status == 2
    assert re.search(rf"loads now: {record} images then, [5-7] now \(fingerprint", refused.stderr)


def test_the_first_run_that_uses_the_cache_of_an_earlier_version_keeps_its_list_of_files(
    gantrain: Callable, tmp_path: Path
):
    command = (*RUN, "dataset.root=.", "run_dir=run")
    assert gantrain(*command).status == 0
    for path in (tmp_path / "data/cache").glob("*.files.gz"):
        path.unlink()
    assert gantrain(*command, "steps=3").status == 0
    (tmp_path / "3.png").unlink()
    assert "of the files, 1 went (3.png)" in gantrain(*command, "steps=4").stderr


def test_a_run_of_an_earlier_version_says_how_to_find_its_labels(gantrain: Callable, tmp_path: Path):
    for i in range(NUM):  # as StyleGAN's tools divide a collection; these folders were classes
        (tmp_path / f"cats/{i // 4:05d}").mkdir(parents=True, exist_ok=True)
        shutil.move(tmp_path / f"{i}.png", tmp_path / f"cats/{i // 4:05d}/img{i:08d}.png")
    command = (*RUN, "dataset.root=cats", "run_dir=run")
    assert gantrain(*command, "dataset.labels=folders").status == 0
    for path in checkpoint.paths(tmp_path / "run"):
        content = checkpoint.read(path)
        del content["config"]["dataset"]["labels"]
        checkpoint.write(path, content)
    refused = gantrain(*command, "steps=3")
    assert refused.status == 2
    assert "than the first-level folders: try dataset.labels=folders" in refused.stderr
    resumed = gantrain(*command, "steps=3", "dataset.labels=folders")
    assert resumed.status == 0, resumed.stderr


def test_a_run_in_a_folder_of_pictures_takes_none_of_them_away(gantrain: Callable, tmp_path: Path):
    for kind in ("cat", "dog"):
        (tmp_path / "pets" / kind).mkdir(parents=True)
        for path in tmp_path.glob("*.png"):
            shutil.copy(path, tmp_path / "pets" / kind)
    command = (*RUN, "dataset.root=pets", "run_dir=pets/cat")
    first = gantrain(*command)
    assert first.status == 0, first.stderr
    assert (tmp_path / "pets/cat/samples/real.png").exists()
    resumed = gantrain(*command, "steps=3")
    assert resumed.status == 0, resumed.stderr
    assert num_images(tmp_path / "pets") == [2 * NUM]


def test_samples_sorted_by_class_are_data_if_nothing_else_is_there(gantrain: Callable, tmp_path: Path):
    assert gantrain(*RUN, "dataset.root=.", "run_dir=run").status == 0
    (tmp_path / "pets").mkdir()
    for kind in ("cat", "dog"):
        made = gantrain("task=sample", "run=run", "num=4", f"output=pets/{kind}/")
        assert made.status == 0, made.stderr
    assert gantrain(*RUN, "dataset.root=pets", "run_dir=second").status == 0
    assert run_json(tmp_path / "second")["dataset"]["num_images"] == 8


def test_starting_over_in_the_folder_of_the_pictures_deletes_none_of_them(gantrain: Callable, tmp_path: Path):
    assert gantrain(*RUN, "dataset.root=.", "run_dir=.").status == 0
    for name in ("samples/mine.png", "data/.cache.tmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(tmp_path / "0.png", tmp_path / name)
    record = run_json(tmp_path) | {"status": "running", "steps": 0}
    (tmp_path / "run.json").write_text(json.dumps(record))
    shutil.rmtree(tmp_path / "checkpoints")
    again = gantrain(*RUN, "dataset.root=.", "run_dir=.")
    assert again.status == 0, again.stderr
    assert (tmp_path / "samples/mine.png").exists()
    assert (tmp_path / "data/.cache.tmp").exists()
