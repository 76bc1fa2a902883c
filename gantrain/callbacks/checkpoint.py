"""Save everything that resuming and sampling need, and load it."""

import pickle
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from typing_extensions import override

from gantrain.callbacks.base import Callback
from gantrain.errors import DataError, DivergedError
from gantrain.files import atomic_write, require_space
from gantrain.run import Run
from gantrain.train import TrainState

RESERVE_BYTES = 50_000_000
"""For what a run writes besides checkpoints."""


class Checkpoint(Callback):
    """Every `checkpoint.every` steps and at the end a checkpoint, of which the last `checkpoint.keep` are kept.

    A run that diverged or failed leaves the ones before: the weights of its end are of no use.
    """

    @override
    def check(self, run: Run) -> None:
        # One more than are kept, for the oldest goes when the newest is whole.
        keep = run.config["checkpoint"]["keep"]
        num_bytes = (keep + 1) * estimate_bytes(run.state) + RESERVE_BYTES
        require_space(run.folder, num_bytes, f"A run with checkpoint.keep={keep}")

    @override
    def start(self, run: Run) -> None:
        self.run, self.every, self.keep = run, run.config["checkpoint"]["every"], run.config["checkpoint"]["keep"]
        self.folder = run.folder / "checkpoints"
        self.folder.mkdir(exist_ok=True)
        self.saved_at: int | None = None

    @override
    def __call__(self, state: TrainState, observations: object) -> None:
        if state.step % self.every == 0:
            self.save(state)

    @override
    def finish(self, state: TrainState, status: str) -> None:
        if status in ("finished", "stopped") and state.step != self.saved_at:
            self.save(state)

    def save(self, state: TrainState) -> None:
        """Write a checkpoint, then delete what is older than the last `keep`.

        Raises:
            DivergedError: a weight is no number any more; the checkpoints before stay.
        """
        for network, module in (("G", state.G), ("D", state.D)):
            for name, parameter in module.named_parameters():
                if not parameter.isfinite().all():
                    raise DivergedError(
                        f"{network}.{name} holds numbers that are not finite at step {state.step}: the training has "
                        "diverged, and no checkpoint of it is written; try a lower optimizer.lr."
                    )
        save(self.folder / f"step_{state.step:08d}.pt", self.run)
        self.saved_at = state.step
        for path in _by_step(self.folder)[: -self.keep]:
            path.unlink()


def save(path: Path, run: Run) -> None:
    """Write the run's state to a file that loads without unpickling code."""
    state = run.state
    content = {
        "version": version("gantrain"),
        "step": state.step,
        "batches_seen": state.batches_seen,
        "image_shape": list(run.dataset.image_shape),
        "G": state.G.state_dict(),
        "D": state.D.state_dict(),
        "G_ema": None if state.G_ema is None else state.G_ema.state_dict(),
        "G_optimizer": state.G_optimizer.state_dict(),
        "D_optimizer": state.D_optimizer.state_dict(),
    }
    with atomic_write(path) as file:
        torch.save(content, file)


def load(path: Path, map_location: torch.device | str) -> dict[str, Any]:
    """Read what `save` wrote.

    Raises:
        DataError: there is no such file, or it is no checkpoint.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        missing = sorted({"G", "D", "G_ema", "image_shape", "step"} - content.keys())
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such checkpoint; see what the folder {path.parent} holds.") from error
    except (RuntimeError, EOFError, AttributeError, pickle.UnpicklingError) as error:
        raise DataError(f"{path} is damaged or no checkpoint of gantrain; take another one of its folder.") from error
    if missing:
        raise DataError(f"{path} is no checkpoint of gantrain: it has no {', '.join(missing)}.")
    return content


def latest(folder: Path) -> Path:
    """Find the checkpoint of the most steps in a run's folder.

    Raises:
        DataError: there is none.
    """
    found = _by_step(folder / "checkpoints")
    if not found:
        raise DataError(
            f"{folder} has no checkpoint (checkpoints/step_*.pt). Name the folder of a run that has reached its first: "
            "one is written every checkpoint.every steps and at the end."
        )
    return found[-1]


def _by_step(folder: Path) -> list[Path]:
    return sorted(folder.glob("step_" + "[0-9]" * 8 + ".pt"))


def estimate_bytes(state: TrainState) -> int:
    """Estimate a checkpoint's size: the networks, and two moments of every parameter for the optimizers."""
    networks = [state.G, state.D] + ([] if state.G_ema is None else [state.G_ema])
    moments = 2 * sum(_num_bytes(module.parameters()) for module in (state.G, state.D))
    return moments + sum(_num_bytes(module.state_dict().values()) for module in networks)


def _num_bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
