"""Parquet files as pyarrow, pandas and the library `datasets` write them."""

import errno
import json
import os
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from picture_bytes import damaged, pictures, png, refusals, values

from gantrain.datasets.holdout import hold_out
from gantrain.datasets.parquet import copy_images, parquet
from gantrain.datasets.spool import Spool
from gantrain.errors import ConfigError, DataError

pa = pytest.importorskip("pyarrow")
pd = pytest.importorskip("pandas")
pq = pytest.importorskip("pyarrow.parquet")

NUM = 5
CONTENT = [png(10 * i) for i in range(NUM)]
RED = [10 * i for i in range(NUM)]
LABELS = [3, 1, 3, 0, 1]


def load(root: Path, **changes: Any):
    options = {"split": "train", "image_column": None, "label_column": None, "labels": True}
    cache = (root.parent if root.is_file() else root) / ".cache"
    return parquet(root=str(root), **options | pictures(cache) | changes)


def structs(content: list[bytes] = CONTENT) -> list[dict[str, Any]]:
    return [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(content)]


def test_bytes_written_by_pandas(tmp_path: Path):
    pd.DataFrame({"image": CONTENT, "label": LABELS}).to_parquet(tmp_path / "x.parquet")
    dataset = load(tmp_path / "x.parquet")
    assert (values(dataset), dataset.labels.tolist(), dataset.num_classes) == (RED, [2, 1, 2, 0, 1], 3)
    assert dataset.name == "parquet"
    assert [path.suffix for path in sorted((tmp_path / ".cache").iterdir())] == [".gz", ".json", ".npy"]


def test_structs_with_an_index_written_by_pandas(tmp_path: Path):
    frame = pd.DataFrame(
        {"picture": structs(), "class": pd.Categorical(["cat", "ant", "cat", "bee", "ant"])}, index=[9, 8, 7, 6, 5]
    )
    frame.to_parquet(tmp_path / "x.parquet")
    dataset = load(tmp_path / "x.parquet")
    assert (values(dataset), dataset.labels.tolist()) == (RED, [2, 0, 2, 1, 0])
    assert dataset.class_names == ("ant", "bee", "cat")


def hub_table(content: list[bytes], labels: list[int]) -> Any:
    """Make a table as the library `datasets` writes it, with its description of the columns."""
    features = {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": ["a", "b", "c", "d", "e"]},
        "mask": {"_type": "Image"},
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features | {"mask": {"_type": "Value"}}}})}
    columns = {"mask": [b""] * len(content), "image": structs(content), "number": labels, "label": labels}
    return pa.table(columns).replace_schema_metadata(metadata)


