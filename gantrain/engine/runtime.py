"""Choose precision, memory layout, CPU threads, and eager execution or CUDA graphs; the algorithm does not change.

The options are in conf/runtime. If one is unavailable, the default for a CPU is used and the reason is logged.
"""

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.utils._pytree import tree_leaves, tree_map

from gantrain.augment.base import Augment
from gantrain.config import RuntimeConfig
from gantrain.engine.graphs import CapturedUpdate
from gantrain.errors import ConfigError
from gantrain.regularizers.base import Regularizer
from gantrain.train import TrainState
from gantrain.updates import Update

logger = logging.getLogger(__name__)

PrecisionName = Literal["float32", "tf32", "bf16"]
AccelerationName = Literal["eager", "graph"]
LayoutName = Literal["contiguous", "channels_last"]

TINY_PASS_MULTIPLY_ADDS = 1_000_000
"""If a forward pass over a batch has fewer multiply-adds, several CPU threads are slower than one."""


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """The options in effect, after "auto" and fallbacks are resolved.

    Attributes:
        precision: float32; tf32 (float32, but matrix products and convolutions round their inputs to 10 bits of
            mantissa, as torch does for convolutions by default); or bf16 (networks under autocast; losses and penalties
            in float32 with TF32 matrix products).
        acceleration: eager, or graph: each player's update is replayed as one CUDA graph.
        layout: memory format of the networks' weights; the outputs of convolutions get the same format.
        threads: number of CPU threads; None: torch's default, which may be adapted to the load of the machine.
        fixed_by_load: whether `threads` is the number that other programs left free when the run started.
    """

    device: torch.device
    precision: PrecisionName = "float32"
    acceleration: AccelerationName = "eager"
    layout: LayoutName = "contiguous"
    threads: int | None = None
    fixed_by_load: bool = False

    @property
    def captures(self) -> bool:
        """Whether updates are captured as CUDA graphs."""
        return self.acceleration == "graph"

    def prepare(self, state: TrainState) -> None:
        """Set the networks' memory format, the precision of matrix products, and the optimizers' capturable option."""
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.precision != "float32"
        if self.layout == "channels_last":
            for network in (state.G, state.D, state.G_ema):
                if network is not None:
                    network.to(memory_format=torch.channels_last)
        if self.acceleration == "graph":
            # The first updates run eagerly on purpose, so this warning would be wrong.
            warnings.filterwarnings("ignore", ".*capturable=True.*running without CUDA graph capture", UserWarning)
            for optimizer in (state.G_optimizer, state.D_optimizer):
                for group in optimizer.param_groups:
                    if "capturable" in group:
                        group["capturable"] = True

    @contextmanager
    def threaded(self) -> Iterator[None]:
        """Set the number of CPU threads while the block runs."""
        previous = torch.get_num_threads()
        torch.set_num_threads(self.threads or previous)
        try:
            yield
        finally:
            torch.set_num_threads(previous)

    def run(self, network: nn.Module) -> Callable[..., Any]:
        """Return a function that calls the network in this precision; its outputs are always float32."""
        if self.precision != "bf16":
            return network

        def in_bf16(*inputs: Tensor, **options: Any) -> Any:
            with torch.autocast(self.device.type, torch.bfloat16):
                outputs = network(*inputs, **options)
            return tree_map(Tensor.float, outputs)

        return in_bf16

    def accelerate(self, state: TrainState) -> Callable[[Update], Update]:
        """Return a function that wraps an update in a CapturedUpdate, or returns it unchanged without CUDA graphs."""
        if self.acceleration != "graph":
            return lambda update: update
        optimizers = (state.G_optimizer, state.D_optimizer)
        return partial(CapturedUpdate, device=self.device, optimizers=optimizers, failures=[])

    def __str__(self) -> str:
        parts = {self.precision: "", "graph": "CUDA graphs", "channels_last": "channels last"}
        taken = [parts[name] for name in (self.acceleration, self.layout) if name in parts]
        if self.threads is not None:
            reason = " (other programs use cores)" if self.fixed_by_load else ""
            taken.append(f"{self.threads} thread{'s' * (self.threads > 1)}{reason}")
        return ", ".join([self.precision, *taken])


