"""What a user sees in a container whose /dev/shm is full or read-only, or that allows no more processes or threads."""

import errno
import logging
import multiprocessing.synchronize
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gantrain.datasets.decoding import decoding
from gantrain.engine import workers

NUM = 200


def decode(i: int) -> np.ndarray:
    return np.full((3, 2, 2), i, np.uint8)


def decode_all(num_workers: int) -> np.ndarray:
    with decoding(decode, list(map(str, range(NUM))), (3, 2, 2), num_workers) as images:
        return np.stack([image.copy() for image in images])


@pytest.fixture(autouse=True)
def in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "SECONDS_TO_START", 10.0)


def no_semaphores(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(multiprocessing.synchronize._multiprocessing, "SemLock", refuse)


def limit_processes(monkeypatch: pytest.MonkeyPatch, num: int) -> None:
    fork = os.fork

    def limited() -> int:
        if len(multiprocessing.active_children()) >= num:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return fork()

    monkeypatch.setattr(os, "fork", limited)


def kill_new_processes_beside(monkeypatch: pytest.MonkeyPatch, num: int) -> None:
    """Let each process die when it starts, a little late, while `num` others run: the first answers before that."""
    fork = os.fork

    def limited() -> int:
        is_too_many = len(multiprocessing.active_children()) >= num
        process = fork()
        if process == 0 and is_too_many:
            time.sleep(0.2)
            os._exit(1)
        return process

    monkeypatch.setattr(os, "fork", limited)


def limit_threads(monkeypatch: pytest.MonkeyPatch, num: int) -> None:
    start, before = threading.Thread.start, threading.active_count()

    def limited(thread: threading.Thread) -> None:
        if threading.active_count() - before >= num:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)


def limit_threads_of_children(monkeypatch: pytest.MonkeyPatch) -> None:
    start, parent = threading.Thread.start, os.getpid()

    def limited(thread: threading.Thread) -> None:
        if os.getpid() != parent:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)


LIMITS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "/dev/shm is full": lambda patch: no_semaphores(patch, errno.ENOSPC),
    "/dev/shm is read-only": lambda patch: no_semaphores(patch, errno.EROFS),
    "no process": lambda patch: limit_processes(patch, 0),
    "one process": lambda patch: limit_processes(patch, 1),
    "no thread": lambda patch: limit_threads(patch, 0),
    "one thread": lambda patch: limit_threads(patch, 1),
    "no thread in the processes": lambda patch: limit_threads_of_children(patch),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_images_are_decoded_in_threads_and_it_ends(
    limit: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), monkeypatch.context() as patch:
        LIMITS[limit](patch)
        start = time.monotonic()
        images = decode_all(num_workers=4)
        assert time.monotonic() - start < 60
    assert (images == np.stack([decode(i) for i in range(NUM)])).all()
    assert not multiprocessing.active_children()
    (warning,) = [record.message for record in caplog.records]
    assert "4 processes cannot be started" in warning
    assert "images are decoded in threads" in warning


@pytest.mark.parametrize("limit", [limit_processes, kill_new_processes_beside])
@pytest.mark.parametrize("num", [2, 3])
def test_as_many_processes_decode_as_can_be_started(
    limit: Callable[[pytest.MonkeyPatch, int], None],
    num: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING), monkeypatch.context() as patch:
        limit(patch, num)
        pool = workers.process_pool(5, time.sleep, (0,))
        with pool:
            assert pool.submit(os.getpid).result(10) != os.getpid()
            assert len(multiprocessing.active_children()) == num
        assert (decode_all(num_workers=4) == np.stack([decode(i) for i in range(NUM)])).all()
    assert not multiprocessing.active_children()
    first, second = [record.message for record in caplog.records]
    assert f"Only {num} of 5 processes can be started" in first
    assert f"Only {num} of 4 processes can be started" in second


def test_without_limits_images_are_decoded_in_processes(caplog: pytest.LogCaptureFixture) -> None:
    parent = os.getpid()

    def of_process(i: int) -> np.ndarray:
        return np.full((3, 2, 2), os.getpid() == parent, np.uint8)

    with decoding(of_process, ["a"] * NUM, (3, 2, 2), 2) as images:
        assert not any(image.any() for image in images)
    assert not caplog.records


def test_a_run_in_such_a_container_decodes_trains_and_saves(
    gantrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    draw = np.random.default_rng(0)
    for i in range(40):
        Image.fromarray(draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / f"photos/{i}.png")
    no_semaphores(monkeypatch, errno.ENOSPC)
    limit_threads(monkeypatch, 0)
    result = gantrain(
        *("model=dcgan", "model.generator.width=1", "model.discriminator.width=1", "batch_size=4", "metric=[]"),
        *("dataset=image_folder", "dataset.root=photos", "dataset.image_size=16", "runtime.num_workers=2"),
        *("steps=2", "checkpoint.every=1", "++callback.samples.num=4", "run_dir=out"),
    )
    assert result.status == 0, result.stderr
    assert result.stderr.count("2 processes cannot be started") == 1
    assert "cache_dir" not in result.stderr
    assert (tmp_path / "out/checkpoints/step_00000002.pt").exists()
