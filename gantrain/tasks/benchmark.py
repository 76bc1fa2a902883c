"""task=benchmark: how fast a config trains on this machine, and where the time goes."""

import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from rich.text import Text
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from typing_extensions import override

from gantrain.callbacks.base import Callback
from gantrain.callbacks.checkpoint import Checkpoint
from gantrain.cli import Job
from gantrain.config import Node, check, settle_budget
from gantrain.console import console
from gantrain.datasets.batches import Batches
from gantrain.errors import ConfigError
from gantrain.files import atomic_write, require_new_file
from gantrain.processes import require_alone
from gantrain.run import Run, device_name
from gantrain.runtime import EAGER_CALLS, Runtime
from gantrain.tasks.train import Training, assemble, settled
from gantrain.train import Observations, TrainState, Update

INTERVALS = ("log_every", "sample_every", "evaluate_every", "checkpoint.every")
WARMUP_STEPS = EAGER_CALLS + 1  # in the last of which updates are captured, where they are
DEFAULT_STEPS = 30
PARTS = ("data", "critic", "generator", "rest")
WAITING = "waiting"
"""The lap that counts for nothing."""


def benchmark(job: Job) -> None:
    """Train for `steps` steps (30 unless given) after a warm-up, in a folder that is removed, and say what they took.

    What happens only now and then (a logged row, a grid, a checkpoint) is made to happen several times, and counts by
    its own interval. A critic's warm-up is left out. `output` names a .json file for the figures.

    Raises:
        ConfigError: there are too few steps to measure, or the output exists already.
    """
    require_alone("task=benchmark")
    config = settle_budget(job.config, job.typed)
    output = config["output"]
    if output is not None:
        if Path(output).suffix != ".json":
            raise ConfigError(f"output={output}: the name must end in .json.")
        require_new_file(Path(output), "output")
    config = config | {"output": None, "init_from": None}
    check(config)
    steps = config["steps"] if any(typed.startswith("steps=") for typed in job.typed) else DEFAULT_STEPS
    if steps < 3:
        raise ConfigError(f"steps={steps}: a benchmark needs at least 3; {DEFAULT_STEPS} are made without it.")
    with tempfile.TemporaryDirectory(prefix="gantrain-") as folder:
        figures = measure(replace(job, folder=Path(folder)), config, steps)
    console.print(table(figures))
    if output is not None:
        with atomic_write(Path(output)) as file:
            file.write(json.dumps(figures, indent=2).encode() + b"\n")


