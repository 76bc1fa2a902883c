"""WebDataset: samples in tar files."""

import errno
import io
import json
import os
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
    path.parent.mkdir(parents=True, exist_ok=True)
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
    assert (values(held_out), held_out.labels.tolist()) == ([99], [1])
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
        ({"a": {"txt": b"1"}}, {}, "holds no PNG, .* images; set dataset"),
    ],
)
def test_wrong_samples_are_named(tmp_path: Path, samples: dict[str, dict[str, bytes]], options: Any, message: str):
    with pytest.raises(DataError, match=message):
        load(write(tmp_path / "data/x.tar", samples), **options)


def test_test_images_of_an_unknown_class_are_an_error(tmp_path: Path):
    write(tmp_path / "data/train.tar", SAMPLES)
    write(tmp_path / "data/test.tar", {"9": {"png": png(99), "cls": b"7"}})
    with pytest.raises(DataError, match=r"holdout=test: .* have the class 7, which is none of the 3 .*\(0, 1, 3\)"):
        hold_out(load(tmp_path / "data"), "test")


def test_only_files_of_the_test_split_can_be_held_out(tmp_path: Path):
    write(tmp_path / "data/train.tar", SAMPLES)
    write(tmp_path / "data/val.tar", SAMPLES)
    with pytest.raises(ConfigError, match=r"dataset\.holdout=test: webdataset has no test split; use a fraction"):
        hold_out(load(tmp_path / "data"), "test")


def test_a_bad_image_is_told_from_others_of_its_name(tmp_path: Path):
    # Shards that were made one by one number their samples from 0.
    bad = SAMPLES | {"000001": SAMPLES["000001"] | {"png": b"broken"}}
    write(tmp_path / "data/a/x.tar", SAMPLES)
    path = write(tmp_path / "data/b/x.tar", bad)
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo("000001.png")
        info.size = len(png(99))
        archive.addfile(info, io.BytesIO(png(99)))
    for _ in range(2):  # decoded, then from the cache
        dataset = load(tmp_path / "data", label=None, max_bad_fraction=0.2)
        assert values(dataset) == [0, 10, 20, 30, 0, 20, 30, 99]
        assert list(dataset.bad) == ["b/x.tar/000001.png"]


def test_pictures_that_cannot_be_read_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    other = {f"x{i}": {"psd": b"8BPS", "cls": b"1"} for i in range(2)} | {"y": {"jxl": b"", "txt": b""}}
    assert values(load(write(tmp_path / "data/x.tar", SAMPLES | other))) == [0, 10, 20, 30]
    assert "left out: 2 .psd, 1 .jxl" in caplog.text
    with pytest.raises(DataError, match=r"holds no PNG, .* images, only others: 2 \.psd, 1 \.jxl"):
        load(write(tmp_path / "data/y.tar", other))


def test_folders_are_followed_through_links_and_never_silently_skipped(tmp_path: Path):
    write(tmp_path / "elsewhere/x.tar", SAMPLES)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/linked").symlink_to(tmp_path / "elsewhere")
    assert values(load(tmp_path / "data")) == [0, 10, 20, 30]
    (tmp_path / "data/gone.tar").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"gone\.tar cannot be read \(No such file.*take it out of"):
        load(tmp_path / "data")


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "data/x.tar", SAMPLES)
    write(tmp_path / "data/closed/y.tar", SAMPLES)
    scandir = os.scandir

    def refuse(path: Path) -> Any:
        if Path(path).name == "closed":  # also for the administrator, whom permissions do not stop
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"data/closed cannot be listed \(Permission denied\)"):
        load(tmp_path / "data")


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
