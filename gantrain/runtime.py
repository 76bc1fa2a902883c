"""How the arithmetic is run: in which precision and layout, eagerly or as captured graphs. What is computed stays.

Every choice has a name in conf/runtime, and where one is not to be had, the reason is logged and the plain way taken.
"""

import gc
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.utils._pytree import tree_leaves

from gantrain.config import Node
from gantrain.errors import ConfigError
from gantrain.regularizers.base import Regularizer
from gantrain.train import Observations, TrainState, Update

logger = logging.getLogger(__name__)

PrecisionName = Literal["float32", "tf32", "bf16"]
AccelerationName = Literal["eager", "graph"]
LayoutName = Literal["contiguous", "channels_last"]

TINY_PASS_MULTIPLY_ADDS = 1_000_000
"""Of a network over a batch, below which several CPU threads lose more by waiting for each other than they gain."""

EAGER_CALLS = 3
"""Updates that run eagerly before one is captured: libraries and optimizers set themselves up in them."""


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """The choices as they are, after "auto" and what could not be had.

    Attributes:
        precision: float32 (products too), tf32 (numbers are float32, but products round them to 10 bits of mantissa, as
            torch's own convolutions do unless told otherwise), or bf16 (networks under autocast; penalties and losses
            as in tf32).
        acceleration: graph replays each player's update as one CUDA graph.
        layout: of the networks' weights, which their convolutions pass on to what they make.
        threads: that compute on a CPU; None: as many as torch takes by itself.
    """

    device: torch.device
    precision: PrecisionName = "float32"
    acceleration: AccelerationName = "eager"
    layout: LayoutName = "contiguous"
    threads: int | None = None

    def prepare(self, state: TrainState) -> None:
        """Lay out the networks, set the precision of products, and make the optimizers fit to be captured."""
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.precision != "float32"
        if self.layout == "channels_last":
            for network in (state.G, state.D, state.G_ema):
                if network is not None:
                    network.to(memory_format=torch.channels_last)
        if self.acceleration == "graph":
            # The updates before a capture are eager by intent.
            warnings.filterwarnings("ignore", ".*capturable=True.*running without CUDA graph capture", UserWarning)
            for optimizer in (state.G_optimizer, state.D_optimizer):
                for group in optimizer.param_groups:
                    if "capturable" in group:
                        group["capturable"] = True

    @contextmanager
    def threaded(self) -> Iterator[None]:
        """Compute with so many threads while the block runs."""
        usual = torch.get_num_threads()
        torch.set_num_threads(self.threads or usual)
        try:
            yield
        finally:
            torch.set_num_threads(usual)

    def run(self, network: nn.Module) -> Callable[[Tensor], Tensor]:
        """Return the network as it is to be called; what it makes is float32 in any case."""
        if self.precision != "bf16":
            return network

        def in_bf16(x: Tensor) -> Tensor:
            with torch.autocast(self.device.type, torch.bfloat16):
                made: Tensor = network(x)
            return made.float()

        return in_bf16

    def accelerate(self, state: TrainState) -> Callable[[Update], Update]:
        """Return what makes of an update of the state what is to be called."""
        if self.acceleration != "graph":
            return lambda update: update
        return partial(Captured, device=self.device, optimizers=(state.G_optimizer, state.D_optimizer), failures=[])

    def __str__(self) -> str:
        parts = {self.precision: "", "graph": "CUDA graphs", "channels_last": "channels last"}
        taken = [parts[name] for name in (self.acceleration, self.layout) if name in parts]
        if self.threads is not None:
            taken.append(f"{self.threads} thread{'s' * (self.threads > 1)}")
        return ", ".join([self.precision, *taken])


