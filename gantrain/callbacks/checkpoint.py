"""Save checkpoints of the run."""

import logging
import math
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from gantrain.callbacks.base import Callback
from gantrain.engine.finite import all_finite
from gantrain.engine.workers import thread_pool
from gantrain.errors import ConfigError
from gantrain.evaluation.receipts import differ
from gantrain.files import require_space
from gantrain.session import checkpoint
from gantrain.session.checkpoint import Content, map_tensors, tensors
from gantrain.session.divergence import diverged
from gantrain.session.run import Run
from gantrain.session.snapshot import capture
from gantrain.train import TrainState

logger = logging.getLogger(__name__)

RESERVE_BYTES = 50_000_000
"""Disk space for the other files of a run."""


class Checkpoint(Callback):
    """Save a checkpoint every `checkpoint.every` steps and at the end, and keep the last `checkpoint.keep`.

    Optionally, the checkpoint of every `checkpoint.keep_every`-th step is never deleted, and the checkpoint with the
    best value of the metric `checkpoint.best` is also saved as best.pt. Training waits only while the state is copied
    on its own device; a thread copies it to the host, checks that it is finite, and writes it. At the end of a run that
    diverged or failed no checkpoint is saved.
    """

    order = 1

    def __init__(self, *, every: int, keep: int, keep_every: int | None, best: str | None):
        self.every, self.keep, self.keep_every, self.metric = every, keep, keep_every, best
        self.best: dict[str, Any] = {}

    @override
    def check(self, run: Run) -> None:
        # One more than are kept, because the oldest is deleted after the newest is complete.
        num = self.keep + 1 + (self.metric is not None)
        existing = sum(path.stat().st_size for path in run.folder.glob("checkpoints/*.pt"))  # of a run that is resumed
        needed = max(0, num * estimate_bytes(run.state) - existing) + RESERVE_BYTES
        require_space(run.folder, needed, f"A run with checkpoint.keep={self.keep}")
        metrics = list(run.better)
        if self.metric is not None and self.metric not in metrics:
            raise ConfigError(
                f"checkpoint.best={self.metric}: must be a value of the metrics in use "
                f"({', '.join(metrics) or 'there are none; add one, for example metric=[moments]'})."
            )

    @override
    def start(self, run: Run) -> None:
        self.folder = run.folder / "checkpoints"
        self.folder.mkdir(exist_ok=True)
        self.saved_at: int | None = None
        self.is_best = False
        checkpoint.require_serializable(capture(run))
        self.writer = thread_pool(1, "checkpoint")
        self.writing: Future[None] | None = None

    @override
    def begin(self, state: TrainState) -> None:
        if self.run.config.on_divergence == "rollback":
            self.save(state)

    @override
    def rewind(self, state: TrainState) -> None:
        self.saved_at, self.is_best = state.step, False
        for path in checkpoint.paths(self.run.folder):  # later checkpoints are damaged, or would have been used
            if checkpoint.step_of(path) > state.step:
                path.replace(path.with_suffix(".pt.damaged"))

    @override
    def scalars(self, state: TrainState, scalars: dict[str, float]) -> None:
        value = scalars.get(f"metric/{self.metric}", math.nan)
        sign = 1 if self.metric is None else self.run.better.get(self.metric, 1)
        if self.best.get("metric") != self.metric:
            self.best = {}
        if math.isnan(value):
            return
        receipt = self.run.receipts.get(f"metric/{self.metric}")
        if reason := differ(self.best.get("receipt"), receipt):
            self.set_best_aside(reason)
        if not self.best or sign * value > sign * self.best["value"]:
            self.best, self.is_best = {"metric": self.metric, "value": value, "step": state.step}, True
            if receipt is not None:
                self.best["receipt"] = receipt

    def set_best_aside(self, reason: str) -> None:
        """Rename best.pt, because its value cannot be compared with later ones, and look for the best from here on."""
        path, step = self.folder / "best.pt", self.best.get("step", 0)
        aside = path.with_name(f"best_at_{step}.pt")
        self.wait()
        if path.exists():
            path.replace(aside)
        logger.warning(
            "checkpoint.best=%s: values from before and after this start cannot be compared, because %s. The best so "
            "far is now %s.",
            *(self.metric, reason, aside),
        )
        self.best = {}

    @override
    def __call__(self, state: TrainState, logs: object) -> None:
        if self.writing is not None and self.writing.done():
            self.wait()  # raises the error if the writing has failed
        due = self.is_due(state.step) or (self.keep_every is not None and state.step % self.keep_every == 0)
        if due or self.is_best:
            self.save(state, regular=due)

    @override
    def finish(self, state: TrainState, status: str) -> None:
        try:
            if status in ("finished", "stopped") and state.step != self.saved_at:
                self.save(state)
            self.wait()
        except Exception:
            if status in ("finished", "stopped"):
                raise  # otherwise the run has failed already, and the error that ended it is reported
        finally:
            self.writer.shutdown()

    @override
    def state_dict(self) -> dict[str, Any]:
        return dict(self.best)

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = dict(state)

    def save(self, state: TrainState, *, regular: bool = True) -> None:
        """Copy the state, and start to write it in the background: to best.pt if it is the best, and to step_*.pt.

        Args:
            regular: whether to write step_*.pt.

        Raises:
            OSError, DivergedError: the previous checkpoint could not be written, or was not finite.
        """
        self.wait()
        # best.pt first: the state in step_*.pt contains the best value, so best.pt must exist by then.
        names = ["best.pt"] * self.is_best + [f"step_{state.step:08d}.pt"] * regular
        host = copy_on_device(capture(self.run), self.run.device)
        self.writing = self.writer.submit(self.write, host, names)
        self.is_best = False
        if regular:
            self.saved_at = state.step

    def wait(self) -> None:
        """Wait until the checkpoint that is being written is complete.

        Raises:
            OSError: it could not be written.
            DivergedError: a tensor is not finite; the checkpoint was not written, and the previous ones are kept.
        """
        writing, self.writing = self.writing, None
        if writing is not None:
            writing.result()

    def write(self, host: Callable[[], Content], names: list[str]) -> None:
        """Flush the other files of the run, write the checkpoint, then delete old ones; runs in the thread.

        Raises:
            OSError: a file could not be written.
            DivergedError: a tensor is not finite.
        """
        content = host()
        for name, tensor in tensors(content):
            if tensor.is_floating_point() and not all_finite(tensor):
                raise diverged(self.run, content["step"], f"{name} contains NaN or Inf")
        for listener in self.run.listeners:
            listener.flush()
        for name in names:
            checkpoint.write(self.folder / name, content)
        every = self.keep_every
        regular = [
            p
            for p in checkpoint.paths(self.run.folder)
            if not (every and (n := checkpoint.step_of(p)) and n % every == 0)
        ]
        for path in regular[: -self.keep]:
            path.unlink()


def copy_on_device(content: Content, device: torch.device) -> Callable[[], Content]:
    """Copy all tensors on their device, and return a function that copies the copies to the host.

    On a GPU the copy on the device takes less than a step. The transfer to the host runs in parallel with the training,
    on another stream, in the thread that calls the returned function. Call it only once.
    """
    copies = map_tensors(lambda tensor: tensor.detach().clone(), content)
    if device.type != "cuda":
        return lambda: map_tensors(Tensor.cpu, copies)
    copied = torch.cuda.current_stream(device).record_event()
    on_device = [copies]
    del copies  # so that host() holds the last reference, and the device memory is free after the transfer

    def host() -> Content:
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_event(copied)
        with torch.cuda.stream(stream):
            on_host: Content = map_tensors(Tensor.cpu, on_device.pop())
        return on_host

    return host


def estimate_bytes(state: TrainState) -> int:
    """Estimate the size of a checkpoint: the networks, and two moments for each parameter."""
    networks = [state.G, state.D] + ([] if state.G_ema is None else [state.G_ema])
    moments = 2 * sum(_num_bytes(module.parameters()) for module in (state.G, state.D))
    return moments + sum(_num_bytes(module.state_dict().values()) for module in networks)


def _num_bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
