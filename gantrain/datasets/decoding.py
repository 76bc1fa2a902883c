"""Decode many images on all cores, in order.

Pillow lets other threads run while it decodes, but not while Python opens, crops and checks, which takes as long: two
threads are hardly faster than one. On Linux processes do it, forked, so that they have all that there is to know. They
put the pixels where this process sees them, and only what is wrong goes through a pipe.
"""

import math
import mmap
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from gantrain.datasets.images import BadImageError
from gantrain.errors import GantrainError

Decode = Callable[[int], UInt8[np.ndarray, "c h w"]]

CHUNK_IMAGES, CHUNK_BYTES = 32, 4_000_000
"""What goes to a worker at a time: handing over single small images costs more than decoding them."""

AHEAD = 2
"""Chunks on their way for each worker. No more, for Ctrl-C waits for all of them."""

BLOCKS = 16
"""Memory that Pillow keeps for the next image. Without it every image's memory is fetched from the system anew, which
takes a fifth of the time."""


class Work:
    """What the workers do: decode chunk after chunk into places that this process sees too."""

    def __init__(self, decode: Decode, image_shape: tuple[int, ...], num_places: int):
        self.decode = decode
        num_bytes = math.prod(image_shape)
        self.num_a_chunk = max(1, min(CHUNK_IMAGES, CHUNK_BYTES // num_bytes))
        shape = (num_places, self.num_a_chunk, *image_shape)
        self.pixels: UInt8[np.ndarray, "p k c h w"] = np.frombuffer(mmap.mmap(-1, math.prod(shape)), np.uint8).reshape(
            shape
        )

    def __call__(self, place: int, indices: range) -> dict[int, str]:
        """Decode images into a place; return what is wrong with which of them."""
        bad: dict[int, str] = {}
        for i, target in zip(indices, self.pixels[place], strict=False):
            try:
                target[...] = self.decode(i)
            except BadImageError as error:
                bad[i] = str(error)
        return bad


def decoded(
    decode: Decode, total: int, image_shape: tuple[int, ...], num_workers: int | None
) -> Generator[UInt8[np.ndarray, "c h w"] | BadImageError, None, None]:
    """Yield images 0 to total - 1, each as long as the next is not asked for, or why it is bad.

    Args:
        num_workers: that decode at the same time; None: one a core.

    Raises:
        GantrainError: a worker was killed.
    """
    num_cores: int = getattr(os, "process_cpu_count", os.cpu_count)() or 1
    num_workers = num_cores if num_workers is None else num_workers
    num_ahead = AHEAD * num_workers
    work = Work(decode, image_shape, num_ahead + 1)
    chunks = [range(i, min(i + work.num_a_chunk, total)) for i in range(0, total, work.num_a_chunk)]
    pending: deque[tuple[int, range, Future[dict[int, str]]]] = deque()
    Image.core.set_blocks_max(BLOCKS)  # type: ignore[attr-defined]
    executor, function = workers(work, min(num_workers, len(chunks)))
    try:
        for number, indices in enumerate(chunks):
            place = number % (num_ahead + 1)
            pending.append((place, indices, executor.submit(function, place, indices)))
            if len(pending) > num_ahead:
                yield from _results(work, *pending.popleft())
        while pending:
            yield from _results(work, *pending.popleft())
    except BrokenProcessPool as error:
        raise GantrainError(
            "A process that decodes images was killed, perhaps because memory ran out; runtime.num_workers=1 takes the "
            "least."
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)
        Image.core.set_blocks_max(0)  # type: ignore[attr-defined]


def _results(
    work: Work, place: int, indices: range, done: "Future[dict[int, str]]"
) -> Iterator[UInt8[np.ndarray, "c h w"] | BadImageError]:
    bad = done.result()
    for i, image in zip(indices, work.pixels[place], strict=False):
        yield BadImageError(bad[i]) if i in bad else image


def workers(work: Work, num: int) -> tuple[Executor, Callable[[int, range], dict[int, str]]]:
    """Start what does the work, and return it with what it is to be asked for."""
    if num == 1 or sys.platform != "linux":  # elsewhere processes that are forked with threads around may hang
        return ThreadPoolExecutor(num, "decode"), work
    context = multiprocessing.get_context("fork")
    return ProcessPoolExecutor(num, context, initializer=_settle, initargs=(work, os.getpid())), _do


_works: list[Work] = []
"""What this process is a worker of."""


def _settle(work: Work, parent: int) -> None:
    _works[:] = [work]
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN if signum == signal.SIGINT else signal.SIG_DFL)  # Ctrl-C goes to all

    def die_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=die_with_parent, daemon=True).start()


def _do(place: int, indices: range) -> dict[int, str]:
    return _works[0](place, indices)