def choose(
    wanted: Node,
    device: torch.device,
    state: TrainState,
    parts: Iterable[object],
    *,
    batch_size: int,
    num_processes: int = 1,
) -> Runtime:
    """Settle the options of `runtime`: what "auto" stands for, and what cannot be had.

    On a GPU, auto is bf16 and channels_last for networks with convolutions, float32 for others, whose vectors need its
    digits and whose products are too small to gain; and captured graphs, unless a part is the user's own code, which
    could do other things from step to step. On a CPU these are all slower, and auto is plain; tiny networks are left to
    one thread there.

    Args:
        parts: what else takes part in a step: the loss, the regularizers, the latent, the callbacks.
        batch_size: of this process.
        num_processes: that make a step together.

    Raises:
        ConfigError: an option is not one of its names.
    """
    kinds = {"precision": PrecisionName, "acceleration": AccelerationName, "layout": LayoutName}
    names = {name: _name(wanted, name, kind) for name, kind in kinds.items()}
    fast, convolves = device.type == "cuda", _convolves(state)
    precision, acceleration, layout = names["precision"], names["acceleration"], names["layout"]
    if precision == "auto":
        precision = "bf16" if fast and convolves and _without("bf16", device) is None else "float32"
    elif (reason := _without(precision, device)) is not None:
        precision = _fall_back("precision", precision, "float32", reason)
    if layout == "auto":
        layout = "channels_last" if fast and convolves else "contiguous"
    if acceleration != "eager" and (fast or acceleration == "graph"):
        optimizers = (state.G_optimizer, state.D_optimizer)
        name = own_code([state.G, state.D, *optimizers, *parts]) if acceleration == "auto" else None
        own = name and (
            f"{name} is code of your own, by which one update may do other things than the next; if all do the same, "
            "say runtime.acceleration=graph"
        )
        reason = _uncapturable(device, optimizers, parts, num_processes) or own
        acceleration = "graph" if reason is None else _fall_back("acceleration", "graph", "eager", reason)
    elif acceleration == "auto":
        acceleration = "eager"
    threads = wanted["threads"]
    if threads == "auto":
        # A pass takes at least a multiply-add a weight and sample.
        largest = max(sum(p.numel() for p in network.parameters()) for network in (state.G, state.D))
        is_tiny = not convolves and batch_size * largest < TINY_PASS_MULTIPLY_ADDS
        threads = 1 if device.type == "cpu" and is_tiny else None
    elif not isinstance(threads, int) or isinstance(threads, bool) or threads < 1:
        raise ConfigError(f"runtime.threads={threads}: must be auto, or a whole number, at least 1.")
    return Runtime(device=device, precision=precision, acceleration=acceleration, layout=layout, threads=threads)


def _name(wanted: Node, option: str, kind: Any) -> Any:
    names = ("auto", *get_args(kind))
    if wanted[option] not in names:
        raise ConfigError(f"runtime.{option}={wanted[option]}: must be one of {', '.join(names)}.")
    return wanted[option]


def _fall_back(option: str, name: str, instead: Any, reason: str) -> Any:
    logger.warning("runtime.%s=%s cannot be had: %s. It is %s instead.", option, name, reason, instead)
    return instead


def _without(precision: str, device: torch.device) -> str | None:
    if precision == "bf16" and not (
        device.type == "cpu" or (device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False))
    ):
        return f"{device} has no bf16"
    if precision == "tf32" and not (device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)):
        return f"{device} has no tf32"
    return None


def _uncapturable(
    device: torch.device, optimizers: Iterable[Optimizer], parts: Iterable[object], num_processes: int
) -> str | None:
    if device.type != "cuda":
        return f"CUDA graphs need a CUDA device, and this is {device}"
    if num_processes > 1:
        return f"the {num_processes} processes talk to each other within an update"
    for optimizer in optimizers:
        # Those without the option count their steps on the host, where a replay does not count; SGD counts none.
        if not isinstance(optimizer, SGD) and "capturable" not in optimizer.defaults:
            return f"the optimizer {type(optimizer).__name__} cannot be captured"
    for part in parts:
        # What it remembers as a number it changes in Python, as a penalty at every 16th update counts them.
        if isinstance(part, Regularizer) and any(isinstance(x, int | float) for x in tree_leaves(part.state_dict())):
            return f"{type(part).__name__} remembers numbers, which a replay would not change"
    return None


def own_code(parts: Iterable[object]) -> str | None:
    """Name the first of the parts, or of their modules, that is neither gantrain's nor torch's; None: there is none."""
    pieces = (p for part in parts for p in (part.modules() if isinstance(part, nn.Module) else [part]))
    for piece in pieces:
        if str(getattr(piece, "__module__", "")).partition(".")[0] not in ("gantrain", "torch"):
            return str(getattr(piece, "__name__", type(piece).__name__))
    return None


def _convolves(state: TrainState) -> bool:
    return any(isinstance(m, nn.modules.conv._ConvNd) for network in (state.G, state.D) for m in network.modules())


