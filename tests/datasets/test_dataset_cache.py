import errno
import json
import os
import resource
import shutil
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from gantrain.datasets import cache as module
from gantrain.datasets import progress
from gantrain.datasets.cache import Source, cached, fingerprint
from gantrain.datasets.images import BadImageError
from gantrain.errors import ConfigError, DataError

NUM = 100  # several chunks
IMAGES = np.random.default_rng(0).integers(0, 256, (NUM, 3, 5, 4), dtype=np.uint8)
LABELS = np.arange(NUM) % 7


class Counted:
    """Decodes by looking up, counts, and fails on request."""

    def __init__(self, bad: tuple[int, ...] = ()):
        self.count, self.bad, self.lock = 0, bad, threading.Lock()

    def __call__(self, i: int) -> np.ndarray:
        with self.lock:
            self.count += 1
        if i in self.bad:
            raise BadImageError("is broken")
        return IMAGES[i]


def source(decode: Callable[[int], np.ndarray], **changes) -> Source:
    made = Source(
        name="things",
        origin="somewhere",
        names=[f"{i}.png" for i in range(NUM)],
        listing=[[f"{i}.png", 10, 0] for i in range(NUM)],
        preprocessing={"resize": 5},
        image_shape=(3, 5, 4),
        labels=LABELS,
        num_classes=7,
        decode=decode,
    )
    return replace(made, **changes)


def load(made: Source, folder: Path, max_bad_fraction: float = 0.0):
    dataset = cached(made, cache_dir=folder, max_bad_fraction=max_bad_fraction)
    dataset.prepare()
    return dataset


def test_second_load_does_not_decode(tmp_path: Path):
    decode = Counted()
    first, second = (load(source(decode), tmp_path / "new/cache") for _ in range(2))
    assert decode.count == NUM
    for dataset in (first, second):
        assert torch.equal(dataset.images, torch.from_numpy(IMAGES))
        assert torch.equal(dataset.labels, torch.from_numpy(LABELS))
        assert dataset.fingerprint == fingerprint(IMAGES, LABELS)
        assert (dataset.name, dataset.num_classes) == ("things", 7)


def test_files_are_what_numpy_writes(tmp_path: Path):
    load(source(Counted()), tmp_path)
    key = source(Counted()).key()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"things-{key[:16]}.json",
        f"things-{key[:16]}.labels.npy",
        f"things-{key[:16]}.npy",
    ]
    np.testing.assert_array_equal(np.load(tmp_path / f"things-{key[:16]}.npy"), IMAGES)
    assert json.loads((tmp_path / f"things-{key[:16]}.json").read_text())["shape"] == [NUM, 3, 5, 4]


@pytest.mark.parametrize("ask", ["images", "labels", "fingerprint", "prepare"])
def test_decoded_once_when_first_asked_for(tmp_path: Path, ask: str):
    decode = Counted()
    dataset = cached(source(decode), cache_dir=tmp_path / "cache", max_bad_fraction=0.0)
    assert (dataset.name, dataset.num_classes) == ("things", 7)
    assert (dataset.num_images, dataset.image_shape) == (NUM, (3, 5, 4))
    assert decode.count == 0
    assert not (tmp_path / "cache").exists()
    for name in (ask, "prepare", "images", "labels", "fingerprint"):
        _ = dataset.prepare() if name == "prepare" else getattr(dataset, name)
    assert decode.count == NUM
    assert torch.equal(dataset.images, torch.from_numpy(IMAGES))


def test_what_was_decoded_from_is_let_go(tmp_path: Path):
    decode = Counted()
    gone = weakref.ref(decode)
    dataset = cached(source(decode), cache_dir=tmp_path, max_bad_fraction=0.0)
    del decode
    assert gone() is not None
    dataset.prepare()
    assert gone() is None