def choose(
    wanted: RuntimeConfig,
    device: torch.device,
    state: TrainState,
    parts: Iterable[object],
    *,
    batch_size: int,
    num_processes: int = 1,
) -> Runtime:
    """Resolve the options of `runtime`: replace "auto", and fall back if an option is unavailable.

    On a GPU, auto selects bf16 and channels_last for networks with convolutions. Other networks stay in float32: data
    that are vectors need its precision, and their matrix products are too small to gain. Updates are captured as CUDA
    graphs, unless a part is the user's own code, which may do different operations at each step. On a CPU auto selects
    none of these, because they are slower there; tiny networks run on one thread.

    Args:
        parts: the other parts of a step: the loss, regularizers, augmentations, the latent, callbacks.
        batch_size: rows in one forward pass of this process.
        num_processes: number of processes that train the run.

    Raises:
        ConfigError: an option has an unknown value.
    """
    kinds = {"precision": PrecisionName, "acceleration": AccelerationName, "layout": LayoutName}
    names = {name: _name(wanted, name, kind) for name, kind in kinds.items()}
    is_cuda, convolves = device.type == "cuda", _convolves(state)
    precision, acceleration, layout = names["precision"], names["acceleration"], names["layout"]
    if precision == "auto":
        precision = "bf16" if is_cuda and convolves and _unsupported("bf16", device) is None else "float32"
    elif (reason := _unsupported(precision, device)) is not None:
        precision = _fall_back("precision", precision, "float32", reason)
    if layout == "auto":
        layout = "channels_last" if is_cuda and convolves else "contiguous"
    if acceleration != "eager" and (is_cuda or acceleration == "graph"):
        optimizers = (state.G_optimizer, state.D_optimizer)
        name = find_user_code([state.G, state.D, *optimizers, *parts]) if acceleration == "auto" else None
        user_code = name and (
            f"{name} is your own code, which may run different operations from one update to the next; if it never "
            "does, set runtime.acceleration=graph"
        )
        reason = _uncapturable(device, optimizers, parts, num_processes) or user_code
        acceleration = "graph" if reason is None else _fall_back("acceleration", "graph", "eager", reason)
    elif acceleration == "auto":
        acceleration = "eager"
    threads = wanted.threads
    if threads == "auto":
        # Without convolutions, a forward pass has about one multiply-add for each weight and sample.
        largest = max(sum(p.numel() for p in network.parameters()) for network in (state.G, state.D))
        is_tiny = not convolves and batch_size * largest < TINY_PASS_MULTIPLY_ADDS
        threads = 1 if device.type == "cpu" and is_tiny else None
    elif not isinstance(threads, int) or isinstance(threads, bool) or threads < 1:
        raise ConfigError(f"runtime.threads={threads}: must be auto, or a whole number, at least 1.")
    return Runtime(device=device, precision=precision, acceleration=acceleration, layout=layout, threads=threads)


def _name(wanted: RuntimeConfig, option: str, kind: Any) -> Any:
    names, value = ("auto", *get_args(kind)), getattr(wanted, option)
    if value not in names:
        raise ConfigError(f"runtime.{option}={value}: must be one of {', '.join(names)}.")
    return value


def _fall_back(option: str, name: str, instead: Any, reason: str) -> Any:
    logger.warning("runtime.%s=%s is unavailable (%s); using %s.", option, name, reason, instead)
    return instead


def _unsupported(precision: str, device: torch.device) -> str | None:
    """Return why the device does not support a precision; None if it does."""
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
    """Return why updates cannot be captured as CUDA graphs; None if they can."""
    if device.type != "cuda":
        return f"CUDA graphs need a CUDA device, but this is {device}"
    if num_processes > 1:
        return f"the {num_processes} processes communicate within an update"
    for optimizer in optimizers:
        # Without this option an optimizer counts its steps on the host, and a replay would not. SGD does not count.
        if not isinstance(optimizer, SGD) and "capturable" not in optimizer.defaults:
            return f"the optimizer {type(optimizer).__name__} cannot be captured"
    for part in parts:
        # A replay would not change state in Python numbers.
        part_state = part.state_dict() if isinstance(part, Regularizer | Augment) else {}
        if any(isinstance(x, int | float) for x in tree_leaves(part_state)):
            return f"{type(part).__name__} keeps state in Python numbers, which a replay would not change"
    return None


def find_user_code(parts: Iterable[object]) -> str | None:
    """Return the name of the first part, or submodule, that is not from gantrain or torch; None if there is none."""
    pieces = (p for part in parts for p in (part.modules() if isinstance(part, nn.Module) else [part]))
    for piece in pieces:
        if str(getattr(piece, "__module__", "")).partition(".")[0] not in ("gantrain", "torch"):
            return str(getattr(piece, "__name__", type(piece).__name__))
    return None


def _convolves(state: TrainState) -> bool:
    return any(isinstance(m, nn.modules.conv._ConvNd) for network in (state.G, state.D) for m in network.modules())
