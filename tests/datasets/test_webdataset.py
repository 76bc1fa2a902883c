"""WebDataset: samples in tar files."""

import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from picture_bytes import damaged, pictures, png, refusals, values

from gantrain.datasets.holdout import hold_out
from gantrain.datasets.webdataset import webdataset
from gantrain.errors import ConfigError, DataError

LABELS = [3, 1, 3, 0]
SAMPLES = {
    f"{i:06d}": {"png": png(10 * i), "cls": str(LABELS[i]).encode(), "json": json.dumps({"kind": f"k{i % 2}"}).encode()}
    for i in range(4)
}


def write(path: Path, samples: dict[str, dict[str, bytes]], *, mode: str = "w", folder: str = "") -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, mode, format=tarfile.PAX_FORMAT) as archive:
        for stem, files in samples.items():
            for suffix, content in files.items():
                info = tarfile.TarInfo(f"{folder}{stem}.{suffix}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


def load(root: Path, **changes: Any):
    cache = (root.parent if root.is_file() else root) / ".cache"
    return webdataset(root=str(root), **{"split": "train", "label": "cls"} | pictures(cache) | changes)


def test_images_with_classes_in_several_files(tmp_path: Path):
    names = list(SAMPLES)
    write(tmp_path / "data/train-000000.tar", {name: SAMPLES[name] for name in names[:3]})
    write(tmp_path / "data/train-000001.tar", {name: SAMPLES[name] for name in names[3:]}, folder=f"{'long/' * 40}")
    write(tmp_path / "data/test-000000.tar", {"9": {"png": png(99), "cls": b"1\n"}})
    dataset = load(tmp_path / "data")
    assert (values(dataset), dataset.labels.tolist()) == ([0, 10, 20, 30], [2, 1, 2, 0])
    assert dataset.class_names == ("0", "1", "3")
    held_out = hold_out(dataset, "test").held_out
    assert (values(held_out), held_out.labels.tolist()) == ([99], [0])
    assert not [path for path in (tmp_path / "data").rglob("*") if path.suffix in (".png", ".tmp")]


def test_labels_from_json_and_without(tmp_path: Path):
    path = write(tmp_path / "data/x.tar", SAMPLES)
    assert load(path, label="json:kind").labels.tolist() == [0, 1, 0, 1]
    assert load(path, label=None).labels is None
    path = write(
        tmp_path / "data/y.tar", {stem: {"jpg": files["png"], "txt": b"a cat"} for stem, files in SAMPLES.items()}
    )
    dataset = load(path)
    assert (values(dataset), dataset.labels) == ([0, 10, 20, 30], None)


def test_other_members_are_no_images(tmp_path: Path):
    samples = {
        "a.b": {"png": png(1)},
        ".hidden": {"png": png(2)},
        "c": {"seg.png": png(3), "png": png(4), "jpg": png(5)},
    }
    path = write(tmp_path / "data/x.tar", samples)
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("d.png")
        link.type, link.linkname = tarfile.SYMTYPE, "c.png"
        archive.addfile(link)
    assert values(load(path)) == [4]


@pytest.mark.skipif(shutil.which("tar") is None, reason="GNU tar writes the sparse file")
def test_sparse_members_are_no_images(tmp_path: Path):
    # Their bytes do not lie one after the other.
    (tmp_path / "a.png").write_bytes(png(1))
    with (tmp_path / "b.png").open("wb") as file:
        file.seek(2**20)
        file.write(png(2))
    subprocess.run(["tar", "--sparse", "-cf", "x.tar", "a.png", "b.png"], cwd=tmp_path, check=True)
    assert (tmp_path / "x.tar").stat().st_size < 2**19
    assert values(load(tmp_path / "x.tar")) == [1]


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        (
            {"a": {"png": png(1), "cls": b"1"}, "b": {"png": png(1)}},
            {},
            r"x\.tar/b\.png has no label, but other samples",
        ),
        ({"a": {"png": png(1), "cls": b"\xff"}}, {}, r"The label of x\.tar/a\.png cannot be read"),
        ({"a": {"png": png(1), "json": b"{}"}}, {"label": "json:kind"}, r"cannot be read \(no kind\)"),
        ({"a": {"png": png(1), "json": b"["}}, {"label": "json:kind"}, r"x\.tar/a\.png cannot be read"),
        ({"a": {"txt": b"1"}}, {}, "holds no images"),
    ],
)
def test_wrong_samples_are_named(tmp_path: Path, samples: dict[str, dict[str, bytes]], options: Any, message: str):
    with pytest.raises(DataError, match=message):
        load(write(tmp_path / "data/x.tar", samples), **options)


def test_compressed_files_are_refused_with_the_remedy(tmp_path: Path):
    with pytest.raises(DataError, match=r"x\.tar\.gz is compressed, .*gunzip"):
        load(write(tmp_path / "data/x.tar.gz", SAMPLES, mode="w:gz"))


@pytest.mark.parametrize("label", ["txt", "json", "json:", "cls:x"])
def test_wrong_labels_are_refused(tmp_path: Path, label: str):
    with pytest.raises(ConfigError, match=rf"dataset\.label={label} must be cls, json:KEY"):
        load(write(tmp_path / "data/x.tar", SAMPLES), label=label)


def test_damaged_files_are_errors(tmp_path: Path):
    path = write(tmp_path / "data/x.tar", SAMPLES)
    content = path.read_bytes()
    header = content.index(b"000002.png")
    skipping = bytearray(content)
    skipping[header + 148 : header + 156] = b"99999999"  # its checksum; tarfile alone would skip the rest
    for changed in (skipping, content[: header + 600], content[:300], b"", b"Rar!"):
        path.write_bytes(changed)
        with pytest.raises(DataError, match=r"x\.tar is not a readable tar"):
            load(path)
    found = refusals(lambda: load(path, max_bad_fraction=1.0).prepare(num_workers=1), path, damaged(content, 40))
    assert len(found) >= 10  # a cut behind the last image does no harm
    assert all("x.tar" in message and "\n" not in message for message in found)