def measure(job: Job, config: Node, steps: int, close: Callable[["Clock"], None] | None = None) -> dict[str, Any]:
    """Measure a config: seconds a step and their parts, images a second, memory and FLOP/s.

    Args:
        close: called at the end of each step.
    """
    often = max(1, steps // 4)
    wanted = {name: _lookup(config, name) for name in INTERVALS}
    busy = config | {
        **{name: min(often, wanted[name]) for name in INTERVALS[:-1]},
        "checkpoint": config["checkpoint"] | {"every": min(often, wanted["checkpoint.every"])},
        "steps": 1 + WARMUP_STEPS + steps,  # one in which operations are counted
        "epochs": None,
        "critic_warmup": None,  # few steps of many: it would be all that is measured
    }
    training = assemble(job, busy)
    run = training.run
    run.check()
    products = count_products(training)
    if run.device.type == "cuda":  # else the memory of those eager updates would count beside that of the graphs
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(run.device)
    clock = Clock(run.device)
    run.start()
    callbacks = [TimedCallback(callback, clock, run) for callback in run.callbacks]
    timed_run = replace(run, runtime=TimedRuntime(clock=clock, **vars(run.runtime)))
    timed = replace(training, run=timed_run, batches=TimedBatches(training.batches, clock))
    with settled():
        timed([*callbacks, Laps(clock, close)])
    run.finish("failed")  # no last grids and curves: they do not belong to a step

    taken = {step: laps for step, laps in clock.steps().items() if step > 1 + WARMUP_STEPS}
    parts = {part: statistics.median(laps[part] for laps in taken.values()) for part in PARTS}
    by_callback = {timed.callback.name: timed.seconds_a_step(taken, wanted) for timed in callbacks}
    parts["callbacks"] = sum(by_callback.values())
    seconds = sum(parts.values())
    images = config["n_critic"] * config["batch_size"] / seconds
    peak = torch.cuda.max_memory_reserved(run.device) if run.device.type == "cuda" else peak_resident_bytes()
    rates = {dtype: product_rate(run.device, dtype) for dtype in {product.dtype for product in products}}
    bandwidth = copy_rate(run.device)
    flops = sum(product.flops for product in products)
    return {
        "name": job.name,
        "device": device_name(run.device),
        "runtime": str(run.runtime),
        "threads": run.runtime.threads or torch.get_num_threads(),
        "torch": torch.__version__,
        "batch_size": config["batch_size"],
        "steps": steps,
        "seconds_per_step": seconds,
        "median_step": statistics.median(sum(laps.values()) - laps[WAITING] for laps in taken.values()),
        "images_per_second": images,
        "parts": parts,
        "callbacks": by_callback,
        "peak_bytes": peak,
        "flops_per_step": flops,
        "flops_per_second": flops / seconds,
        "matrix_product_flops_per_second": {str(dtype).removeprefix("torch."): rate for dtype, rate in rates.items()},
        "copied_bytes_per_second": bandwidth,
        "share_of_ceiling": sum(p.flops / rates[p.dtype] for p in products) / seconds,
        "floor_seconds": sum(max(p.flops / rates[p.dtype], p.num_bytes / bandwidth) for p in products),
    }


class Clock:
    """Laps of a step, by what they went to: "data", a player, "rest", or a callback.

    On a GPU they are taken on the device's own time line, so that nothing waits for it but who asks for the laps: host
    and device go side by side as they do without a clock, and what the device waited for the host is the host's lap.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.marks: list[tuple[str, Any]] = [("", self.now())]
        self.ended: dict[int, list[tuple[str, Any]]] = {}

    def now(self) -> Any:
        """A moment: of the device where it has a time line, else of the host."""
        if self.device.type != "cuda":
            return time.perf_counter()
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.device))
        return event

    def between(self, start: Any, end: Any) -> float:
        """Seconds between two moments; those of a device must be over."""
        return float(end - start) if self.device.type != "cuda" else float(start.elapsed_time(end)) / 1e3

    def lap(self, name: str) -> None:
        """Give the time since the last lap to `name`."""
        self.marks.append((name, self.now()))

    def end_step(self, step: int) -> None:
        """Close a step."""
        self.lap("rest")
        self.ended[step] = self.marks
        self.restart()

    def restart(self) -> None:
        """Begin a step now."""
        self.marks = [("", self.now())]

    def steps(self) -> dict[int, dict[str, float]]:
        """Seconds by lap of each step that is closed; waits for the device."""
        synchronize(self.device)
        laps: dict[int, dict[str, float]] = {}
        for step, marks in self.ended.items():
            laps[step] = defaultdict(float, dict.fromkeys(PARTS, 0.0))
            for (_, start), (name, end) in pairwise(marks):
                laps[step][name] += self.between(start, end)
        return laps


class TimedBatches:
    """Batches whose making is timed."""

    def __init__(self, batches: Batches, clock: Clock):
        self.batches, self.clock, self.batch_size = batches, clock, batches.batch_size

    def __getitem__(self, i: int) -> Tensor:
        """Return the i-th batch."""
        self.clock.lap("rest")
        batch = self.batches[i]
        self.clock.lap("data")
        return batch


@dataclass(frozen=True, kw_only=True)
class TimedRuntime(Runtime):
    """A runtime whose updates are timed, each under the name of its player."""

    clock: Clock

    @override
    def accelerate(self, state: TrainState) -> Callable[[Update], Update]:
        usual = super().accelerate(state)
        return lambda update: self.timed(usual(update), update.__name__.removeprefix("update_"))

    def timed(self, update: Update, player: str) -> Update:
        """Give what the update takes to the player."""

        def timed(*inputs: Tensor | float) -> Observations:
            self.clock.lap("rest")
            made = update(*inputs)
            self.clock.lap(player)
            return made

        return timed


class TimedCallback:
    """A callback whose calls are timed: the usual ones, and those in which it has something to do."""

    def __init__(self, callback: Callback, clock: Clock, run: Run):
        self.callback, self.clock, self.run = callback, clock, run
        self.lap = f"callback {callback.name}"

    def __call__(self, state: TrainState, observations: Observations) -> None:
        """Call it."""
        self.clock.lap("rest")
        self.callback(state, observations)
        takes_a_core = self.run.device.type == "cpu"
        if isinstance(self.callback, Checkpoint) and takes_a_core:
            self.callback.wait()  # its thread takes one from the steps that follow
        self.clock.lap(self.lap)
        if isinstance(self.callback, Checkpoint) and not takes_a_core:
            self.callback.wait()  # as nobody does when it comes as seldom as it is wanted
            self.clock.lap(WAITING)

    def seconds_a_step(self, taken: dict[int, dict[str, float]], wanted: Node) -> float:
        """What it takes on average when everything happens at its wanted interval.

        Args:
            taken: the laps by step.
        """
        intervals = {name: _lookup(self.run.config, name) for name in INTERVALS}
        idle = [laps[self.lap] for step, laps in taken.items() if all(step % every for every in intervals.values())]
        usual = statistics.median(idle) if idle else 0.0
        name = DUE.get(type(self.callback).__name__)
        busy = [laps[self.lap] for step, laps in taken.items() if name and step % intervals[name] == 0]
        return usual + (max(0.0, statistics.median(busy) - usual) / wanted[name] if busy and name else 0.0)


DUE = {"Log": "log_every", "Samples": "sample_every", "Evaluate": "evaluate_every", "Checkpoint": "checkpoint.every"}
"""The interval at which each callback has something to do; the others are called by these."""


@dataclass
class Laps:
    """The last of the callbacks: closes the step."""

    clock: Clock
    close: Callable[[Clock], None] | None = None

    def __call__(self, state: TrainState, observations: Observations) -> None:
        """Close the step."""
        self.clock.end_step(state.step)
        if self.close is not None:
            self.close(self.clock)
            self.clock.restart()


@dataclass(frozen=True)
class Product:
    """A matrix product or convolution.

    Attributes:
        flops: of its multiplications and additions.
        num_bytes: of what it reads and writes.
    """

    dtype: torch.dtype
    flops: int
    num_bytes: int


def count_products(training: Training) -> list[Product]:
    """Make one step and list its matrix products and convolutions, those of a double backward included."""
    run = replace(training.run, steps=1, runtime=replace(training.run.runtime, acceleration="eager"))
    with _Products() as products:
        replace(training, run=run)([])
    found: list[Product] = products.found
    return found


class _Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Applies torch's own table of formulas; its counter by modules does not survive a double backward."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Product] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        formula = flop_registry.get(function.overloadpacket)
        if formula is not None:
            flops = int(formula(*args, **(kwargs or {}), out_val=result))
            tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)]
            self.found.append(Product(tensors[0].dtype, flops, sum(tensor.nbytes for tensor in tensors)))
        return result


def product_rate(device: torch.device, dtype: torch.dtype, size: int | None = None) -> float:
    """Measure what the device reaches in matrix products, in FLOP/s, with the precision that is set now."""
    size = size or (8192 if device.type == "cuda" else 2048)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / shortest(lambda: torch.mm(a, b), device)


def copy_rate(device: torch.device) -> float:
    """Measure how many bytes a second the device reads and writes when it copies what no cache holds."""
    x = torch.zeros(2**28 if device.type == "cuda" else 2**26, device=device)
    held = torch.empty_like(x)
    return 2 * x.nbytes / shortest(lambda: held.copy_(x), device)


def shortest(function: Callable[[], object], device: torch.device) -> float:
    """Measure the shortest of several calls, in seconds, after one to warm up."""

    def seconds() -> float:
        synchronize(device)
        start = time.perf_counter()
        function()
        synchronize(device)
        return time.perf_counter() - start

    seconds()
    return min(seconds() for _ in range(5))


def synchronize(device: torch.device) -> None:
    """Wait for all that was asked of the device."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()


def peak_resident_bytes() -> int:
    """The most memory that this process has had."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def table(figures: dict[str, Any]) -> Table:
    """Lay the figures out for a person."""
    rows = Table.grid(padding=(0, 2))
    parts, seconds = figures["parts"], figures["seconds_per_step"]
    rates = ", ".join(
        f"{rate / 1e9:,.4g} G in {name}" for name, rate in figures["matrix_product_flops_per_second"].items()
    )
    threads = "" if "thread" in figures["runtime"] else f", {figures['threads']} threads"
    lines = {
        "device": f"{figures['device']}, {figures['runtime']}{threads}, torch {figures['torch']}",
        "speed": f"{figures['images_per_second']:,.0f} images/s, {1e3 * seconds:.4g} ms a step",
        **{name: f"{1e3 * part:.3g} ms ({part / seconds:.0%})" for name, part in parts.items()},
        "memory": f"{figures['peak_bytes'] / 1e6:,.0f} MB at most",
        "FLOP/s": f"{figures['flops_per_second'] / 1e9:,.4g} G, {figures['flops_per_step'] / 1e9:,.4g} G a step",
        "ceiling": f"{rates} matrix products, of which this is {figures['share_of_ceiling']:.0%}",
        "floor": f"{1e3 * figures['floor_seconds']:.4g} ms a step for the products alone, each at that rate or at "
        f"{figures['copied_bytes_per_second'] / 1e9:,.4g} GB/s",
    }
    for name, value in lines.items():
        rows.add_row(Text(name, style="bold"), Text(value))
    return rows


def _lookup(config: Node, name: str) -> int:
    node: Any = config
    for part in name.split("."):
        node = node[part]
    return int(node)
