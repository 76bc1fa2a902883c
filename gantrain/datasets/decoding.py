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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from gantrain.cores import num_cores
from gantrain.datasets.images import BadImageError
from gantrain.datasets.untrusted import printable
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
                np.copyto(target, _same_shape(self.decode(i), target))
            except BadImageError as error:
                bad[i] = str(error)
        return bad


def _same_shape(image: UInt8[np.ndarray, "*shape"], place: UInt8[np.ndarray, "c h w"]) -> UInt8[np.ndarray, "c h w"]:
    if image.shape != place.shape:  # which numpy would stretch where it can
        raise ValueError(f"an image was decoded to {list(image.shape)} instead of {list(place.shape)}")
    return image


@contextmanager
def decoding(
    decode: Decode, names: Sequence[str], image_shape: tuple[int, ...], num_workers: int | None
) -> Iterator[Iterator[UInt8[np.ndarray, "c h w"] | BadImageError]]:
    """Decode images while the block runs; yield them in order, each as long as the next is not asked for.

    A bad image comes as the reason. The processes start before the block does, so that no thread of the block's is
    copied in the middle of something.

    Args:
        names: one an image, for messages.
        num_workers: that decode at the same time; None: one a core.

    Raises:
        GantrainError: a worker died.
    """
    num_workers = num_workers or num_cores()
    num_ahead = AHEAD * num_workers
    work = Work(decode, image_shape, num_ahead + 1)
    total = len(names)
    chunks = [range(i, min(i + work.num_a_chunk, total)) for i in range(0, total, work.num_a_chunk)]
    Image.core.set_blocks_max(BLOCKS)  # type: ignore[attr-defined]
    executor, function = workers(work, min(num_workers, len(chunks)))
    pending: deque[tuple[int, range, Future[dict[int, str]]]] = deque()

    def submit(number: int) -> None:
        place = number % (num_ahead + 1)
        pending.append((place, chunks[number], executor.submit(function, place, chunks[number])))

    def results() -> Iterator[UInt8[np.ndarray, "c h w"] | BadImageError]:
        for number in range(num_ahead, num_ahead + len(chunks)):
            if number < len(chunks):
                submit(number)
            yield from _results(work, *pending[0])
            pending.popleft()

    try:
        for number in range(min(num_ahead, len(chunks))):
            submit(number)
        yield results()
    except BrokenProcessPool as error:
        first, last = (printable(names[i]) for i in (pending[0][1][0], pending[-1][1][-1]))
        raise GantrainError(
            f"A process that decodes images died, at one from {first} to {last}. Perhaps memory ran out "
            "(runtime.num_workers=1 takes the least), or one of these files makes the decoder crash."
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all
    for signum in (signal.SIGTERM, signal.SIGHUP):
        if callable(signal.getsignal(signum)):  # nohup has SIGHUP ignored, and so it stays
            signal.signal(signum, signal.SIG_DFL)

    def die_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=die_with_parent, daemon=True).start()


def _do(place: int, indices: range) -> dict[int, str]:
    return _works[0](place, indices)