def test_num_images_shrinks_by_the_bad_ones(tmp_path: Path):
    dataset = cached(source(Counted(bad=(5, 6))), cache_dir=tmp_path, max_bad_fraction=0.1)
    assert dataset.num_images == NUM
    dataset.prepare()
    assert dataset.num_images == len(dataset.images) == NUM - 2


def test_a_failed_decoding_fails_again(tmp_path: Path):
    dataset = cached(source(Counted(bad=(5,))), cache_dir=tmp_path, max_bad_fraction=0.0)
    for _ in range(2):
        with pytest.raises(DataError, match="1 of 100 images"):
            dataset.prepare()


@pytest.mark.filterwarnings("error")
def test_a_cache_larger_than_memory_is_mapped_at_once(tmp_path: Path):
    decode = Counted()
    made = source(decode, image_shape=(1, 1024, 1024), labels=None, num_classes=None)
    shape = [2**20, 1, 1024, 1024]  # 1 TiB, in a file of holes
    stem = tmp_path / f"things-{made.key()[:16]}"
    with Path(f"{stem}.npy").open("wb") as file:
        module._write_header(file, tuple(shape))
        file.truncate(file.tell() + 2**40)
    facts = {"version": 1, "key": made.key(), "shape": shape, "has_labels": False, "bad": {}, "fingerprint": "f"}
    Path(f"{stem}.json").write_text(json.dumps(facts))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    dataset = load(made, tmp_path)
    assert dataset.images[-1].sum() == 0
    assert decode.count == 0
    assert dataset.num_images == 2**20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB
    if (maps := Path("/proc/self/maps")).exists():
        assert [line.split()[1] for line in maps.read_text().splitlines() if line.endswith(f"{stem}.npy")] == ["r--s"]


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EACCES])
def test_a_cache_that_cannot_be_read_is_not_built_again(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch):
    load(source(Counted()), tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(np, "load", fail)
    decode = Counted()
    with pytest.raises(DataError, match=rf"things-.*\.npy cannot be read \({os.strerror(number)}\)"):
        load(source(decode), tmp_path)
    assert decode.count == 0


def test_what_a_killed_builder_left_is_removed_after_a_day(tmp_path: Path):
    names = [".things-a.npy.x1.tmp", ".things-b.labels.npy.x2.tmp", ".things-a.npy.x3.tmp", ".others-a.npy.x4.tmp"]
    hours = [25, 30, 23, 99]
    for name, age in zip(names, hours, strict=True):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (then := time.time() - 3600 * age, then))
    load(source(Counted()), tmp_path)
    assert sorted(path.name for path in tmp_path.glob(".*")) == sorted(names[2:])


@pytest.mark.parametrize(
    "changes",
    [
        {"listing": [[f"{i}.png", 10, i == 3] for i in range(NUM)]},
        {"listing": [[f"{i}.png", 10 + (i == 3), 0] for i in range(NUM)]},
        {"preprocessing": {"resize": 5, "crop": 3}},
        {"name": "others"},
    ],
)
def test_any_change_decodes_again(tmp_path: Path, changes: dict):
    decode = Counted()
    load(source(decode), tmp_path)
    load(source(decode, **changes), tmp_path)
    assert decode.count == 2 * NUM


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def extend(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def reshape(path: Path) -> None:
    np.save(path, np.load(path)[1:])


@pytest.mark.parametrize("damage", [truncate, extend, empty, reshape, Path.unlink])
@pytest.mark.parametrize("suffix", [".npy", ".labels.npy"])
def test_damaged_cache_is_built_again(tmp_path: Path, damage, suffix: str, caplog: pytest.LogCaptureFixture):
    if damage is extend and suffix == ".labels.npy":
        pytest.skip("numpy ignores what follows an array")
    load(source(Counted()), tmp_path)
    damage(tmp_path / f"things-{source(Counted()).key()[:16]}{suffix}")
    decode = Counted()
    dataset = load(source(decode), tmp_path)
    assert decode.count == NUM
    assert torch.equal(dataset.images, torch.from_numpy(IMAGES))
    assert "does not match its manifest" in caplog.text


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"{", b'{"version": 0, "key": ""}'], ids=range(5))
def test_damaged_manifest_is_built_again(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture):
    load(source(Counted()), tmp_path)
    next(tmp_path.glob("*.json")).write_bytes(content)
    decode = Counted()
    load(source(decode), tmp_path)
    assert decode.count == NUM
    assert "does not match its manifest" in caplog.text


