"""CUDA graphs: capture an update once and replay it, which saves most of the host's work."""

import gc
import logging
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves, tree_map

from gantrain.datasets.batches import Batch
from gantrain.schedules.base import Clock
from gantrain.updates import Logs, Update

logger = logging.getLogger(__name__)

EAGER_CALLS = 3
"""Eager calls of an update before it is captured, in which libraries and optimizers initialize."""


class CapturedUpdate:
    """An update that runs eagerly a few times, is then captured as a CUDA graph, and is replayed from then on.

    The eager calls are ordinary updates, so no step is repeated or lost. They read the same input tensors as the
    replays, so a resumed run, which starts with eager calls, is bit-exact. The outputs of a replay are
    overwritten by the next one. Settings of an optimizer are constants in a graph: when one changes, the update is
    captured again. If the last graph was replayed only a few times, the number of eager calls before that doubles.

    Args:
        failures: shared by all updates of a run; contains the reason once a capture has failed. From then on all
            updates are eager, including those already captured, whose random numbers could no longer be seeded.
    """

    def __init__(self, update: Update, *, device: torch.device, optimizers: Sequence[Optimizer], failures: list[str]):
        self.update, self.device, self.optimizers, self.failures = update, device, optimizers, failures
        self.name = getattr(update, "__name__", "update")
        self.calls, self.eager_calls = 0, EAGER_CALLS
        self.settings: list[dict[str, Any]] = []
        self.inputs: tuple[Batch | None, Clock] | None = None
        self.graph: tuple[Callable[[], None], Logs] | None = None
        """The function that replays the graph, and the logs that a replay overwrites."""

    def __call__(self, batch: Batch | None, clock: Clock) -> Logs:
        """Run the update, eagerly or by replay."""
        if self.inputs is None:
            self.inputs = tree_map(self.make_input, (batch, clock))
        for static, x in zip(tree_leaves(self.inputs), tree_leaves((batch, clock)), strict=True):
            if x is not None:
                static.copy_(x) if isinstance(x, Tensor) else static.fill_(x)
        if self.failures:
            self.graph = None
            return self.run()
        if (settings := _settings(self.optimizers)) != self.settings:
            if self.graph is not None:
                was_worth_it = self.calls > 10 * self.eager_calls
                self.eager_calls = EAGER_CALLS if was_worth_it else 2 * self.eager_calls
            self.calls, self.settings, self.graph = 0, settings, None
        if self.calls == self.eager_calls:
            self.capture()
        self.calls += 1
        if self.graph is not None:
            replay, logs = self.graph
            replay()
            return logs
        return self.run() if self.failures else on_side_stream(self.run, self.device)

    def make_input(self, x: Any) -> Tensor | None:
        """Allocate the static tensor that captured operations read instead of an input."""
        return None if x is None else torch.zeros_like(torch.as_tensor(x, device=self.device))

    def run(self) -> Logs:
        """Run the update eagerly on the static inputs."""
        assert self.inputs is not None
        return self.update(*self.inputs)

    def capture(self) -> None:
        """Capture the update, without running it; log a warning if that fails."""
        try:
            self.graph = capture_graph(self.run, self.device)
        except Exception as error:
            cause: BaseException = error
            while cause.__context__ is not None:  # the first error is the cause; later ones are about the capture
                cause = cause.__context__
            self.failures.append(" ".join(str(cause).split()) or type(cause).__name__)
            logger.warning(
                "%s could not be captured as a CUDA graph; all updates stay eager: %s",
                *(self.name, self.failures[-1]),
            )


def _settings(optimizers: Iterable[Optimizer]) -> list[dict[str, Any]]:
    """List the settings of the optimizers, which are constants in a graph; tensors by identity: a graph reads them."""
    return [
        {name: tree_map(_identity, value) for name, value in group.items() if name != "params"}
        for optimizer in optimizers
        for group in optimizer.param_groups
    ]


def _identity(value: Any) -> Any:
    return id(value) if isinstance(value, Tensor) else value


@cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream for updates before and during capture; always the same, because memory is cached by stream."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def on_side_stream(function: Callable[[], Logs], device: torch.device) -> Logs:
    """Call the function on the side stream, where an update must run before it is captured."""
    stream = side_stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        logs = function()
    torch.cuda.current_stream(device).wait_stream(stream)
    return logs


def capture_graph(function: Callable[[], Logs], device: torch.device) -> tuple[Callable[[], None], Logs]:
    """Capture the operations of a function as a CUDA graph.

    Returns:
        a function that replays the graph, and the outputs of the captured function.

    Raises:
        Exception: the function cannot be captured; random state and memory are restored.
    """
    stream = side_stream(device)
    graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
    random = torch.cuda.default_generators[stream.device_index]
    random_state = random.get_state()
    collects = gc.isenabled()
    gc.disable()  # freeing an older graph during the capture would invalidate it
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", ".*graph is empty", UserWarning)
            # The outer context restores the stream if the inner one fails. "thread_local" allows another thread to copy
            # a checkpoint to the host during the capture.
            with (
                torch.cuda.stream(stream),
                torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"),
            ):
                logs = function()
    except Exception:
        # If a capture fails, torch 2.11 does not release its memory pool and does not reset the generator's offset.
        with suppress(Exception):
            graph.reset()
        with suppress(Exception):
            torch._C._cuda_endAllocateToPool(stream.device_index, pool)
            torch._C._cuda_releasePool(stream.device_index, pool)
        failed_graphs.append(graph)
        random.graphsafe_set_state(torch.Generator(device))
        random.set_state(random_state)
        raise
    finally:
        if collects:
            gc.enable()
    return graph.replay, logs


failed_graphs: list[torch.cuda.CUDAGraph] = []
"""Graphs whose capture failed; kept alive, because torch 2.11 still refers to them in a later capture."""
