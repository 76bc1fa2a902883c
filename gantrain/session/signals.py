"""Stop a run after the current step when a signal is received, on all ranks at the same step."""

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from gantrain.engine.distributed import SINGLE_PROCESS, Processes
from gantrain.train import TrainState
from gantrain.updates import Logs


class Stopped(Exception):
    """The run stops after the current step, because a signal was received or a verdict ends it."""


class RolledBack(Exception):
    """Rank 0 rolls the run back to the last checkpoint."""


ROLL_BACK = 1000
"""Sent by rank 0 instead of a signal number when it rolls back."""

BY_VERDICT = 999
"""Sent by rank 0 instead of a signal number when a verdict ends the run."""


class StopOnSignal:
    """Stop after the current step on the first SIGINT, SIGTERM or SIGHUP; exit at once on the second.

    All ranks stop after the same step. SIGUSR1 and SIGUSR2 also stop the run, if a handler for them is installed, for
    example that of a cluster launcher that requeues the job. That handler is called once the run is saved, and such a
    signal never counts as a second one.

    If a verdict ends the run after the same step, that is the outcome on all ranks, also on one with a signal. The
    handler of a launcher is then not called, because a job that is requeued would train on.

    Args:
        before_exit: called before a second signal ends the process.
        verdict: returns on rank 0 the verdict that ends the run after this step, or None.
    """

    def __init__(
        self,
        processes: Processes = SINGLE_PROCESS,
        before_exit: Callable[[], None] = lambda: None,
        verdict: Callable[[], str | None] = lambda: None,
    ):
        self.processes, self.before_exit, self.verdict = processes, before_exit, verdict
        self.received: int | None = None
        self.by_verdict = False
        self.known_to_all = False

    def __enter__(self) -> "StopOnSignal":
        # Python can install handlers only in the main thread; in another thread the existing handlers stay.
        on_main = threading.current_thread() is threading.main_thread()
        # An ignored signal stays ignored, such as SIGHUP under nohup.
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
        """Remember the signal until the step is done; exit at once on the second signal."""
        if self.received is None or signum in self.forwarded:
            is_first, self.received = self.received is None, signum
            if is_first:
                # Not through the console: this signal may have interrupted it while it holds its lock.
                self.write("\nFinishing the step and saving; a second Ctrl-C or signal stops at once.\n")
            return
        with suppress(Exception):
            self.before_exit()
        self.write("Stopped at once; checkpoints that were complete are kept.\n")
        os._exit(128 + signum)

    def forward(self) -> None:
        """Call the handler that was installed for the signal before this one."""
        if self.received in self.forwarded:
            self.forwarded[self.received](self.received, None)

    @property
    def ends_command(self) -> bool:
        """Whether a signal was received that ends the command, with all further runs of a sweep."""
        return self.received is not None and self.received not in self.forwarded

    def write(self, text: str) -> None:
        """Write to stderr on rank 0; ignore a closed terminal."""
        if self.processes.is_main:
            with suppress(OSError):
                os.write(2, text.encode())

    def __call__(self, state: TrainState, logs: Logs) -> None:
        """Stop after this step if any rank has received a signal, or if a verdict ends the run.

        Raises:
            Stopped: a rank received a signal, or a verdict ends the run.
            RolledBack: rank 0 rolls the run back.
        """
        received = self.processes.all_reduce_max(BY_VERDICT if self.verdict() is not None else self.received or 0)
        if received == ROLL_BACK:
            raise RolledBack
        if received == BY_VERDICT:
            self.by_verdict = True
            raise Stopped
        if received:
            self.received, self.known_to_all = received, True
            raise Stopped