def test_interrupted_build_leaves_nothing(tmp_path: Path):
    def decode(i: int) -> np.ndarray:
        if i == 70:
            raise KeyboardInterrupt
        return IMAGES[i]

    with pytest.raises(KeyboardInterrupt):
        load(source(decode), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("labels", [LABELS, None], ids=["labels", "none"])
def test_bad_images_leave_no_hole(tmp_path: Path, labels: np.ndarray | None, caplog: pytest.LogCaptureFixture):
    made = source(Counted(bad=(0, 41, 99)), labels=labels)
    with pytest.raises(DataError, match=r"3 of 100 images of somewhere are bad: 0\.png is broken; 41\.png .*=0\.03\."):
        load(made, tmp_path)
    assert made.decode.count == NUM
    dataset = load(made, tmp_path, 0.03)
    assert made.decode.count == NUM  # the failed attempt was not wasted
    good = np.delete(np.arange(NUM), [0, 41, 99])
    assert torch.equal(dataset.images, torch.from_numpy(IMAGES[good]))
    assert dataset.labels is None if labels is None else dataset.labels.tolist() == LABELS[good].tolist()
    assert dataset.fingerprint == fingerprint(IMAGES[good], None if labels is None else LABELS[good])
    assert "3 of 100 images" in caplog.text


def test_two_builds_at_once(tmp_path: Path):
    barrier = threading.Barrier(2)

    def build(results: list) -> None:
        barrier.wait()
        results.append(load(source(Counted()), tmp_path))

    results: list = []
    threads = [threading.Thread(target=build, args=(results,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [torch.equal(dataset.images, torch.from_numpy(IMAGES)) for dataset in results] == [True, True]
    assert len(list(tmp_path.iterdir())) == 3


def test_full_disk_is_noticed_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=NUM))
    decode = Counted()
    with pytest.raises(ConfigError, match=r"The cache of somewhere needs 6 kB"):
        load(source(decode), tmp_path)
    assert decode.count == 0


def test_cache_dir_that_is_a_file(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"dataset\.cache_dir=.*file cannot be written"):
        load(source(Counted()), tmp_path / "file")


def test_fingerprint_covers_pixels_labels_and_shape():
    one = np.zeros((2, 3, 4, 4), np.uint8)
    changed = one.copy()
    changed[1, 2, 3, 3] = 1
    zeros, ones = np.zeros(2, np.int64), np.ones(2, np.int64)
    all_different = [(one, None), (one, zeros), (one, ones), (changed, None), (one.reshape(2, 3, 2, 8), None)]
    assert len({fingerprint(*pair) for pair in all_different}) == 5


def test_progress_without_a_terminal(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    assert list(progress.track(range(3), total=3, what="Decoding x")) == [0, 1, 2]
    captured = capsys.readouterr()
    assert "Decoding x: 3 of 3" in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_progress_in_a_terminal(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(progress, "Console", lambda stderr: Console(stderr=stderr, force_terminal=True, width=120))
    assert list(progress.track(range(3), total=3, what="Decoding x")) == [0, 1, 2]
    assert "images/s" in capsys.readouterr().err


def test_key_is_stable():
    # Guards caches of users: a change here makes everyone decode again and has to raise FORMAT_VERSION.
    made = source(Counted(), listing=[["a.png", 1, 2]])
    assert module.FORMAT_VERSION == 1
    assert made.key() == source(Counted(), listing=[("a.png", 1, 2)]).key()
