"""Threads and processes for work beside the training, also where the system allows no more of them.

Containers limit the number of processes, which counts threads too, and may have a full or read-only /dev/shm, where the
semaphores of processes live. This module does not import torch.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from typing_extensions import override

T = TypeVar("T")

SECONDS_TO_START = 60.0
"""Time in which a process that was forked must do its first work."""


class InThisThread(Executor):
    """An executor without threads: it does the work when it is submitted."""

    @override
    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        done: Future[T] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as error:
            done.set_exception(error)
        return done


def thread_pool(num: int, name: str) -> Executor:
    """Return an executor whose threads run already: `num`, or as many as can be started; if none can, InThisThread.

    Args:
        name: prefix of the threads' names.
    """
    pool, go, started = ThreadPoolExecutor(num, name), threading.Event(), 0
    try:
        for _ in range(num):
            pool.submit(go.wait)
            started += 1
    except RuntimeError:  # can't start new thread
        pass
    finally:
        go.set()
    if started == num:
        return pool
    pool.shutdown()
    return thread_pool(started, name) if started else InThisThread()


def can_start_threads(num: int) -> bool:
    """Return whether the system allows `num` more threads."""
    pool = thread_pool(num, "probe")
    pool.shutdown()
    return isinstance(pool, ThreadPoolExecutor) and pool._max_workers == num


def process_pool(num: int, initializer: Callable[..., None], initargs: tuple[Any, ...]) -> ProcessPoolExecutor:
    """Return an executor with `num` forked processes that all run already.

    Raises:
        OSError, RuntimeError, TimeoutError: they cannot be started; none is left.
    """
    if not can_start_threads(2):  # the executor needs them, and would wait forever without
        raise RuntimeError("can't start new thread")
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(num, context, initializer=initializer, initargs=initargs)
    try:
        pool.submit(os.getpid).result(SECONDS_TO_START)
    except (OSError, RuntimeError, TimeoutError):
        for process in list((pool._processes or {}).values()):
            with suppress(OSError, ValueError):
                process.kill()
                process.join()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    return pool