class Captured:
    """An update that runs eagerly a few times, is then recorded as a CUDA graph, and replayed from there on.

    The eager calls are updates like any other, so that no step is made twice or lost, and take the same tensors as the
    replays, so that a resumed run, which begins with them, comes to the same bits. What a replay returns is overwritten
    by the next one. When a setting of an optimizer changes, which is a constant in the graph, all this begins anew,
    with twice as many eager calls where the graph was of little use.

    Args:
        failures: the reason why a capture failed, once one has; the updates that share the list are eager from there
            on, those that were captured too: the random numbers of their graphs could no longer be seeded.
    """

    def __init__(self, update: Update, *, device: torch.device, optimizers: Sequence[Optimizer], failures: list[str]):
        self.update, self.device, self.optimizers, self.failures = update, device, optimizers, failures
        self.player = getattr(update, "__name__", "update").removeprefix("update_")
        self.calls, self.eager_calls = 0, EAGER_CALLS
        self.settings: list[dict[str, Any]] = []
        self.inputs: list[Tensor] = []
        self.recorded: tuple[Callable[[], None], Observations] | None = None

    def __call__(self, *inputs: Tensor | float) -> Observations:
        """Make the update, whichever way."""
        if not self.inputs:
            self.inputs = [torch.zeros_like(torch.as_tensor(x, device=self.device)) for x in inputs]
        for held, x in zip(self.inputs, inputs, strict=True):
            held.copy_(x) if isinstance(x, Tensor) else held.fill_(x)
        if self.failures:
            self.recorded = None
            return self.run()
        if (settings := _settings(self.optimizers)) != self.settings:
            if self.recorded is not None:
                was_worth_it = self.calls > 10 * self.eager_calls
                self.eager_calls = EAGER_CALLS if was_worth_it else 2 * self.eager_calls
            self.calls, self.settings, self.recorded = 0, settings, None
        if self.calls == self.eager_calls:
            self.capture()
        self.calls += 1
        if self.recorded is not None:
            replay, made = self.recorded
            replay()
            return made
        return self.run() if self.failures else on_side_stream(self.run, self.device)

    def run(self) -> Observations:
        """Make the update operation by operation."""
        return self.update(*self.inputs)

    def capture(self) -> None:
        """Record the update, without making it; or say why that failed."""
        try:
            self.recorded = record(self.run, self.device)
        except Exception as error:
            cause: BaseException = error
            while cause.__context__ is not None:  # what ends the capture complains last, and says nothing
                cause = cause.__context__
            self.failures.append(" ".join(str(cause).split()) or type(cause).__name__)
            logger.warning(
                "The %s's update could not be captured as a CUDA graph, and all stay eager: %s",
                *(self.player, self.failures[-1]),
            )


def _settings(optimizers: Iterable[Optimizer]) -> list[dict[str, Any]]:
    """What is a constant in a captured step; of a tensor, which it is that the step reads."""
    return [
        {name: id(value) if isinstance(value, Tensor) else value for name, value in group.items() if name != "params"}
        for optimizer in optimizers
        for group in optimizer.param_groups
    ]


@cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream on which updates run before and while they are captured: one, for memory is kept by stream."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def on_side_stream(function: Callable[[], Observations], device: torch.device) -> Observations:
    """Call the function on the side stream, as what is to be captured must first be run."""
    stream = side_stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        made = function()
    torch.cuda.current_stream(device).wait_stream(stream)
    return made


def record(function: Callable[[], Observations], device: torch.device) -> tuple[Callable[[], None], Observations]:
    """Capture what the function asks of the device; return what replays it, and what it returned.

    Raises:
        Exception: it cannot be captured; all is as it was before.
    """
    stream = side_stream(device)
    graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
    random = torch.cuda.default_generators[stream.device_index]
    random_state = random.get_state()
    collects = gc.isenabled()
    gc.disable()  # an older graph that is found to be garbage now would end the capture as it goes
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", ".*graph is empty", UserWarning)
            # The outer block leaves the stream whatever happens in the inner one. Other threads may go on meanwhile:
            # one may be bringing a checkpoint to the host.
            with (
                torch.cuda.stream(stream),
                torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"),
            ):
                made = function()
    except Exception:
        # What a capture begins and, in torch 2.11, only a good end of it ends: memory of its own, and noise at its own
        # count.
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
    return graph.replay, made


failed_graphs: list[torch.cuda.CUDAGraph] = []
"""Kept, because torch 2.11 still asks them in a later capture."""
