"""hydra/launcher=devices: the runs of a sweep side by side, a process each, on devices of their own.

Hydra takes its plugins from this package alone. Nothing here imports torch before a sweep begins.
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
from gantrain.command.overrides import key_of, quote
from gantrain.console import console
from gantrain.engine.cores import num_cores
from gantrain.errors import ConfigError, GantrainError

OF_THE_SWEEP = ("hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper", "hydra.mode")
"""Overrides that a single run of it does not take."""


@dataclass(frozen=True)
class Slot:
    """Where one run at a time goes: a device, or a part of one.

    Attributes:
        environment: what tells its process so.
    """

    name: str
    environment: dict[str, str]


class DevicesLauncher(Launcher):
    """Starts `gantrain` once for each run, as a person would, as soon as a device is free.

    What a run says is printed behind its number. The first signal lets every run finish its step and save, and begins
    no others; a second one ends them at once. Killed runs and refused ones do not keep the others from going on.

    Args:
        devices: "auto" for all GPUs, or for the CPU where there is none; numbers of GPUs; or "cpu".
        runs_per_device: how many share a device; those on a CPU share its cores.
    """

    def __init__(self, *, devices: str | int | Sequence[int | str], runs_per_device: int):
        if not isinstance(runs_per_device, int) or runs_per_device < 1:
            raise ConfigError(f"hydra.launcher.runs_per_device={runs_per_device}: must be at least 1.")
        self.devices, self.runs_per_device = devices, runs_per_device

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take in the config of the sweep."""
        assert isinstance(task_function, Task)
        self.task, self.config = task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run them all; what failed becomes a failure of the task.

        Raises:
            ConfigError: the devices are not there.
            SystemExit: a signal came.
        """
        slots = self.slots()
        free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        for slot in slots:
            free.put(slot)
        jobs = {initial_job_idx + i: list(overrides) for i, overrides in enumerate(job_overrides)}
        sweep = Path(str(self.config.hydra.sweep.dir))

        with Children(wants_traceback=self.task.wants_traceback) as children, ThreadPoolExecutor(len(slots)) as pool:

            def run(number: int, overrides: list[str]) -> int | None:
                slot = free.get()
                try:
                    said = f"\nRun {number} on {slot.name}: {' '.join(overrides)}"
                    return children.run(number, said, self.command(overrides, sweep / str(number)), slot.environment)
                finally:
                    free.put(slot)

            statuses = dict(zip(jobs, pool.map(run, jobs, jobs.values()), strict=True))

        if children.received is not None:
            begun = sum(status is not None for status in statuses.values())
            text = f"Stopped by {children.received.name}; {begun} of {len(jobs)} runs had begun. "
            text += f"The same command goes on with them: run_dir={quote(str(sweep))}"
            console.print(text, markup=False, soft_wrap=True)
            raise SystemExit(128 + children.received)
        for number, status in statuses.items():
            if status:
                how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
                what = f"run {number} ({' '.join(jobs[number])}) {how}"
                failure = GantrainError(f"{what}; what it said stands behind [{number}].")
                failure.exit_status = status if status > 0 else 1
                self.task.fail(failure, failure)
        return [
            JobReturn(overrides=jobs[number], status=JobStatus.COMPLETED, _return_value=status)
            for number, status in statuses.items()
        ]

    def command(self, overrides: Sequence[str], folder: Path) -> list[str]:
        """Write the command of one run."""
        of_hydra = [str(override) for override in self.config.hydra.overrides.hydra]
        own = [override for override in (*of_hydra, *overrides) if not override.lstrip("+~").startswith(OF_THE_SWEEP)]
        own = [override for override in own if key_of(override) != "run_dir"]
        flags = without(self.task.flags, ["-m", "--multirun"])
        return [sys.executable, "-m", "gantrain", *flags, *own, f"run_dir={quote(str(folder))}"]

    def slots(self) -> list[Slot]:
        """List the slots where runs can go at the same time."""
        names = self.names()
        if not names:
            threads = str(max(1, num_cores() // self.runs_per_device))
            environment = {} if self.runs_per_device == 1 else {"OMP_NUM_THREADS": threads}
            return [Slot("the CPU", environment)] * self.runs_per_device
        slots = [Slot(f"GPU {name}", {"CUDA_VISIBLE_DEVICES": name}) for name in names]
        return slots * self.runs_per_device

    def names(self) -> list[str]:
        """List the GPUs by what CUDA_VISIBLE_DEVICES calls them; none: the CPU.

        Raises:
            ConfigError: one of them is not there.
        """
        wanted = OmegaConf.to_object(self.devices) if OmegaConf.is_config(self.devices) else self.devices
        if wanted == "cpu" or self.config.runtime.device == "cpu":
            return []
        import torch

        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        there = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
        there = there[: torch.cuda.device_count()]
        if wanted == "auto":
            return there
        some = [str(name) for name in (wanted if isinstance(wanted, list | tuple) else [wanted])]
        if not some or not {*some} <= {*there}:
            raise ConfigError(
                f"hydra.launcher.devices={wanted}: must be auto, cpu or a list of the GPUs that are here "
                f"({', '.join(there) or 'there are none'})."
            )
        return some


class Children:
    """The processes of the runs, which get every signal that this one gets."""

    def __init__(self, *, wants_traceback: bool) -> None:
        self.told = {"HYDRA_FULL_ERROR": "1" if wants_traceback else ""}
        self.processes: list[subprocess.Popen[str]] = []
        self.received: signal.Signals | None = None
        self.lock = RLock()  # the handler may come upon itself

    def __enter__(self) -> "Children":
        wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        self.previous = {s: signal.signal(s, self.forward) for s in wanted if signal.getsignal(s) != signal.SIG_IGN}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self.previous.items():
            signal.signal(signum, handler)

    def forward(self, signum: int, _: Any) -> None:
        """Hand a signal to all."""
        with self.lock:
            self.received = self.received or signal.Signals(signum)
            for process in self.processes:
                if process.poll() is None:
                    process.send_signal(signum)

    def run(self, number: int, title: str, command: Sequence[str], environment: dict[str, str]) -> int | None:
        """Run one and print what it says behind its number; return its status, None if it was not begun."""
        prefix = f"[{number}] "
        told = self.told | {"COLUMNS": str(max(40, console.width - len(prefix)))}
        with self.lock:
            if self.received is not None:
                return None
            console.print(title, style="bold", markup=False, soft_wrap=True)
            # In a group of its own: the terminal would send Ctrl-C to it, and so would forward.
            process = subprocess.Popen(
                command,
                env=os.environ | told | environment,
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
