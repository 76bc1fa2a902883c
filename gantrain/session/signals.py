"""End a run after the current step when a signal comes; on all ranks at the same step."""

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from gantrain.engine.distributed import SINGLE, Processes
from gantrain.train import TrainState
from gantrain.updates import Logs


class Stopped(Exception):
    """A signal asked the run to end after the current step."""


class RolledBack(Exception):
    """Rank 0 rolls the run back to the last checkpoint."""


ROLL_BACK = 1000
"""What rank 0 sends in place of a signal's number when it rolls back."""


class StopOnSignal:
    """Turn the first SIGINT, SIGTERM or SIGHUP into the end of the current step; a second one ends the process at once.

    Several processes agree on the step. SIGUSR1 and SIGUSR2 are taken where somebody else has a handler for them, for
    example a cluster's launcher that requeues the run: the handler is called when the run is saved, and such a signal
    does not count as a second one.

    Args:
        before_exit: called before a second signal ends the process.
    """

    def __init__(self, processes: Processes = SINGLE, before_exit: Callable[[], None] = lambda: None):
        self.processes, self.before_exit = processes, before_exit
        self.received: int | None = None

    def __enter__(self) -> "StopOnSignal":
        # Python allows handlers in the main thread alone; elsewhere the caller's own handlers stay.
        on_main = threading.current_thread() is threading.main_thread()
        # nohup has SIGHUP ignored, and so it stays.
        wanted = [
            s
            for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            if on_main and signal.getsignal(s) != signal.SIG_IGN
        ]
        own = {s: signal.getsignal(s) for s in (signal.SIGUSR1, signal.SIGUSR2) if on_main}
        self.forwarded = {int(s): handler for s, handler in own.items() if callable(handler)}
        self.previous = {s: signal.signal(s, self.handle) for s in (*wanted, *self.forwarded)}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self.previous.items():
            signal.signal(signum, handler)

    def handle(self, signum: int, _: FrameType | None) -> None:
        """Remember the signal until the step is done; exit at the second one."""
        if self.received is None or signum in self.forwarded:
            is_first, self.received = self.received is None, signum
            if is_first:
                # Not through the console, which this signal may have interrupted.
                self.write("\nFinishing the step and saving; press Ctrl-C again to stop at once.\n")
            return
        with suppress(Exception):
            self.before_exit()
        self.write("Stopped at once; the last checkpoint is complete.\n")
        os._exit(128 + signum)

    def forward(self) -> None:
        """Call the handler that somebody else has for the signal."""
        if self.received in self.forwarded:
            self.forwarded[self.received](self.received, None)

    def write(self, text: str) -> None:
        """Write to the terminal, on rank 0; the terminal may be closed."""
        if self.processes.is_main:
            with suppress(OSError):
                os.write(2, text.encode())

    def __call__(self, state: TrainState, logs: Logs) -> None:
        """End the run after this step if a signal came to any rank.

        Raises:
            Stopped: a signal came.
            RolledBack: rank 0 is rolling the run back.
        """
        received = self.processes.all_reduce_max(self.received or 0)
        if received == ROLL_BACK:
            raise RolledBack
        if received:
            self.received = received
            raise Stopped
