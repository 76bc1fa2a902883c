"""Data in the forms in which other tools and the hubs publish them: what a user types, and what they should see."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import run_json

TINY = (
    "network=cmlp",
    "model.generator.width=4",
    "model.discriminator.width=4",
    "batch_size=4",
    "steps=1",
    "metric=[]",
)
QUIET = ("callback=[log]", "dataset.image_size=8", "run_dir=run")


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_zip_made_by_dataset_tool_trains_a_conditional_network(gantrain, tmp_path: Path) -> None:
    names = [f"{i // 4:05d}/img{i:08d}.png" for i in range(8)]
    labels = [[name, i % 3] for i, name in enumerate(names)]
    with zipfile.ZipFile(tmp_path / "cats.zip", "w") as archive:
        for i, name in enumerate(names):
            archive.writestr(name, png(i))
        archive.writestr("dataset.json", json.dumps({"labels": labels}))
    done = gantrain("dataset=image_folder", "dataset.root=cats.zip", *TINY, *QUIET)
    assert done.status == 0, done.stderr
    assert "3 classes" in done.stderr
    assert run_json(tmp_path / "run")["dataset"]["num_images"] == 8
    assert not list(tmp_path.glob("**/*.png")), "the zip is read in place"
    # Without the labels there is nothing to condition on: the folders are shards of a collection.
    refused = gantrain("dataset=image_folder", "dataset.root=cats.zip", "dataset.labels=none", *TINY, "run_dir=other")
    assert refused.status == 2
    assert "has no labels" in refused.stderr


def test_published_collections_need_only_their_name(gantrain, tmp_path: Path) -> None:
    names = {
        "imagenet": [f"data/imagenet/train/n0{i % 2}/{i}.JPEG" for i in range(4)],
        "ffhq": [f"data/ffhq/{i // 2 * 1000:05d}/{i // 2 * 1000 + i % 2:05d}.png" for i in range(4)],
        "celeba_hq": [f"data/celeba_hq/{i}.jpg" for i in range(4)],
    }
    for dataset, paths in names.items():
        for i, path in enumerate(paths):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(png(i))
        done = gantrain("task=data", f"dataset={dataset}", "dataset.image_size=8")
        assert done.status == 0, done.stderr
        assert ("2 classes: n00 2, n01 2" if dataset == "imagenet" else "labels        none") in done.stderr


def test_a_data_set_of_the_hub_trains_from_its_parquet_files(gantrain, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    (tmp_path / "mine/data").mkdir(parents=True)
    rows = [{"image": {"bytes": png(i), "path": f"{i}.png"}, "label": i % 2} for i in range(6)]
    pandas.DataFrame(rows[:4]).to_parquet(tmp_path / "mine/data/train-00000-of-00001.parquet")
    pandas.DataFrame(rows[4:]).to_parquet(tmp_path / "mine/data/test-00000-of-00001.parquet")
    done = gantrain("dataset=parquet", "dataset.root=mine", "dataset.holdout=test", *TINY, *QUIET)
    assert done.status == 0, done.stderr
    assert "2 classes" in done.stderr
    found = run_json(tmp_path / "run")["dataset"]
    assert (found["num_images"], found["held_out"]["num_images"]) == (4, 2)


def test_without_pyarrow_the_message_says_what_to_install(gantrain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gantrain.datasets.parquet.find_spec", lambda name: None)
    refused = gantrain("dataset=parquet", "dataset.root=mine", *TINY)
    assert refused.status == 2
    assert "dataset=parquet needs the package pyarrow: pip install 'gantrain[parquet]'" in refused.stderr


def test_arrays_saved_by_numpy_train(gantrain, tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((6, 8, 8, 3), np.float32)
    np.savez_compressed(tmp_path / "x.npz", x_train=x, y_train=np.arange(6) % 3, x_test=x[:2], y_test=[0, 1])
    done = gantrain("dataset=npz", "dataset.root=x.npz", "dataset.holdout=test", *TINY, *QUIET[::2])
    assert done.status == 0, done.stderr
    assert "3x8x8, 3 classes" in done.stderr
    assert run_json(tmp_path / "run")["dataset"]["held_out"]["num_images"] == 2


def test_tar_files_of_webdataset_train(gantrain, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for i in range(6):
            for suffix, content in (("png", png(i)), ("cls", str(i % 2).encode())):
                member = tarfile.TarInfo(f"{i:04d}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    done = gantrain("dataset=webdataset", "dataset.root=x.tar", *TINY, *QUIET)
    assert done.status == 0, done.stderr
    assert "2 classes" in done.stderr
    assert not list(tmp_path.glob("**/*.png")), "the tar is read in place"
