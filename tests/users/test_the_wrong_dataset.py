"""What a user sees who names data with the dataset that does not read them, or data whose labels cannot be used."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def picture(path: Path, value: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), (value, 0, 0)).save(path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    content = picture(tmp_path / "photos/a.png").read_bytes()
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("a.png")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 8, 8, 3), np.uint8))
    np.save(tmp_path / "a.npy", np.zeros((2, 8, 8, 3), np.uint8))
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    return tmp_path


@pytest.mark.parametrize(
    ("dataset", "root", "message"),
    [
        ("image_folder", "a.tar", "it is a tar: use dataset=webdataset"),
        ("image_folder", "a.parquet", "it is a Parquet file: use dataset=parquet"),
        ("image_folder", "photos/a.png", "it is a picture: set dataset.root to its folder"),
        ("image_folder", "a.npz", "a.npz holds arrays and no images; use dataset=npz"),
        ("npz", "a.npy", "it is a single array: make an .npz of it with np.savez"),
        ("webdataset", "a.npz", "it is a zip: of pictures, use dataset=image_folder; of arrays, dataset=npz"),
        ("npz", "photos", "for a folder of pictures, use dataset=image_folder"),
        ("webdataset", "photos", "for a folder of pictures, use dataset=image_folder"),
    ],
)
def test_the_right_dataset_is_named(gantrain, data: Path, dataset: str, root: str, message: str) -> None:
    refused = gantrain("task=data", f"dataset={dataset}", f"dataset.root={root}")
    assert refused.status == 2
    assert message in refused.stderr


@pytest.mark.parametrize(
    ("dataset", "name"),
    [("image_folder", "a.npz"), ("npz", "a.npz"), ("webdataset", "a.tar"), ("parquet", "a.parquet")],
)
def test_a_broken_file_of_the_right_kind_is_to_be_replaced(gantrain, data: Path, dataset: str, name: str) -> None:
    (data / name).write_bytes((data / name).read_bytes()[:600])
    refused = gantrain("task=data", f"dataset={dataset}", f"dataset.root={name}")
    assert refused.status == 2
    assert "; replace it." in refused.stderr
    assert "use dataset=" not in refused.stderr


def test_a_folder_without_a_dataset(gantrain, data: Path) -> None:
    refused = gantrain("model=dcgan", "dataset.root=photos")
    assert refused.status == 2
    assert "for your own pictures, add dataset=image_folder" in refused.stderr


def test_one_stray_picture_does_not_take_all_classes_away_in_silence(gantrain, tmp_path: Path) -> None:
    for i in range(10):
        picture(tmp_path / f"pets/{'cat' if i % 2 else 'dog'}/{i}.png", 20 * i)
    picture(tmp_path / "pets/stray.png", 250)
    seen = gantrain("task=data", "dataset=image_folder", "dataset.root=pets", "dataset.image_size=8")
    assert seen.status == 0
    assert (
        "the 2 folders are not taken for classes, because 1 of 11 images lie in none of them (stray.png)" in seen.stderr
    )
    told = gantrain("task=data", "dataset=image_folder", "dataset.root=pets", "dataset.labels=none")
    assert "not taken for classes" not in told.stderr


def test_labels_that_do_not_fit_are_never_dropped_in_silence(gantrain, tmp_path: Path) -> None:
    np.savez(tmp_path / "short.npz", images=np.zeros((20, 8, 8, 3), np.uint8), labels=np.arange(10))
    refused = gantrain("task=data", "dataset=npz", "dataset.root=short.npz")
    assert refused.status == 2
    assert "labels [10] is not one label per image (20); name another array" in refused.stderr
    assert gantrain("task=data", "dataset=npz", "dataset.root=short.npz", "dataset.labels=false").status == 0


def test_columns_that_are_no_labels_are_named(gantrain, tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    content = picture(tmp_path / "a.png").read_bytes()
    pq.write_table(pa.table({"image": [content] * 2, "label": [0.0, 1.0]}), tmp_path / "floats.parquet")
    seen = gantrain("task=data", "dataset=parquet", "dataset.root=floats.parquet", "dataset.image_size=8")
    assert "the column label holds double, neither whole numbers nor texts, so there are no labels" in seen.stderr
    pq.write_table(pa.table({"image": [content] * 2, "fine": [0, 1], "coarse": [0, 0]}), tmp_path / "two.parquet")
    seen = gantrain("task=data", "dataset=parquet", "dataset.root=two.parquet", "dataset.image_size=8")
    assert "to take one of fine, coarse, name it with dataset.label_column" in seen.stderr
    told = gantrain("task=data", "dataset=parquet", "dataset.root=two.parquet", "dataset.labels=false")
    assert "label_column" not in told.stderr


def test_a_refusal_of_changed_data_compares_with_the_runs_own_files(gantrain, tmp_path: Path) -> None:
    """Another folder with copies of the same pictures has a cache of the same pixels, but with other times."""
    for i in range(8):
        for folder in ("aaa", "zzz", "mine"):
            picture(tmp_path / folder / f"{i}.png", 20 * i)
    small = ("model.generator.width=2", "model.discriminator.width=1", "dataset.image_size=16", "batch_size=4")
    common = ("model=dcgan", *small, "dataset=image_folder", "steps=1", "metric=[]", "callback=[log,checkpoint]")
    for folder in ("aaa", "zzz", "mine"):
        assert gantrain(*common, f"dataset.root={folder}", f"run_dir=run/{folder}").status == 0
    (tmp_path / "mine/0.png").unlink()
    refused = gantrain(*common, "dataset.root=mine", "run_dir=run/mine", "steps=2")
    assert refused.status == 2
    assert "of the files, 1 went (0.png) (fingerprint" in refused.stderr


def test_one_attribute_needs_no_brackets(gantrain, tmp_path: Path) -> None:
    for i in range(4):
        picture(tmp_path / f"data/celeba/img_align_celeba/{i + 1:06d}.jpg", 20 * i)
    rows = [f"{i + 1:06d}.jpg {1 if i % 2 else -1} 1" for i in range(4)]
    (tmp_path / "data/celeba/list_attr_celeba.txt").write_text("\n".join(["4", "Male Smiling", *rows]) + "\n")
    seen = gantrain("task=data", "dataset=celeba", "dataset.crop=16", "dataset.image_size=8", "dataset.attributes=Male")
    assert "2 classes: not Male 2, Male 2" in seen.stderr
    refused = gantrain("task=data", "dataset=celeba", "dataset.attributes=male")
    assert "male is none of Male, Smiling. Did you mean Male?" in refused.stderr
