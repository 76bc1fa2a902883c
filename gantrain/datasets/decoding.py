"""Decode many images on all cores, in order.

Pillow releases the GIL while it decodes, but not while Python opens, crops and checks an image, which takes as long:
two threads are hardly faster than one. On Linux the workers are therefore forked processes, which inherit everything
they need to decode. They write pixels into shared memory and send only error messages through a pipe.
"""

import logging
import math
import mmap
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from gantrain.datasets.images import BadImageError
from gantrain.datasets.untrusted import printable
from gantrain.engine.cores import num_cores
from gantrain.engine.workers import process_pool, thread_pool
from gantrain.errors import GantrainError

logger = logging.getLogger(__name__)

Decode = Callable[[int], UInt8[np.ndarray, "c h w"]]

CHUNK_IMAGES, CHUNK_BYTES = 32, 4_000_000
"""Limits of a chunk, the unit of work of a worker: sending small images one by one costs more than decoding them."""

CHUNKS_AHEAD = 2
"""Chunks submitted in advance per worker; no more, because Ctrl-C waits for all of them."""

PILLOW_BLOCKS = 16
"""Memory blocks that Pillow keeps for the next image; allocating them for every image takes a fifth of the time."""


class ChunkDecoder:
    """Decodes chunks of images into slots of memory shared with the workers.

    Attributes:
        pixels: the shared memory, one chunk of images per slot.
        chunk_size: maximum number of images in a chunk.
    """

    def __init__(self, decode: Decode, image_shape: tuple[int, ...], num_slots: int):
        self.decode = decode
        num_bytes = math.prod(image_shape)
        self.chunk_size = max(1, min(CHUNK_IMAGES, CHUNK_BYTES // num_bytes))
        shape = (num_slots, self.chunk_size, *image_shape)
        self.pixels: UInt8[np.ndarray, "s k c h w"] = np.frombuffer(mmap.mmap(-1, math.prod(shape)), np.uint8).reshape(
            shape
        )

    def __call__(self, slot: int, indices: range) -> dict[int, str]:
        """Decode the images with these indices into a slot; return the reason for each bad image, by index."""
        bad: dict[int, str] = {}
        for i, target in zip(indices, self.pixels[slot], strict=False):
            try:
                np.copyto(target, _check_shape(self.decode(i), target))
            except BadImageError as error:
                bad[i] = str(error)
        return bad


def _check_shape(image: UInt8[np.ndarray, "*shape"], target: UInt8[np.ndarray, "c h w"]) -> UInt8[np.ndarray, "c h w"]:
    if image.shape != target.shape:  # numpy would broadcast some wrong shapes silently
        raise ValueError(f"an image was decoded to {list(image.shape)} instead of {list(target.shape)}")
    return image


@contextmanager
def decoding(
    decode: Decode, names: Sequence[str], image_shape: tuple[int, ...], num_workers: int | None
) -> Iterator[Iterator[UInt8[np.ndarray, "c h w"] | BadImageError]]:
    """Start workers that decode images, and yield an iterator over the images in order.

    A bad image is yielded as its BadImageError. An image is only valid until the next one is requested. The workers
    are forked before the block of the `with` statement starts, so that no thread started inside the block can hold a
    lock at the time of the fork.

    Args:
        names: one name per image, for messages.
        num_workers: number of parallel decoders; None: one per core.

    Raises:
        GantrainError: a worker died.
    """
    num_workers = num_workers or num_cores()
    num_ahead = CHUNKS_AHEAD * num_workers
    decoder = ChunkDecoder(decode, image_shape, num_ahead + 1)
    total = len(names)
    chunks = [range(i, min(i + decoder.chunk_size, total)) for i in range(0, total, decoder.chunk_size)]
    Image.core.set_blocks_max(PILLOW_BLOCKS)  # type: ignore[attr-defined]
    executor, function = start_workers(decoder, min(num_workers, len(chunks)))
    pending: deque[tuple[int, range, Future[dict[int, str]]]] = deque()

    def submit(number: int) -> None:
        slot = number % (num_ahead + 1)
        pending.append((slot, chunks[number], executor.submit(function, slot, chunks[number])))

    def results() -> Iterator[UInt8[np.ndarray, "c h w"] | BadImageError]:
        for number in range(num_ahead, num_ahead + len(chunks)):
            if number < len(chunks):
                submit(number)
            yield from _results(decoder, *pending[0])
            pending.popleft()

    try:
        for number in range(min(num_ahead, len(chunks))):
            submit(number)
        yield results()
    except BrokenProcessPool as error:
        first, last = (printable(names[i]) for i in (pending[0][1][0], pending[-1][1][-1]))
        raise GantrainError(
            f"A process that decodes images died, at an image between {first} and {last}. Memory may have run out "
            "(runtime.num_workers=1 needs the least), or one of these files crashes the decoder."
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)
        Image.core.set_blocks_max(0)  # type: ignore[attr-defined]


def _results(
    decoder: ChunkDecoder, slot: int, indices: range, done: "Future[dict[int, str]]"
) -> Iterator[UInt8[np.ndarray, "c h w"] | BadImageError]:
    bad = done.result()
    for i, image in zip(indices, decoder.pixels[slot], strict=False):
        yield BadImageError(bad[i]) if i in bad else image


def start_workers(decoder: ChunkDecoder, num: int) -> tuple[Executor, Callable[[int, range], dict[int, str]]]:
    """Return an executor with `num` workers, and the function to submit to it for each chunk.

    The workers are threads where no processes can be started, for example in a container with a full /dev/shm.
    """
    if num > 1 and sys.platform == "linux":  # on other systems a process forked beside running threads may hang
        try:
            return process_pool(num, _init_worker, (decoder, os.getpid())), _decode_chunk
        except (OSError, RuntimeError, TimeoutError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            logger.warning(
                "%s processes cannot be started (%s: /dev/shm may be full or read-only, or the number of processes "
                "limited); images are decoded in threads, which takes longer.",
                *(num, reason),
            )
    return thread_pool(num, "decode"), decoder


_worker_decoders: list[ChunkDecoder] = []
"""In a worker process: the one decoder that it was forked with."""


def _init_worker(decoder: ChunkDecoder, parent: int) -> None:
    _worker_decoders[:] = [decoder]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the parent shuts the workers down
    for signum in (signal.SIGTERM, signal.SIGHUP):
        if callable(signal.getsignal(signum)):  # a signal that is ignored, such as SIGHUP under nohup, stays ignored
            signal.signal(signum, signal.SIG_DFL)

    def die_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    try:
        threading.Thread(target=die_with_parent, daemon=True).start()
    except RuntimeError:  # the system allows no more threads; a worker without it could outlive its parent
        os._exit(1)


def _decode_chunk(slot: int, indices: range) -> dict[int, str]:
    return _worker_decoders[0](slot, indices)
