import errno
import hashlib
import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import Process, server, start
from rich.console import Console

from gantrain.datasets import cache as module
from gantrain.datasets import decoding, progress
from gantrain.datasets.cache import Source, cached, fingerprint
from gantrain.datasets.images import BadImageError
from gantrain.errors import ConfigError, DataError, GantrainError

__all__ = ["server", "start"]

NUM = 100  # several chunks
IMAGES = np.random.default_rng(0).integers(0, 256, (NUM, 3, 5, 4), dtype=np.uint8)
LABELS = np.arange(NUM) % 7


class Counted:
    """Looks images up instead of decoding, counts calls over all processes, and fails for the images in `bad`."""

    def __init__(self, bad: tuple[int, ...] = ()):
        self.calls, self.bad = multiprocessing.Value("i", 0), bad

    @property
    def count(self) -> int:
        return self.calls.value

    def __call__(self, i: int) -> np.ndarray:
        with self.calls.get_lock():
            self.calls.value += 1
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


def test_cache_files_can_be_read_by_numpy(tmp_path: Path):
    load(source(Counted()), tmp_path)
    key = source(Counted()).key()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"things-{key[:16]}.files.gz",
        f"things-{key[:16]}.json",
        f"things-{key[:16]}.npy",
    ]
    np.testing.assert_array_equal(np.load(tmp_path / f"things-{key[:16]}.npy"), IMAGES)
    assert json.loads((tmp_path / f"things-{key[:16]}.json").read_text())["shape"] == [NUM, 3, 5, 4]


@pytest.mark.parametrize("first", ["images", "labels", "fingerprint", "prepare"])
def test_decodes_once_at_first_use(tmp_path: Path, first: str):
    decode = Counted()
    dataset = cached(source(decode), cache_dir=tmp_path / "cache", max_bad_fraction=0.0)
    assert (dataset.name, dataset.num_classes) == ("things", 7)
    assert (dataset.num_images, dataset.image_shape) == (NUM, (3, 5, 4))
    assert decode.count == 0
    assert not (tmp_path / "cache").exists()
    for name in (first, "prepare", "images", "labels", "fingerprint"):
        _ = dataset.prepare() if name == "prepare" else getattr(dataset, name)
    assert decode.count == NUM
    assert torch.equal(dataset.images, torch.from_numpy(IMAGES))


def test_gathered_images_equal_the_mapped_images(tmp_path: Path):
    dataset = load(source(Counted()), tmp_path)
    indices = torch.tensor([99, 0, 7, 7, 50])
    gathered = dataset.gather(indices)
    assert torch.equal(gathered, torch.from_numpy(IMAGES)[indices])
    gathered[...] = 0  # a copy that the caller may change
    assert torch.equal(dataset.images, torch.from_numpy(IMAGES))
    assert dataset.gather(indices[:0]).shape == (0, 3, 5, 4)
    for wrong in (-1, NUM):
        with pytest.raises(IndexError, match=f"image {wrong} of {NUM}"):
            dataset.gather(torch.tensor([wrong]))


def test_a_cache_that_shrinks_is_an_error_and_not_a_crash(tmp_path: Path):
    dataset = load(source(Counted()), tmp_path)
    (path,) = tmp_path.glob("*.npy")
    os.truncate(path, path.stat().st_size - 59)  # one byte of the last image is left
    with pytest.raises(GantrainError, match=rf"The cache {path} can no longer be read \(it is too short now\)"):
        dataset.gather(torch.tensor([NUM - 1]))


def test_the_source_is_released_after_decoding(tmp_path: Path):
    decode = Counted()
    gone = weakref.ref(decode)
    dataset = cached(source(decode), cache_dir=tmp_path, max_bad_fraction=0.0)
    del decode
    assert gone() is not None
    dataset.prepare()
    assert gone() is None


def test_num_images_does_not_count_bad_images(tmp_path: Path):
    dataset = cached(source(Counted(bad=(5, 6))), cache_dir=tmp_path, max_bad_fraction=0.1)
    assert dataset.num_images == NUM
    dataset.prepare()
    assert dataset.num_images == len(dataset.images) == NUM - 2


def test_decoding_fails_again_after_a_failure(tmp_path: Path):
    dataset = cached(source(Counted(bad=(5,))), cache_dir=tmp_path, max_bad_fraction=0.0)
    for _ in range(2):
        with pytest.raises(DataError, match="1 of 100 images"):
            dataset.prepare()


