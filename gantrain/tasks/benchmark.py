"""task=benchmark: measure how fast a config trains on this machine, and where the time goes."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from rich.text import Text

from gantrain.assemble import Training, assemble
from gantrain.budget import choose_budget
from gantrain.config import Config
from gantrain.config_rules import check
from gantrain.console import console
from gantrain.engine.distributed import require_single_process
from gantrain.engine.rates import compare_with_device, peak_bytes, reset_peak_memory
from gantrain.errors import ConfigError
from gantrain.files import atomic_write, require_new_file
from gantrain.session.measuring import count_products, time_steps
from gantrain.session.record import device_name
from gantrain.tasks.job import Job
from gantrain.tasks.train import frozen_gc

DEFAULT_STEPS = 30


def benchmark(job: Job) -> None:
    """Train for `steps` steps (30 by default) after a warm-up, in a temporary folder, and print the speed.

    Work that is done at an interval (logging, grids, checkpoints, lazy penalties) is measured at shorter intervals, and
    its time is divided by the interval of the config. critic_warmup is ignored. `output` names a
    .json file for the results.

    Raises:
        ConfigError: there are too few steps to measure, or the output already exists.
    """
    require_single_process("task=benchmark")
    config = choose_budget(job.config, job.typed)
    output = None if config.output is None else Path(config.output)
    if output is not None:
        if output.suffix != ".json":
            raise ConfigError(f"output={output}: the name must end in .json.")
        require_new_file(output, "output")
    config = replace(config, output=None, init_from=None)
    check(config)
    typed_steps = config.steps if any(typed.startswith("steps=") for typed in job.typed) else None
    steps = DEFAULT_STEPS if typed_steps is None else typed_steps
    if steps < 3:
        raise ConfigError(f"steps={steps}: a benchmark needs at least 3 steps; {DEFAULT_STEPS} is the default.")
    with tempfile.TemporaryDirectory(prefix="gantrain-") as folder:
        figures = measure(replace(job, folder=Path(folder)), config, steps)
    console.print(table(figures))
    if output is not None:
        with atomic_write(output) as file:
            file.write(json.dumps(figures, indent=2).encode() + b"\n")


def measure(job: Job, config: Config, steps: int) -> dict[str, Any]:
    """Measure a config: seconds per step, in total and by part, images per second, memory and FLOP/s."""
    training = prepare(job, config)
    run = training.run
    products = count_products(training)
    reset_peak_memory(run.device)  # exclude the memory of the eager step in count_products
    with frozen_gc():
        timing = time_steps(training, steps)
    seconds = sum(timing.parts.values())
    figures = {
        "name": job.name,
        "device": device_name(run.device),
        "runtime": str(run.runtime),
        "threads": run.runtime.threads or torch.get_num_threads(),
        "torch": torch.__version__,
        "batch_size": config.batch_size,
        "steps": steps,
        "seconds_per_step": seconds,
        "median_step": timing.median_step,
        "images_per_second": config.n_critic * config.batch_size / seconds,
        "parts": timing.parts,
        "callbacks": timing.callbacks,
        "peak_bytes": peak_bytes(run.device),
    }
    return figures | compare_with_device(products, seconds, run.device)


def prepare(job: Job, config: Config) -> Training:
    """Assemble the training without the critic's warm-up, which would dominate the few measured steps."""
    training = assemble(job, replace(config, steps=1, epochs=None, critic_warmup=None))
    training.callbacks.check()
    return training


def table(figures: dict[str, Any]) -> Table:
    """Format the results as a table."""
    rows = Table.grid(padding=(0, 2))
    parts, seconds = figures["parts"], figures["seconds_per_step"]
    rates = ", ".join(
        f"{rate / 1e9:,.4g} GFLOP/s in {name}" for name, rate in figures["matrix_product_flops_per_second"].items()
    )
    threads = "" if "thread" in figures["runtime"] else f", {figures['threads']} threads"
    lines = {
        "device": f"{figures['device']}, {figures['runtime']}{threads}, torch {figures['torch']}",
        "speed": f"{figures['images_per_second']:,.0f} images/s, {1e3 * seconds:.4g} ms/step",
        **{name: f"{1e3 * part:.3g} ms ({part / seconds:.0%})" for name, part in parts.items()},
        "memory": f"{figures['peak_bytes'] / 1e6:,.0f} MB at most",
        "compute": f"{figures['flops_per_second'] / 1e9:,.4g} GFLOP/s "
        f"({figures['flops_per_step'] / 1e9:,.4g} GFLOP per step)",
        "peak": f"{rates}, measured for matrix products; this run reaches {figures['share_of_ceiling']:.0%} of it",
        "roofline": f"at least {1e3 * figures['floor_seconds']:.4g} ms/step: matrix products and convolutions alone, "
        f"at the peak or {figures['copied_bytes_per_second'] / 1e9:,.4g} GB/s",
    }
    for name, value in lines.items():
        rows.add_row(Text(name, style="bold"), Text(value))
    return rows
