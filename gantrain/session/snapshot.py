"""Capture everything of a run that changes during training, and restore it."""

import logging
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gantrain.config import to_dict
from gantrain.errors import DataError
from gantrain.session.checkpoint import FORMAT, Content
from gantrain.session.run import Run
from gantrain.train import TrainState

logger = logging.getLogger(__name__)


def capture(run: Run) -> Content:
    """Collect the state of the run. Tensors are not copied: training continues to change them."""
    state = run.state
    return {
        "format": FORMAT,
        "version": version("gantrain"),
        "config": to_dict(run.config),
        "overrides": list(run.typed),
        "steps_planned": run.steps,
        "step": state.step,
        "batches_seen": state.batches_seen,
        "rollbacks": state.rollbacks,
        "seconds": run.seconds,
        "image_shape": list(run.dataset.image_shape),
        "fingerprint": run.dataset.fingerprint,
        "G": state.G.state_dict(),
        "D": state.D.state_dict(),
        "G_ema": None if state.G_ema is None else state.G_ema.state_dict(),
        "G_optimizer": state.G_optimizer.state_dict(),
        "D_optimizer": state.D_optimizer.state_dict(),
        "optimizers": {"G": type(state.G_optimizer).__name__, "D": type(state.D_optimizer).__name__},
        "regularizers": {name: part.state_dict() for name, part in run.objective.regularizers.items()},
        "augment": {name: part.state_dict() for name, part in run.objective.augment.items()},
        "lazy_logs": dict(state.lazy_logs),
        "callbacks": {listener.name: listener.state_dict() for listener in run.listeners},
        "intervals": run.intervals(),
        "class_counts": run.class_counts,
        "layout": run.runtime.layout,
        "precision": run.runtime.precision,
    }


def restore(run: Run, content: Content, path: Path) -> None:
    """Load the content of a checkpoint into the run.

    Optimizers keep the options of the config. Their moments are restored, unless their type differs from that
    in the checkpoint. `path` is for messages.

    Raises:
        DataError: the content does not fit the networks, optimizers, regularizers, augmentations or callbacks.
    """
    state = run.state
    try:
        _load_networks(state, content)
        for player, optimizer in (("G", state.G_optimizer), ("D", state.D_optimizer)):
            if content["optimizers"].get(player) == type(optimizer).__name__:
                _load_moments(optimizer, content[f"{player}_optimizer"])
            else:
                logger.warning("The type of %s's optimizer has changed: it starts without moments.", player)
        for name, regularizer in run.objective.regularizers.items():
            regularizer.load_state_dict(content["regularizers"].get(name, {}))
        for name, augment in run.objective.augment.items():
            augment.load_state_dict(content.get("augment", {}).get(name, {}))
        for listener in run.listeners:
            listener.load_state_dict(content["callbacks"].get(listener.name, {}))
        # If batch_size was changed, count in new batches, so that the data order continues at the same image.
        batches_seen = content["batches_seen"] * int(content["config"]["batch_size"]) // run.config.batch_size
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise DataError(
            f"{path} does not fit this config: {error}. Resume with the config that it was saved with, or start a new "
            f"run from its weights with init_from={path}."
        ) from error
    state.step, state.batches_seen = content["step"], batches_seen
    state.rollbacks = content["rollbacks"]
    state.lazy_logs = {tag: torch.as_tensor(x).to(run.device) for tag, x in content.get("lazy_logs", {}).items()}


def load_weights(run: Run, content: Content, path: Path) -> None:
    """Load only the networks of a checkpoint, for a new run; `path` is for messages.

    Raises:
        DataError: the content does not fit the networks.
    """
    try:
        _load_networks(run.state, content)
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise DataError(
            f"init_from={path}: its networks do not fit this config: {_misfit(run, content, error)}"
        ) from error


def _misfit(run: Run, content: Content, error: Exception) -> str:
    before, now = tuple(content["image_shape"]), run.dataset.image_shape
    if before == now or len(before) != 3 or len(now) != 3:
        return f"{error}. Choose the model, the widths and the image size that it was trained with."
    remedies = []
    if before[0] != now[0]:
        remedies.append(f"dataset.channels={before[0]} where the dataset has this option")
    if before[1:] != now[1:]:
        remedies.append(f"dataset.image_size={before[1]}")
    kinds = {1: "gray", 3: "RGB"}
    shapes = [f"{shape[2]}x{shape[1]} {kinds.get(shape[0], f'with {shape[0]} channels')}" for shape in (before, now)]
    return (
        f"they were trained on images of {shapes[0]}, but dataset={run.dataset.name} has {shapes[1]}. Choose "
        f"{' and '.join(remedies)}, or data of this shape."
    )


def _load_networks(state: TrainState, content: Content) -> None:
    state.G.load_state_dict(content["G"])
    state.D.load_state_dict(content["D"])
    if state.G_ema is not None:
        state.G_ema.load_state_dict(content["G_ema"] or content["G"])


def _load_moments(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if not saved["state"].keys() <= set(range(len(parameters))):
        raise ValueError(
            f"the optimizer has {len(parameters)} parameters, but the checkpoint has moments for parameters "
            "that it does not have"
        )
    optimizer.load_state_dict({"state": saved["state"], "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                # The memory format is that of the run that saved the checkpoint.
                moments[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