@pytest.mark.filterwarnings("error")
def test_a_cache_larger_than_memory_is_mapped_immediately(tmp_path: Path):
    decode, num_images = Counted(), 2**20
    many = {"names": ["x.png"] * num_images, "listing": [], "labels": None, "num_classes": None}
    made = source(decode, image_shape=(1, 1024, 1024), **many)
    stem = tmp_path / f"things-{made.key()[:16]}"
    with Path(f"{stem}.npy").open("wb") as file:  # 1 TiB, in a sparse file
        module._write_header(file, (num_images, 1, 1024, 1024))
        file.truncate(file.tell() + 2**40)
        stamp = module._file_stamp(file)
    facts = {"version": 2, "key": made.key(), "bad": {}, "fingerprint": "f", "file": stamp}
    Path(f"{stem}.json").write_text(json.dumps(facts))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    dataset = load(made, tmp_path)
    assert dataset.images[-1].sum() == 0
    assert decode.count == 0
    assert dataset.num_images == num_images
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB
    if (maps := Path("/proc/self/maps")).exists():
        assert [line.split()[1] for line in maps.read_text().splitlines() if line.endswith(f"{stem}.npy")] == ["r--s"]


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EACCES])
def test_an_unreadable_cache_is_not_rebuilt(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch):
    load(source(Counted()), tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(np.lib.format, "open_memmap", fail)
    decode = Counted()
    with pytest.raises(DataError, match=rf"things-.*\.npy cannot be read \({os.strerror(number)}\)"):
        load(source(decode), tmp_path)
    assert decode.count == 0


def test_temporary_files_of_killed_processes_are_removed_after_a_day(tmp_path: Path):
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
def test_any_change_of_the_source_decodes_again(tmp_path: Path, changes: dict):
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


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def flip_without_a_trace(path: Path) -> None:
    status = path.stat()
    flip(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def transpose(path: Path) -> None:
    np.save(path, np.asfortranarray(np.load(path)))


def zip_up(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, np.zeros(3))


def objects(path: Path) -> None:
    np.save(path, np.array([{}]))


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES = [truncate, extend, empty, reshape, flip, flip_without_a_trace, transpose, zip_up, objects, Path.unlink]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_rebuilt(tmp_path: Path, damage, caplog: pytest.LogCaptureFixture):
    load(source(Counted()), tmp_path)
    path = tmp_path / f"things-{source(Counted()).key()[:16]}.npy"
    damage(path)
    decode = Counted()
    dataset = load(source(decode), tmp_path)
    assert decode.count == NUM
    assert torch.equal(dataset.images, torch.from_numpy(IMAGES))
    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert f"{path} does not match its manifest" in warning
    load(source(decode), tmp_path)
    assert decode.count == NUM


def test_a_pipe_instead_of_a_cache_does_not_block(tmp_path: Path):
    load(source(Counted()), tmp_path)
    pipe(tmp_path / f"things-{source(Counted()).key()[:16]}.npy")
    with pytest.raises(DataError, match=r"things-.*\.npy cannot be read \(it is not a regular file\)"):
        load(source(Counted()), tmp_path)


def test_a_large_cache_is_verified_once_after_it_was_modified(tmp_path: Path, monkeypatch):
    compared = []
    digest = hashlib.file_digest
    monkeypatch.setattr(module, "VERIFIED_BYTES", IMAGES.nbytes - 1)
    monkeypatch.setattr(hashlib, "file_digest", lambda *args: compared.append(1) or digest(*args))
    decode = Counted()
    load(source(decode), tmp_path)
    assert not compared
    path = tmp_path / f"things-{source(decode).key()[:16]}.npy"
    os.utime(path, (1, 1))
    for _ in range(2):
        dataset = load(source(decode), tmp_path)
        assert torch.equal(dataset.labels, torch.from_numpy(LABELS))
        assert len(compared) == 1
    flip(path)
    assert torch.equal(load(source(decode), tmp_path).images, torch.from_numpy(IMAGES))
    assert (len(compared), decode.count) == (2, 2 * NUM)


def test_a_small_cache_is_verified_at_every_load(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(module, "VERIFIED_BYTES", IMAGES.nbytes)
    load(source(Counted()), tmp_path)
    flip_without_a_trace(tmp_path / f"things-{source(Counted()).key()[:16]}.npy")
    assert torch.equal(load(source(Counted()), tmp_path).images, torch.from_numpy(IMAGES))


def test_changed_labels_rebuild_the_cache(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    load(source(Counted()), tmp_path)
    dataset = load(source(Counted(), labels=LABELS[::-1].copy()), tmp_path)
    assert dataset.labels.tolist() == LABELS[::-1].tolist()
    assert dataset.fingerprint == fingerprint(IMAGES, LABELS[::-1])
    assert "pixels or labels differ" in caplog.text


HOSTILE = {
    "empty": "",
    "no object": "[]",
    "cut": "{",
    "nothing": "{}",
    "nested": "[" * 100_000,
    "no text": b"\xff\xfe\x00",
    "a number": "1" * 5000,
    "NaN": "NaN",
    "other version": {"version": 1},
    "version NaN": {"version": float("nan")},
    "other key": {"key": "x"},
    "key list": {"key": [[]]},
    "fingerprint number": {"fingerprint": 7},
    "fingerprint null": {"fingerprint": None},
    "fingerprint other": {"fingerprint": "0" * 64},
    "bad list": {"bad": ["0.png"]},
    "bad number": {"bad": 3},
    "bad reasons": {"bad": {"0.png": [1]}},
    "bad one": {"bad": {"0.png": "is said to be bad"}},
    "bad all": {"bad": {f"{i}.png": "is said to be bad" for i in range(NUM)}},
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_damaged_manifest_rebuilds_the_cache(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture):
    load(source(Counted()), tmp_path)
    path = next(tmp_path.glob("*.json"))
    hostile = HOSTILE[kind]
    content = json.dumps(json.loads(path.read_text()) | hostile) if isinstance(hostile, dict) else hostile
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    decode = Counted()
    dataset = load(source(decode), tmp_path)
    assert decode.count == NUM
    assert torch.equal(dataset.images, torch.from_numpy(IMAGES))
    assert "does not match its manifest" in caplog.text


@pytest.mark.parametrize("noted", [None, [], {"num_bytes": "many"}, {"num_bytes": 1e999, "mtime_ns": -1}, "x"])
def test_a_wrong_file_stamp_in_the_manifest_is_corrected(tmp_path: Path, noted: object):
    load(source(Counted()), tmp_path)
    path = next(tmp_path.glob("*.json"))
    before = path.read_text()
    path.write_text(json.dumps(json.loads(before) | {"file": noted}))
    decode = Counted()
    assert torch.equal(load(source(decode), tmp_path).images, torch.from_numpy(IMAGES))
    assert (decode.count, path.read_text()) == (0, before)


@pytest.mark.parametrize("num_workers", [1, 2, 7, None])
def test_the_number_of_workers_does_not_change_the_images(tmp_path: Path, num_workers: int | None):
    workers = tmp_path / "workers"
    workers.mkdir()

    def decode(i: int) -> np.ndarray:
        (workers / f"{os.getpid()}-{threading.get_ident()}").touch()
        time.sleep(0.001 * (i % 3))
        if i in (3, 64):
            raise BadImageError("is broken")
        return IMAGES[i]

    dataset = cached(source(decode), cache_dir=tmp_path / "cache", max_bad_fraction=0.5)
    dataset.prepare(num_workers=num_workers)
    good = np.delete(np.arange(NUM), [3, 64])
    assert torch.equal(dataset.images, torch.from_numpy(IMAGES[good]))
    assert dataset.fingerprint == fingerprint(IMAGES[good], LABELS[good])
    assert 1 <= len(list(workers.iterdir())) <= (num_workers or os.cpu_count())
    here = [path for path in workers.iterdir() if path.name.startswith(f"{os.getpid()}-")]
    assert bool(here) == (num_workers == 1 or sys.platform != "linux")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads decode")
def test_a_killed_worker_is_an_error_that_names_the_images(tmp_path: Path):
    def decode(i: int) -> np.ndarray:
        if i == 50:
            os.kill(os.getpid(), signal.SIGKILL)
        return IMAGES[i]

    dataset = cached(source(decode), cache_dir=tmp_path, max_bad_fraction=0.0)
    message = r"A process that decodes images died, at an image between .* and .*runtime\.num_workers=1"
    with pytest.raises(GantrainError, match=message) as raised:
        dataset.prepare(num_workers=2)
    first, last = re.search(r"between (\S+) and (\S+)\.", str(raised.value)).groups()
    names = list(source(decode).names)
    assert names.index(first) <= 50 <= names.index(last)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads decode")
def test_workers_inherit_ignored_signals(tmp_path: Path):
    """Closing a terminal sends SIGHUP to every process; nohup sets it to be ignored."""

    def decode(i: int) -> np.ndarray:
        signal.raise_signal(signal.SIGHUP)
        return IMAGES[i]

    usual = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        dataset = cached(source(decode), cache_dir=tmp_path, max_bad_fraction=0.0)
        dataset.prepare(num_workers=2)
    finally:
        signal.signal(signal.SIGHUP, usual)
    assert torch.equal(dataset.images, torch.from_numpy(IMAGES))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system does not limit cores")
def test_num_cores_respects_the_cpu_affinity(tmp_path: Path):
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    code += "from gantrain.engine.cores import num_cores; print(num_cores())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def test_concurrent_runs_decode_once(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    decode = Counted()

    def slowly(i: int) -> np.ndarray:
        time.sleep(0.01)
        return decode(i)

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(load, source(slowly), tmp_path)
        while not decode.count:
            time.sleep(0.001)
        others = [pool.submit(load, source(slowly), tmp_path) for _ in range(2)]
        for loaded in (first, *others):
            assert torch.equal(loaded.result().images, torch.from_numpy(IMAGES))
    assert decode.count == NUM
    assert {path.suffix for path in tmp_path.iterdir()} == {".gz", ".json", ".npy"}
    assert sum("is decoding into" in line for line in caplog.messages) == 2


def test_an_exception_in_a_worker_is_raised(tmp_path: Path):
    def decode(i: int) -> np.ndarray:
        return IMAGES[i] if i < 50 else 1 / 0  # type: ignore[return-value]

    for num_workers in (1, 2):
        with pytest.raises(ZeroDivisionError):
            cached(source(decode), cache_dir=tmp_path, max_bad_fraction=0.0).prepare(num_workers=num_workers)


ORPHANS = """
import os, sys, time
import numpy as np
from gantrain.datasets.decoding import decoding

def decode(i):
    open(os.path.join(sys.argv[1], str(os.getpid())), "w").close()
    time.sleep(0.01)
    return np.zeros((3, 2, 2), np.uint8)

with decoding(decode, range(10**6), (3, 2, 2), 2) as images:
    for _ in range(100):
        next(images)
    os.kill(os.getpid(), 9)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads decode")
def test_workers_exit_when_their_parent_is_killed(tmp_path: Path):
    subprocess.run([sys.executable, "-c", ORPHANS, str(tmp_path)], check=False)
    workers = [Path("/proc") / path.name for path in tmp_path.iterdir()]
    assert len(workers) == 2
    deadline = time.monotonic() + 20
    while any(worker.exists() for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads decode")
def test_decoding_takes_no_time_in_the_parent_process(tmp_path: Path):
    """If the parent process decoded too, two cores would not be twice as fast as one."""

    def decode(i: int) -> np.ndarray:
        end = time.process_time() + 0.001
        while time.process_time() < end:
            pass
        return IMAGES[i % NUM]

    def spent() -> tuple[float, float]:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time(), children.ru_utime + children.ru_stime

    before = spent()
    with decoding.decoding(decode, [str(i) for i in range(2000)], (3, 5, 4), 2) as images:
        assert sum(1 for _ in images) == 2000
    after = spent()
    mine, theirs = (b - a for a, b in zip(before, after, strict=True))
    assert theirs > 1.8
    assert mine < 0.15 * theirs


FILL = """
import resource
import numpy as np
from pathlib import Path
from gantrain.datasets.cache import Source, cached
from gantrain.errors import GantrainError

folder, side, limit, filler = Path(FOLDER), SIDE, LIMIT, FILLER

def decode(i):
    if filler and i == 50:
        with open(filler, "wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass
    return np.full((3, side, side), i, np.uint8)

names = [f"{i}.png" for i in range(100)]
source = Source("things", "somewhere" * 50, names, names, {}, (3, side, side), None, None, decode)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
try:
    cached(source, cache_dir=folder, max_bad_fraction=0.0).prepare()
except GantrainError as error:
    print(type(error).__name__, error.exit_status, error, flush=True)
raise SystemExit
"""


Fill = Callable[..., str]


@pytest.fixture
def fill(start: Callable[..., Process]) -> Fill:
    """Build a cache in a process with a limit on the size of files, or with a filler that takes all space."""

    def build(folder: Path, *, side: int = 64, limit: int = resource.RLIM_INFINITY, filler: str = "") -> str:
        names = {"FOLDER": str(folder), "SIDE": side, "LIMIT": limit, "FILLER": filler}
        process = start(before="".join(f"{name} = {value!r}\n" for name, value in names.items()) + FILL)
        done = process.wait()
        assert done.status == 0, done.stderr
        return "".join(line for line in process.log.read_text().splitlines() if line.startswith("GantrainError"))

    return build


FULL = r"GantrainError 1 The disk that holds dataset\.cache_dir=.* is full .*dataset\.cache_dir=\.\.\.$"


@pytest.mark.parametrize(("side", "limit"), [(64, 10**6), (1, 500)], ids=["pixels", "manifest"])
def test_a_full_disk_leaves_no_incomplete_cache(tmp_path: Path, fill: Fill, side: int, limit: int):
    cache = tmp_path / "cache"
    load(source(Counted()), cache)
    before = {path.name: path.read_bytes() for path in cache.iterdir()}
    assert re.match(FULL, fill(cache, side=side, limit=limit))
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == before
    assert fill(cache, side=side) == ""
    assert len(list(cache.iterdir())) == 5  # the second cache is not of files


def test_a_full_tmpfs_leaves_no_incomplete_cache(tmp_path: Path, fill: Fill):
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting is not permitted")
    try:
        assert re.match(FULL, fill(disk / "cache", filler=str(disk / "filler")))
        assert not list((disk / "cache").iterdir())
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_an_interrupted_build_leaves_no_files(tmp_path: Path):
    def decode(i: int) -> np.ndarray:
        if i == 70:
            raise KeyboardInterrupt
        return IMAGES[i]

    with pytest.raises(KeyboardInterrupt):
        load(source(decode), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("labels", [LABELS, None], ids=["labels", "none"])
def test_bad_images_are_left_out_of_the_cache(
    tmp_path: Path, labels: np.ndarray | None, caplog: pytest.LogCaptureFixture
):
    made = source(Counted(bad=(0, 41, 99)), labels=labels)
    with pytest.raises(DataError, match=r"3 of 100 images of somewhere are bad: 0\.png is broken; 41\.png .*=0\.03\."):
        load(made, tmp_path)
    assert made.decode.count == NUM
    dataset = load(made, tmp_path, 0.03)
    assert made.decode.count == NUM  # the failed attempt left a usable cache
    good = np.delete(np.arange(NUM), [0, 41, 99])
    assert torch.equal(dataset.images, torch.from_numpy(IMAGES[good]))
    assert dataset.labels is None if labels is None else dataset.labels.tolist() == LABELS[good].tolist()
    assert dataset.fingerprint == fingerprint(IMAGES[good], None if labels is None else LABELS[good])
    assert "3 of 100 images" in caplog.text


def test_concurrent_builds_give_the_same_images(tmp_path: Path):
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


def test_too_little_space_is_an_error_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=NUM))
    decode = Counted()
    with pytest.raises(ConfigError, match=r"The cache of somewhere needs 6 kB"):
        load(source(decode), tmp_path)
    assert decode.count == 0


def test_cache_dir_must_not_be_a_file(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"dataset\.cache_dir=.*file cannot be written"):
        load(source(Counted()), tmp_path / "file")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_read_only_cache_dir_is_an_error_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("gantrain.locks.os.open", refuse)
    decode = Counted()
    with pytest.raises(ConfigError, match=rf"cannot be written \({os.strerror(number)}\)"):
        load(source(decode), tmp_path)
    assert decode.count == 0


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
    monkeypatch.setattr(
        progress, "console", Console(stderr=True, force_terminal=True, force_interactive=True, width=120)
    )
    seen = []
    for i in progress.track(range(3), total=3, what="Decoding x"):
        seen.append(i)
        time.sleep(0.12)  # the bar is drawn ten times per second
    assert seen == [0, 1, 2]
    text = capsys.readouterr().err
    assert "Decoding x" in text
    assert re.search(r"[1-9] images/s", text)
    assert " 0 images/s" not in text


def test_the_key_is_stable():
    # A change of the key makes every user decode again, and must increase FORMAT_VERSION.
    made = source(Counted(), listing=[["a.png", 1, 2]])
    assert module.FORMAT_VERSION == 2
    assert made.key() == source(Counted(), listing=[("a.png", 1, 2)]).key()
