"""Threads and processes for work beside the training, also where the system allows no more of them.

Containers limit the number of processes, which counts threads too, and may have a full or read-only /dev/shm, where the
semaphores of processes live. This module does not import torch.
"""

import logging
import multiprocessing
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar, cast

from typing_extensions import override

T = TypeVar("T")

logger = logging.getLogger(__name__)

SECONDS_TO_START = 60.0
"""Time in which all processes must run."""

SECONDS_TO_END = 5.0
"""Time that an executor whose start has failed gets to end its processes."""


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
    """Return an executor whose forked processes run already: `num`, or as many as can be started, with a warning.

    Raises:
        OSError, RuntimeError, TimeoutError: not even two can be started; none is left.
    """
    started, deadline = num, time.monotonic() + SECONDS_TO_START
    while True:
        try:
            pool = _start_processes(started, initializer, initargs, deadline)
        except _TooManyError as failure:
            if failure.fewer < 2:
                raise failure.reason from None
            started, reason = failure.fewer, failure.reason
        else:
            if started < num:
                logger.warning("Only %d of %d processes can be started (%s).", started, num, _describe(reason))
            return pool


def _describe(reason: Exception) -> str:
    return getattr(reason, "strerror", None) or str(reason) or type(reason).__name__


class _TooManyError(Exception):
    """So many processes cannot be started, for this reason; `fewer` is the number to try next."""

    def __init__(self, fewer: int, reason: Exception):
        super().__init__(fewer, reason)
        self.fewer, self.reason = fewer, reason


def _start_processes(
    num: int, initializer: Callable[..., None], initargs: tuple[Any, ...], deadline: float
) -> ProcessPoolExecutor:
    if not can_start_threads(2):  # the executor needs them, and would wait forever without
        raise RuntimeError("can't start new thread")
    reader, writer = os.pipe()
    try:
        pool = ProcessPoolExecutor(
            num,
            multiprocessing.get_context("fork"),
            initializer=_initialize,
            initargs=(reader, writer, initializer, initargs),
        )
        try:
            _wait_until_all_run(pool, num, reader, deadline)
        except (OSError, RuntimeError, TimeoutError) as error:
            forked, died = _kill(pool)
            if isinstance(error, TimeoutError):
                raise
            raise _TooManyError(min(forked, num - max(died, 1)), error) from error
    finally:
        os.close(reader)
        os.close(writer)
    return pool


def _initialize(reader: int, writer: int, initializer: Callable[..., None], initargs: tuple[Any, ...]) -> None:
    initializer(*initargs)
    os.write(writer, b".")
    os.close(reader)
    os.close(writer)


def _wait_until_all_run(pool: ProcessPoolExecutor, num: int, reader: int, deadline: float) -> None:
    first, num_running = pool.submit(os.getpid), 0
    while num_running < num or not first.done():
        # The executor notices that a process has died, but says so only to work that is not done yet.
        manager: Any = pool._executor_manager_thread
        if pool._broken or manager is None or not manager.is_alive():
            raise RuntimeError("one died when it started")
        if time.monotonic() > deadline:
            raise TimeoutError(f"they did not start within {SECONDS_TO_START:.0f} s")
        if select.select([reader], [], [], 0.01)[0] and num_running < num:
            num_running += len(os.read(reader, num))
    first.result()


def _kill(pool: ProcessPoolExecutor) -> tuple[int, int]:
    """End an executor whose start has failed; return its number of processes, and of those that died by themselves."""
    processes, manager = list((pool._processes or {}).values()), cast(Any, pool._executor_manager_thread)
    if pool._broken and manager is not None:
        manager.join(SECONDS_TO_END)  # it ends the other processes, with SIGTERM
    died = sum(process.exitcode not in (None, -signal.SIGTERM) for process in processes)
    for process in processes:
        with suppress(OSError, ValueError):
            process.kill()
            process.join()
    pool.shutdown(wait=False, cancel_futures=True)
    if manager is not None:
        manager.join(SECONDS_TO_END)
    return len(processes), died
