"""hydra/launcher=devices: run the jobs of a sweep in parallel, one process per run, each on its own device.

Hydra looks for plugins only in the package hydra_plugins. This module does not import torch before a sweep starts.
"""

import os
import queue
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from rich.text import Text

from gantrain.command.cli import Task, without
from gantrain.command.folders import has_folder_for_each_run
from gantrain.command.overrides import key_of, quote
from gantrain.console import console
from gantrain.engine.cores import num_cores
from gantrain.errors import ConfigError, GantrainError

SWEEP_KEYS = ("hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper", "hydra.mode")
"""Prefixes of the overrides that configure the sweep, and are not passed to its runs."""


@dataclass(frozen=True)
class Slot:
    """A device, or a share of a device, that runs one run at a time.

    Attributes:
        environment: environment variables that assign the device to a process.
    """

    name: str
    environment: dict[str, str]


class DevicesLauncher(Launcher):
    """Starts one `gantrain` process for each run of a sweep, as soon as a device is free.

    Prints the output of each run with the number of the run as a prefix. The first signal lets every running process
    finish its step and save a checkpoint, and starts no more runs; a second signal ends the processes at once. A run
    that fails or is killed does not stop the others.

    Args:
        devices: "auto" (all GPUs, or the CPU if there is no GPU), a list of GPU numbers, or "cpu".
        runs_per_device: number of runs that share a device; on the CPU they divide its cores.
    """

    def __init__(self, *, devices: str | int | Sequence[int | str], runs_per_device: int):
        if not isinstance(runs_per_device, int) or runs_per_device < 1:
            raise ConfigError(f"hydra.launcher.runs_per_device={runs_per_device}: must be at least 1.")
        self.devices, self.runs_per_device = devices, runs_per_device

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store the config and the task of the sweep."""
        assert isinstance(task_function, Task)
        self.task, self.config = task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs; failed runs are reported as failures of the task.

        Raises:
            ConfigError: a device does not exist.
            SystemExit: a signal was received.
        """
        slots = self.slots()
        free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        for slot in slots:
            free.put(slot)
        jobs = {initial_job_idx + i: list(overrides) for i, overrides in enumerate(job_overrides)}
        sweep = None if has_folder_for_each_run(self.config) else Path(str(self.config.hydra.sweep.dir))

        with Children(wants_traceback=self.task.wants_traceback) as children, ThreadPoolExecutor(len(slots)) as pool:

            def run(number: int, overrides: list[str]) -> int | None:
                slot = free.get()
                try:
                    title = f"\nRun {number} on {slot.name}: {' '.join(overrides)}"
                    folder = None if sweep is None else sweep / str(number)
                    return children.run(number, title, self.command(overrides, folder), slot.environment)
                finally:
                    free.put(slot)

            statuses = dict(zip(jobs, pool.map(run, jobs, jobs.values()), strict=True))

        if children.received is not None:
            num_started = sum(status is not None for status in statuses.values())
            text = f"Stopped by {children.received.name}; {num_started} of {len(jobs)} runs had started. "
            text += "Resume them with the same command"
            text += "" if sweep is None else f" and run_dir={quote(str(sweep))}"
            console.print(text, markup=False, soft_wrap=True)
            raise SystemExit(128 + children.received)
        for number, status in statuses.items():
            if status:
                how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
                run_and_reason = f"run {number} ({' '.join(jobs[number])}) {how}"
                failure = GantrainError(f"{run_and_reason}; see its output, prefixed with [{number}].")
                failure.exit_status = status if status > 0 else 1
                self.task.fail(failure, failure)
        return [
            JobReturn(overrides=jobs[number], status=JobStatus.COMPLETED, _return_value=status)
            for number, status in statuses.items()
        ]

    def command(self, overrides: Sequence[str], folder: Path | None) -> list[str]:
        """Return the command of one run, as a list of words; if `folder` is None, its overrides name its folder."""
        hydra_overrides = [str(override) for override in self.config.hydra.overrides.hydra]
        kept = [o for o in (*hydra_overrides, *overrides) if not o.lstrip("+~").startswith(SWEEP_KEYS)]
        flags = without(self.task.flags, ["-m", "--multirun"])
        if folder is not None:
            kept = [*(override for override in kept if key_of(override) != "run_dir"), f"run_dir={quote(str(folder))}"]
        return [sys.executable, "-m", "gantrain", *flags, *kept]

    def slots(self) -> list[Slot]:
        """Return one slot for each run that can run at the same time."""
        names = self.names()
        if not names:
            threads = str(max(1, num_cores() // self.runs_per_device))
            environment = {} if self.runs_per_device == 1 else {"OMP_NUM_THREADS": threads}
            return [Slot("the CPU", environment)] * self.runs_per_device
        slots = [Slot(f"GPU {name}", {"CUDA_VISIBLE_DEVICES": name}) for name in names]
        return slots * self.runs_per_device

    def names(self) -> list[str]:
        """Return the names of the GPUs as in CUDA_VISIBLE_DEVICES; an empty list means the CPU.

        Raises:
            ConfigError: a GPU does not exist.
        """
        wanted = OmegaConf.to_object(self.devices) if OmegaConf.is_config(self.devices) else self.devices
        if wanted == "cpu" or self.config.runtime.device == "cpu":
            return []
        import torch

        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        available = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
        available = available[: torch.cuda.device_count()]
        if wanted == "auto":
            return available
        names = [str(name) for name in (wanted if isinstance(wanted, list | tuple) else [wanted])]
        if not names or not {*names} <= {*available}:
            raise ConfigError(
                f"hydra.launcher.devices={wanted}: must be auto, cpu or a list of the GPUs of this machine "
                f"({', '.join(available) or 'there are none'})."
            )
        return names


class Children:
    """The processes of the runs; forwards SIGINT, SIGTERM and SIGHUP to them."""

    def __init__(self, *, wants_traceback: bool) -> None:
        self.environment = {"HYDRA_FULL_ERROR": "1" if wants_traceback else ""}
        self.processes: list[subprocess.Popen[str]] = []
        self.received: signal.Signals | None = None
        self.lock = RLock()  # reentrant, because a second signal can interrupt the handler of the first

    def __enter__(self) -> "Children":
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        self.previous = {s: signal.signal(s, self.forward) for s in signals if signal.getsignal(s) != signal.SIG_IGN}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self.previous.items():
            signal.signal(signum, handler)

    def forward(self, signum: int, _: Any) -> None:
        """Send a signal to every running process."""
        with self.lock:
            self.received = self.received or signal.Signals(signum)
            for process in self.processes:
                if process.poll() is None:
                    process.send_signal(signum)

    def run(self, number: int, title: str, command: Sequence[str], environment: dict[str, str]) -> int | None:
        """Start a run, print its output and wait; return its exit status, or None if a signal came before the start."""
        prefix = f"[{number}] "
        common = self.environment | {"COLUMNS": str(max(40, console.width - len(prefix)))}
        with self.lock:
            if self.received is not None:
                return None
            console.print(title, style="bold", markup=False, soft_wrap=True)
            # In a process group of its own; otherwise Ctrl-C would reach it twice, from the terminal and from forward.
            process = subprocess.Popen(
                command,
                env=os.environ | common | environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                process_group=0,
            )
            self.processes.append(process)
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip():
                console.print(Text(prefix, "dim") + Text(line.rstrip()), soft_wrap=True)
        return process.wait()