def test_declared_columns_and_classes_of_the_hub(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    (tmp_path / "data").mkdir()
    for i in range(2):
        part = hub_table(CONTENT[3 * i : 3 * i + 3], LABELS[3 * i : 3 * i + 3])
        pq.write_table(part, tmp_path / f"data/train-0000{i}-of-00002.parquet", row_group_size=1)
    pq.write_table(hub_table(CONTENT[:1], [4]), tmp_path / "data/test-00000-of-00001.parquet")
    dataset = load(tmp_path)
    assert (values(dataset), dataset.labels.tolist()) == (RED, LABELS)
    assert (dataset.num_classes, dataset.class_names) == (5, ("a", "b", "c", "d", "e"))
    assert "2 of 3 files are of the split train; the others are not trained on" in caplog.text
    held_out = hold_out(dataset, "test").held_out
    assert (values(held_out), held_out.labels.tolist()) == ([0], [4])
    assert values(load(tmp_path, split="test")) == [0]
    with pytest.raises(DataError, match=r"dataset\.split=validation: .* are of the splits test, train; name one"):
        load(tmp_path, split="validation")


@pytest.mark.parametrize("codec", ["none", "snappy", "zstd", "gzip"])
@pytest.mark.parametrize("kind", ["binary", "large_binary"])
def test_compressed_files_and_large_columns(tmp_path: Path, codec: str, kind: str):
    table = pa.table({"jpg": pa.array(CONTENT, getattr(pa, kind)()), "y": LABELS})
    pq.write_table(table, tmp_path / "x.parquet", compression=codec, use_dictionary=codec == "zstd")
    dataset = load(tmp_path / "x.parquet")
    assert (values(dataset), dataset.labels.tolist()) == (RED, [2, 1, 2, 0, 1])


def test_rows_of_many_batches_and_row_groups_keep_their_order(tmp_path: Path):
    content = [png(i % 200) for i in range(300)]
    pq.write_table(pa.table({"image": content}), tmp_path / "x.parquet", row_group_size=110)
    assert values(load(tmp_path / "x.parquet")) == [i % 200 for i in range(300)]


@pytest.mark.parametrize("kind", ["binary", "large_binary", "struct"])
def test_a_part_of_an_array_is_copied(tmp_path: Path, kind: str):
    whole = pa.array(structs()) if kind == "struct" else pa.array(CONTENT, getattr(pa, kind)())
    spool = Spool(tmp_path, lambda spool: copy_images(whole[1:4], tmp_path, spool))
    with spool.opened():
        assert [spool.read(i) for i in range(3)] == CONTENT[1:4]


def test_paths_without_bytes_name_files_beside_the_parquet(tmp_path: Path):
    (tmp_path / "data/images").mkdir(parents=True)
    (tmp_path / "data/images/1.png").write_bytes(CONTENT[1])
    rows = [{"bytes": CONTENT[0], "path": None}, {"bytes": None, "path": "images/1.png"}]
    pq.write_table(pa.table({"image": rows}), tmp_path / "data/x.parquet")
    assert values(load(tmp_path / "data")) == [0, 10]


def test_paths_do_not_leave_the_folder(tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "secret.png").write_bytes(CONTENT[1])
    (tmp_path / "data/link.png").symlink_to(tmp_path / "secret.png")
    bad = ["../secret.png", str(tmp_path / "secret.png"), "link.png", "missing.png", None]
    rows = [{"bytes": CONTENT[0], "path": None}, *({"bytes": None, "path": path} for path in bad)]
    pq.write_table(pa.table({"image": rows}), tmp_path / "data/x.parquet")
    with pytest.raises(DataError, match=r"5 of 6 images .*: row 1 names the file \.\./secret\.png, which is not below"):
        values(load(tmp_path / "data"))
    dataset = load(tmp_path / "data", max_bad_fraction=1.0)
    assert values(dataset) == [0]
    assert ["not below" in reason for reason in dataset.bad.values()] == [True, True, True, False, False]
    assert dataset.bad["row 5"] == "has neither bytes nor a path"


def test_labels_are_optional(tmp_path: Path):
    pq.write_table(pa.table({"image": CONTENT, "label": LABELS}), tmp_path / "x.parquet")
    without = load(tmp_path / "x.parquet", labels=False)
    assert (values(without), without.labels) == (RED, None)
    assert without.fingerprint != load(tmp_path / "x.parquet").fingerprint
    pq.write_table(pa.table({"image": CONTENT, "caption": ["x"] * NUM}), tmp_path / "x.parquet")
    assert load(tmp_path / "x.parquet").num_classes is None


def test_columns_can_be_chosen(tmp_path: Path):
    columns = {"left": CONTENT, "right": CONTENT[::-1], "kind": ["b", "a", "b", "a", "b"]}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"several columns may hold the images: left, right .*dataset\.image_column"):
        load(tmp_path / "x.parquet")
    dataset = load(tmp_path / "x.parquet", image_column="right", label_column="kind")
    assert (values(dataset), dataset.labels.tolist()) == (RED[::-1], [1, 0, 1, 0, 1])
    with pytest.raises(DataError, match=r"has no column middle, only left, right, kind"):
        load(tmp_path / "x.parquet", image_column="middle")
    with pytest.raises(DataError, match=r"the column kind holds string, not images"):
        load(tmp_path / "x.parquet", image_column="kind")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, None, 1, 0], "the label None is neither the number nor the name of a class"),
        ([0.5, 1, 2, 1, 0], r"the label 0\.5 is neither"),
    ],
)
def test_labels_that_are_no_classes_are_errors(tmp_path: Path, labels: list[Any], message: str):
    pq.write_table(pa.table({"image": CONTENT, "label": labels}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=message):
        load(tmp_path / "x.parquet", label_column="label")


def test_declared_names_may_be_the_labels(tmp_path: Path):
    table = hub_table(CONTENT[:2], [0, 1]).drop_columns("label").append_column("label", [["e", "b"]])
    pq.write_table(table.replace_schema_metadata(hub_table([], []).schema.metadata), tmp_path / "x.parquet")
    assert load(tmp_path / "x.parquet").labels.tolist() == [4, 1]


def test_undeclared_classes_of_test_images_have_the_numbers_of_the_training_images(tmp_path: Path):
    pq.write_table(pa.table({"image": CONTENT, "label": LABELS}), tmp_path / "train.parquet")
    pq.write_table(pa.table({"image": CONTENT[:2], "label": [3, 1]}), tmp_path / "test.parquet")
    dataset = load(tmp_path)
    held_out = hold_out(dataset, "test").held_out
    assert (dataset.labels.tolist(), held_out.labels.tolist()) == ([2, 1, 2, 0, 1], [2, 1])


def test_more_rows_than_the_file_can_hold_are_refused(tmp_path: Path):
    nothing = pa.nulls(1_000_000, pa.binary())
    pq.write_table(pa.table({"image": nothing}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"expands to 32,000,000 or more; do not trust it"):
        load(tmp_path / "x.parquet")


def test_pages_of_text_are_no_labels(tmp_path: Path):
    page = pa.DictionaryArray.from_arrays([0] * 600, ["a" * 10_000_000])
    table = pa.table({"image": [*CONTENT, *[CONTENT[0]] * 595], "label": page})
    pq.write_table(table, tmp_path / "x.parquet")
    tracemalloc.start()
    with pytest.raises(DataError, match=r"column label: the values are too long .*; choose another column"):
        load(tmp_path / "x.parquet")
    assert tracemalloc.get_traced_memory()[1] < 1e9
    tracemalloc.stop()


@pytest.mark.parametrize("blamed", ["cache", "file"])
def test_errors_of_the_system_name_the_place(tmp_path: Path, blamed: str, monkeypatch: pytest.MonkeyPatch):
    pq.write_table(pa.table({"image": CONTENT}), tmp_path / "x.parquet")
    dataset = load(tmp_path / "x.parquet")

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    if blamed == "file":
        monkeypatch.setattr(pq.ParquetFile, "iter_batches", fail)
        with pytest.raises(DataError, match=r"x\.parquet is not a readable Parquet file \(Input/output error\)"):
            values(dataset)
        return

    class Failing:
        def __init__(self, file: Any):
            self.file = file

        def __enter__(self) -> "Failing":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        write = fail

    temporary = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **options: Failing(temporary(**options)))
    with pytest.raises(ConfigError, match=r"cache_dir=.* cannot be written \(Input/output error\)"):
        values(dataset)


def test_undeclared_classes_are_errors(tmp_path: Path):
    pq.write_table(hub_table(CONTENT, [0, 1, -1, 2, 3]), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"the label -1 is none of the 5 classes, 0 to 4"):
        load(tmp_path / "x.parquet")


def test_broken_files_are_errors(tmp_path: Path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"image": CONTENT * 20, "label": LABELS * 20}), path, use_dictionary=False)
    # A few bits of 8,000 bytes of which most are images: those are bad images instead.
    found = refusals(lambda: load(path).prepare(num_workers=1), path, damaged(path.read_bytes(), 60, flips=8))
    assert len(found) >= 30
    assert all("x.parquet" in message and "\n" not in message for message in found)


