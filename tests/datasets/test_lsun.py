"""LSUN: LMDB files as published, and folders."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from picture_bytes import damaged, pictures, png, refusals, values

from gantrain.datasets.lmdb_file import values as values_in
from gantrain.datasets.lsun import lsun
from gantrain.errors import DataError


def load(root: Path, **changes: Any):
    return lsun(root=str(root), category="church_train", **pictures(root / "cache") | changes)


def write_lmdb(folder: Path, content: dict[bytes, bytes]) -> Path:
    lmdb = pytest.importorskip("lmdb")
    folder.mkdir(parents=True, exist_ok=True)
    with lmdb.open(str(folder), map_size=2**26) as database, database.begin(write=True) as transaction:
        for key, value in content.items():
            transaction.put(key, value)
    return folder / "data.mdb"


def keys(num: int) -> list[bytes]:
    return [f"{i * 7919 % 100_003:040x}".encode() for i in range(num)]


@pytest.mark.parametrize("num", [1, 3, 1500])
def test_values_of_lmdb_are_found_in_the_order_of_the_keys(tmp_path: Path, num: int):
    draw = np.random.default_rng(0)
    sizes = draw.integers(0, 9000, num)  # small ones lie in the pages of the tree, large ones in pages of their own
    content = {key: draw.bytes(int(size)) for key, size in zip(keys(num), sizes, strict=True)}
    path = write_lmdb(tmp_path / "db", content)
    write_lmdb(tmp_path / "db", dict.fromkeys(keys(num)[::3], b"replaced"))  # the newer of two states counts
    content |= dict.fromkeys(keys(num)[::3], b"replaced")
    stored = path.read_bytes()
    found = {key: stored[offset : offset + size] for key, offset, size in values_in(path)}
    assert list(found) == sorted(content)
    assert found == content


def test_a_published_lmdb(tmp_path: Path):
    write_lmdb(tmp_path / "lsun/church_train_lmdb", {b"b": png(10), b"a": png(20), b"c": png(30) + bytes(5000)})
    for root in (tmp_path, tmp_path / "lsun", tmp_path / "lsun/church_train_lmdb"):
        dataset = load(root)
        assert values(dataset) == [20, 10, 30]
        assert (dataset.name, dataset.labels) == ("lsun", None)


def test_a_folder_of_images(tmp_path: Path):
    (tmp_path / "lsun/church_train/0/1").mkdir(parents=True)
    (tmp_path / "lsun/church_train/2").mkdir(parents=True)
    (tmp_path / "lsun/church_train/0/1/x.png").write_bytes(png(10))
    (tmp_path / "lsun/church_train/2/y.png").write_bytes(png(20))
    dataset = load(tmp_path)
    assert (values(dataset), dataset.labels) == ([10, 20], None)


def test_missing_files_are_an_error(tmp_path: Path):
    with pytest.raises(
        DataError, match=r"LSUN needs the folder church_train_lmdb .*download and unzip church_train_lmdb\.zip"
    ):
        load(tmp_path)


def test_damaged_files_are_errors(tmp_path: Path):
    path = write_lmdb(tmp_path / "lsun/church_train_lmdb", {key: png(i % 200) for i, key in enumerate(keys(150))})

    def read() -> None:
        size = path.stat().st_size
        assert all(0 <= offset <= offset + num_bytes <= size for _, offset, num_bytes in values_in(path))

    found = refusals(read, path, damaged(path.read_bytes().rstrip(bytes(1)), 80, flips=40))
    assert len(found) > 40
    assert all("data.mdb is not a readable LMDB file" in message for message in found)


def test_a_page_that_is_used_twice_is_refused(tmp_path: Path):
    path = write_lmdb(tmp_path / "db", {key: png(i) for i, key in enumerate(keys(150))})
    content = bytearray(path.read_bytes())
    _, root = max(struct.unpack_from("<Q8xQ", content, at + 128)[::-1] for at in (0, 4096))
    count = (struct.unpack_from("<H", content, root * 4096 + 12)[0] - 16) // 2
    nodes = struct.unpack_from(f"<{count}H", content, root * 4096 + 16)
    assert count > 1
    for at in nodes:  # or a small file could have endlessly many values
        struct.pack_into("<H", content, root * 4096 + at, root)
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"page {root} is missing, or is used twice"):
        list(values_in(path))


@pytest.mark.parametrize("content", [b"", bytes(8192), b"x" * 8192])
def test_other_files_are_refused(tmp_path: Path, content: bytes):
    (tmp_path / "data.mdb").write_bytes(content)
    with pytest.raises(DataError, match=r"data\.mdb is not a readable LMDB file"):
        load(tmp_path)
