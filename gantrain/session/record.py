"""Write run.json, the record of a run."""

import json
import platform
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch
from typing_extensions import override

from gantrain.callbacks.base import Callback
from gantrain.datasets.base import Dataset
from gantrain.evaluation.receipts import Receipt, differ
from gantrain.files import atomic_write
from gantrain.session.run import Run
from gantrain.train import TrainState


class Record(Callback):
    """Write run.json: what the run is, how far it has got, and how it ended. The file is always complete.

    Every run has this callback; the config cannot remove it.
    """

    SECONDS_BETWEEN_WRITES = 10.0

    name = "run.json"

    def __init__(
        self, run: Run, choices: dict[str, Any], *, reasons: Sequence[str] = (), earlier: dict[str, Any] | None = None
    ):
        self.run, self.choices = run, choices
        self.last: dict[str, float] = {}
        self.best: dict[str, dict[str, float]] = {}
        self.first: dict[str, dict[str, float]] = {}
        self.best_receipts: dict[str, Receipt] = {}
        self.earlier = earlier or {}
        self.reasons = list(reasons) or self.earlier.get("reasons", [])
        self.first_started = str(self.earlier.get("started") or timestamp(run.started))
        history = self.earlier.get("history")
        self.history: list[Any] = list(history) if isinstance(history, list) else []
        self.written = 0.0
        self.git = git_state()

    @override
    def scalars(self, state: TrainState, scalars: dict[str, float]) -> None:
        self.last |= scalars
        for name, sign in self.run.better.items():
            tag = f"metric/{name}"
            if tag in scalars:
                self.compare_with_best(tag, scalars[tag], sign)
        if time.monotonic() - self.written > self.SECONDS_BETWEEN_WRITES:
            self.write("running")

    def compare_with_best(self, tag: str, value: float, sign: int) -> None:
        """Keep the value if it is the best so far, or if the best so far was measured by another protocol."""
        receipt, best = self.run.receipts.get(tag), self.best.get(tag)
        is_other = best is None or differ(self.best_receipts.get(tag), receipt)
        if is_other or tag not in self.first:
            self.first[tag] = {"value": value, "step": self.run.state.step}
        if is_other or best is None or sign * value > sign * best["value"]:
            self.best[tag] = {"value": value, "step": self.run.state.step}
            if receipt is not None:
                self.best_receipts[tag] = receipt

    @override
    def rewind(self, state: TrainState) -> None:
        survives = self.run.survives_rewind
        self.first = {tag: first for tag, first in self.first.items() if survives(int(first["step"]), tag)}

    @override
    def survives_rewind(self, step: int) -> bool:
        return True

    @override
    def state_dict(self) -> dict[str, Any]:
        best = {tag: dict(best) for tag, best in self.best.items()}
        receipts = {"receipts": dict(self.run.receipts), "best_receipts": dict(self.best_receipts)}
        findings = [dict(finding) for finding in self.run.findings]
        first = {tag: dict(first) for tag, first in self.first.items()}
        return {"last": dict(self.last), "best": best, "first": first, **receipts, "findings": findings}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.last, self.best = dict(state.get("last", {})), dict(state.get("best", {}))
        self.first = dict(state.get("first", {}))
        self.run.receipts = dict(state.get("receipts", {}))
        self.best_receipts = dict(state.get("best_receipts", {}))
        self.run.findings = [dict(finding) for finding in state.get("findings", [])]

    def add_event(self, event: str, **facts: object) -> None:
        """Add an event, "resumed" or "rolled back", to the history of the run."""
        self.history.append({"event": event, "step": self.run.state.step, "time": timestamp(time.time()), **facts})

    def write(self, status: str, error: str | None = None) -> None:
        """Write the record, on rank 0 only; status is running, finished, stopped, diverged or failed."""
        if not self.run.processes.is_main:
            return
        run, state, seconds = self.run, self.run.state, self.run.seconds
        content = {
            "name": run.name,
            "status": status,
            "error": error,
            "command": sys.argv,
            "versions": versions(run.device),
            "git": self.git,
            "host": socket.gethostname(),
            "device": device_name(run.device),
            "precision": run.runtime.precision,
            "acceleration": run.runtime.acceleration,
            "layout": run.runtime.layout,
            "data": run.data_location,
            "threads": run.runtime.threads or torch.get_num_threads(),
            "threads_fixed_by_load": run.runtime.fixed_by_load,
            "processes": run.processes.world_size,
            "seed": run.config.seed,
            "choices": self.choices,
            "reasons": self.reasons,
            "dataset": {
                "name": run.dataset.name,
                "num_images": run.dataset.num_images,
                "image_shape": list(run.dataset.image_shape),
                "fingerprint": run.dataset.fingerprint,
                "held_out": held_out(run.dataset),
            },
            "parameters": {"generator": num_parameters(state.G), "discriminator": num_parameters(state.D)},
            "steps": state.step,
            "steps_planned": run.steps,
            "images_seen": run.images_seen,
            "images_per_second": run.images_seen / seconds,
            "wall_seconds": seconds,
            "metrics": {"last": self.last, "best": self.best, "receipts": run.receipts},
            "wasserstein": run.wasserstein,
            "verdicts": run.findings,
            "history": self.history,
            "started": self.first_started,
            "ended": None if status == "running" else timestamp(time.time()),
        }
        with atomic_write(run.folder / "run.json") as file:
            file.write(json.dumps(content, indent=2).encode() + b"\n")
        self.written = time.monotonic()


def held_out(dataset: Dataset) -> dict[str, Any] | None:
    """Describe the held-out images of a dataset; None if there are none."""
    part = dataset.held_out
    if part is None:
        return None
    return {"split": part.split, "num_images": part.num_images, "fingerprint": part.fingerprint}


def num_parameters(module: torch.nn.Module) -> int:
    """Count the parameters of a module."""
    return sum(p.numel() for p in module.parameters())


def device_name(device: torch.device) -> str:
    """Return the device with its model, for example "cpu" or "cuda (NVIDIA H200)"."""
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def timestamp(seconds: float) -> str:
    """Format a time, in seconds since 1970, as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def versions(device: torch.device) -> dict[str, str | None]:
    """Return the versions that the results depend on; those of CUDA and the driver are None without a GPU."""
    on_gpu = device.type == "cuda"
    return {
        "gantrain": version("gantrain"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "cuda": torch.version.cuda if on_gpu else None,
        "driver": driver_version() if on_gpu else None,
    }


def driver_version() -> str | None:
    """Return the version of the NVIDIA driver, or None if it cannot be read."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.partition("\n")[0] or None


def git_state() -> dict[str, Any] | None:
    """Return the commit of the working directory and whether files differ from it; None outside a repository."""

    def git(*arguments: str) -> str:
        # The config of a repository may name a program for fsmonitor, which git would run.
        command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout

    try:
        commit = git("rev-parse", "HEAD").strip()
        return {"commit": commit, "dirty": bool(git("status", "--porcelain", "--untracked-files=no").strip())}
    except (OSError, subprocess.SubprocessError):
        return None