def test_a_file_that_expands_enormously_is_refused(tmp_path: Path):
    table = pa.table({"image": [bytes(2_000_000)] * 3})
    pq.write_table(table, tmp_path / "x.parquet", compression="zstd", use_dictionary=False)
    assert (tmp_path / "x.parquet").stat().st_size < 20_000
    with pytest.raises(
        DataError, match=r"x\.parquet takes [\d,]+ bytes, but expands to 6,000,\d+ or more; do not trust it"
    ):
        load(tmp_path / "x.parquet").prepare(num_workers=1)


def test_rows_that_share_a_large_value_are_refused(tmp_path: Path):
    value = np.random.default_rng(0).bytes(100_000)
    pq.write_table(pa.table({"image": [value] * 300}), tmp_path / "x.parquet", use_dictionary=True)
    assert (tmp_path / "x.parquet").stat().st_size < 110_000
    with pytest.raises(DataError, match="but expands to 12,800,000 or more; do not trust it"):
        load(tmp_path / "x.parquet").prepare(num_workers=1)


def test_a_folder_without_parquet_files_is_an_error(tmp_path: Path):
    with pytest.raises(DataError, match=r"holds no \.parquet files; set dataset\.root"):
        load(tmp_path)
    with pytest.raises(DataError, match="nowhere does not exist"):
        load(tmp_path / "nowhere")
