"""Save the state, so that nothing is lost but the steps since."""

import math
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from gantrain.callbacks.base import Callback
from gantrain.engine.finite import all_finite
from gantrain.errors import ConfigError
from gantrain.files import require_space
from gantrain.session import checkpoint
from gantrain.session.checkpoint import Content, map_tensors, tensors
from gantrain.session.divergence import diverged
from gantrain.session.run import Run
from gantrain.train import TrainState

RESERVE_BYTES = 50_000_000
"""For what a run writes besides checkpoints."""


class Checkpoint(Callback):
    """Every `checkpoint.every` steps and at the end a checkpoint, of which the last `checkpoint.keep` are kept.

    Besides, if asked: every `checkpoint.keep_every`-th step's for good, and in best.pt that with the best value of the
    metric `checkpoint.best`. The training waits only while the state is copied on its own device; a thread brings it to
    the host, checks that it is finite, and writes it. A run that diverged or failed leaves the ones before.
    """

    order = 1

    def __init__(self, *, every: int, keep: int, keep_every: int | None, best: str | None):
        self.every, self.keep, self.keep_every, self.metric = every, keep, keep_every, best
        self.best: dict[str, Any] = {}

    @override
    def check(self, run: Run) -> None:
        # One more than are kept, for the oldest goes when the newest is whole.
        num = self.keep + 1 + (self.metric is not None)
        held = sum(path.stat().st_size for path in run.folder.glob("checkpoints/*.pt"))  # those of earlier parts
        needed = max(0, num * estimate_bytes(run.state) - held) + RESERVE_BYTES
        require_space(run.folder, needed, f"A run with checkpoint.keep={self.keep}")
        metrics = [tag for metric in run.metrics.values() for tag in metric.better]
        if self.metric is not None and self.metric not in metrics:
            raise ConfigError(
                f"checkpoint.best={self.metric}: must be a number of the metrics in use "
                f"({', '.join(metrics) or 'there are none: add for example metric=[moments]'})."
            )

    @override
    def start(self, run: Run) -> None:
        self.folder = run.folder / "checkpoints"
        self.folder.mkdir(exist_ok=True)
        self.saved_at: int | None = None
        self.is_best = False
        checkpoint.require_plain(checkpoint.capture(run))
        self.writer = ThreadPoolExecutor(1, "checkpoint")
        self.writing: Future[None] | None = None

    @override
    def begin(self, state: TrainState) -> None:
        if self.run.config.on_divergence == "rollback":
            self.save(state)

    @override
    def rewind(self, state: TrainState) -> None:
        self.saved_at, self.is_best = state.step, False
        for path in checkpoint.paths(self.run.folder):  # those that are damaged
            if checkpoint.step_of(path) > state.step:
                path.replace(path.with_suffix(".pt.damaged"))

    @override
    def scalars(self, state: TrainState, scalars: dict[str, float]) -> None:
        value = scalars.get(f"metric/{self.metric}", math.nan)
        sign = 1 if self.metric is None else self.run.better.get(self.metric, 1)
        if self.best.get("metric") != self.metric:
            self.best = {}
        if not math.isnan(value) and (not self.best or sign * value > sign * self.best["value"]):
            self.best, self.is_best = {"metric": self.metric, "value": value}, True

    @override
    def __call__(self, state: TrainState, logs: object) -> None:
        if self.writing is not None and self.writing.done():
            self.wait()  # raises what kept it from being written
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
                raise  # else the run has failed already, and the error that ended it is the one to be told
        finally:
            self.writer.shutdown()

    @override
    def state_dict(self) -> dict[str, Any]:
        return dict(self.best)

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = dict(state)

    def save(self, state: TrainState, *, regular: bool = True) -> None:
        """Copy the state and have it written: to a file of its own, to best.pt, or to both.

        Raises:
            OSError, DivergedError: of the checkpoint before.
        """
        self.wait()
        # The best first: the other one says that it is there.
        names = ["best.pt"] * self.is_best + [f"step_{state.step:08d}.pt"] * regular
        host = copy_aside(checkpoint.capture(self.run), self.run.device)
        self.writing = self.writer.submit(self.write, host, names)
        self.is_best = False
        if regular:
            self.saved_at = state.step

    def wait(self) -> None:
        """Wait until the checkpoint that is being written is whole.

        Raises:
            OSError: it could not be written.
            DivergedError: a number in it is not finite any more; the checkpoints before stay.
        """
        writing, self.writing = self.writing, None
        if writing is not None:
            writing.result()

    def write(self, host: Callable[[], Content], names: list[str]) -> None:
        """Write the checkpoint once everything else of its step is in its files, then delete what is too old."""
        content = host()
        for name, tensor in tensors(content):
            if tensor.is_floating_point() and not all_finite(tensor):
                raise diverged(self.run, content["step"], f"{name} holds numbers that are not finite")
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


def copy_aside(content: Content, device: torch.device) -> Callable[[], Content]:
    """Copy all tensors where they are, and return what brings the copies to the host.

    On a GPU the copy within its memory takes less than a step, and the way to the host runs beside the training, on a
    stream of its own, in the thread that asks for it.
    """
    copies = map_tensors(lambda tensor: tensor.detach().clone(), content)
    if device.type != "cuda":
        return lambda: map_tensors(Tensor.cpu, copies)
    copied = torch.cuda.current_stream(device).record_event()
    waiting = [copies]
    del copies  # so that the memory is free again as soon as the host has them

    def host() -> Content:
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_event(copied)
        with torch.cuda.stream(stream):
            on_host: Content = map_tensors(Tensor.cpu, waiting.pop())
        return on_host

    return host


def estimate_bytes(state: TrainState) -> int:
    """Estimate a checkpoint's size: the networks, and two moments of every parameter for the optimizers."""
    networks = [state.G, state.D] + ([] if state.G_ema is None else [state.G_ema])
    moments = 2 * sum(_num_bytes(module.parameters()) for module in (state.G, state.D))
    return moments + sum(_num_bytes(module.state_dict().values()) for module in networks)


def _num_bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
