"""Checkpoints: all that changes while training, in files that are whole or refused.

A checkpoint is what torch.save writes, so that torch.load reads it, with the sha256 of all before it as the comment
that a zip may end with.
"""

import hashlib
import logging
import os
import pickle
import re
import struct
import zipfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from types import NoneType
from typing import IO, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gantrain.config import plain
from gantrain.errors import ConfigError, DataError
from gantrain.files import atomic_write
from gantrain.session.run import Run
from gantrain.train import TrainState

logger = logging.getLogger(__name__)

FORMAT = 1
"""Of the content; to be raised when an older gantrain could no longer read it."""

_MARK = b"sha256:"
_COMMENT_BYTES = len(_MARK) + 64
_BLOCK_BYTES = 1 << 20
_TYPES = {
    "version": str,
    **dict.fromkeys(("step", "steps_planned"), int),
    "batches_seen": int,
    "rollbacks": int,
    "seconds": float,
    "image_shape": list,
    "fingerprint": str,
    **dict.fromkeys(
        ("config", "G", "D", "G_optimizer", "D_optimizer", "optimizers", "regularizers", "callbacks"), dict
    ),
}

Content = dict[str, Any]


def capture(run: Run) -> Content:
    """Collect the run's state; the tensors are those of the training and change with it."""
    state = run.state
    return {
        "format": FORMAT,
        "version": version("gantrain"),
        "config": plain(run.config),
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
    }


def restore(run: Run, content: Content, path: Path) -> None:
    """Put the content of a checkpoint into the run's state.

    The optimizers keep their options, which are the config's; their moments come back unless the config asks for
    another optimizer than the checkpoint's.

    Raises:
        DataError: it does not fit the networks, the optimizers or the data.
    """
    state = run.state
    try:
        _load_networks(state, content)
        for player, optimizer in (("G", state.G_optimizer), ("D", state.D_optimizer)):
            if content["optimizers"].get(player) == type(optimizer).__name__:
                _load_moments(optimizer, content[f"{player}_optimizer"])
            else:
                logger.warning("%s's optimizer is another one now: it starts without moments.", player)
        for name, regularizer in run.objective.regularizers.items():
            regularizer.load_state_dict(content["regularizers"].get(name, {}))
        for name, augment in run.objective.augment.items():
            augment.load_state_dict(content.get("augment", {}).get(name, {}))
        for listener in run.listeners:
            listener.load_state_dict(content["callbacks"].get(listener.name, {}))
        # Where the size of a batch was changed they are counted in the new one, from the same image on.
        batches_seen = content["batches_seen"] * int(content["config"]["batch_size"]) // run.config.batch_size
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise DataError(
            f"{path} does not fit this config: {error}. Go on with the config that it was made with; only weights go "
            f"over to a new run, by init_from={path}."
        ) from error
    state.step, state.batches_seen = content["step"], batches_seen
    state.rollbacks = content["rollbacks"]
    state.lazy_logs = {tag: torch.as_tensor(x).to(run.device) for tag, x in content.get("lazy_logs", {}).items()}


def load_weights(run: Run, content: Content, path: Path) -> None:
    """Start a new run from the networks of a checkpoint.

    Raises:
        DataError: it does not fit the networks.
    """
    try:
        _load_networks(run.state, content)
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise DataError(
            f"init_from: the networks of {path} are not those of this config: {error}. Choose the model, the widths "
            "and the image size that it was trained with."
        ) from error


def _load_networks(state: TrainState, content: Content) -> None:
    state.G.load_state_dict(content["G"])
    state.D.load_state_dict(content["D"])
    if state.G_ema is not None:
        state.G_ema.load_state_dict(content["G_ema"] or content["G"])


def _load_moments(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if not saved["state"].keys() <= set(range(len(parameters))):
        raise ValueError(f"the optimizer has {len(parameters)} parameters, and moments of others")
    optimizer.load_state_dict({"state": saved["state"], "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                # The layout is the one of the run that saved it.
                moments[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def map_tensors(function: Callable[[Tensor], Tensor], content: Any) -> Any:
    """Copy nested dicts, lists and tuples with every tensor replaced by the function of it."""
    if isinstance(content, Tensor):
        return function(content)
    if isinstance(content, dict):
        return {key: map_tensors(function, value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return type(content)(map_tensors(function, value) for value in content)
    return content


def tensors(content: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """List the tensors in nested dicts and lists, with their dotted places."""
    if isinstance(content, Tensor):
        yield name, content
    elif isinstance(content, dict | list | tuple):
        items = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in items:
            yield from tensors(value, f"{name}.{key}" if name else str(key))


class DamagedError(DataError):
    """The file is not what was written; one before it may be."""


class _Hashing:
    """A file that remembers the hash of what goes through it."""

    def __init__(self, file: IO[bytes]):
        self.file, self.digest = file, hashlib.sha256()

    def write(self, data: bytes | memoryview) -> int:
        self.digest.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def require_plain(content: Any, place: str = "") -> None:
    """Refuse what could not be read again without running code.

    Raises:
        ConfigError: naming the place.
    """
    if isinstance(content, dict | list | tuple):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            require_plain(value, f"{place}.{key}" if place else str(key))
    elif not isinstance(content, Tensor) and type(content) not in (int, float, str, bool, NoneType):
        raise ConfigError(
            f"{place} is a {type(content).__module__}.{type(content).__name__}, which a checkpoint cannot hold; make "
            "it a tensor, a number or a string, for example float(...)."
        )


def write(path: Path, content: Content) -> None:
    """Write a checkpoint: at any moment there is the whole file, or what was there before.

    Raises:
        ConfigError: it holds what could not be read again.
        OSError: it could not be written; what was there before still is.
    """
    require_plain(content)
    with atomic_write(path) as file:
        hashing = _Hashing(file)
        torch.save(content, hashing)  # type: ignore[arg-type]
        file.seek(-2, os.SEEK_END)  # the length of a zip's comment, which ends it
        file.write(struct.pack("<H", _COMMENT_BYTES) + _MARK + hashing.digest.hexdigest().encode())


def read(path: Path) -> Content:
    """Read a checkpoint, all tensors on the CPU; nothing in the file is run.

    Raises:
        DamagedError: its bytes are not those that were written.
        DataError: there is no such file, or it is not a checkpoint that this gantrain reads.
    """
    try:
        has_checksum = _verify(path)
        _check_records(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such checkpoint; see what the folder {path.parent} holds.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error
    except pickle.UnpicklingError as error:
        raise DataError(f"{path} asks for code to be run, which no checkpoint needs; it was not run.") from error
    except Exception as error:  # broken bytes raise exceptions of every kind
        raise DamagedError(f"{path} is damaged or no checkpoint of gantrain ({_first_line(error)}).") from error
    _check_content(path, content)
    if not has_checksum:
        raise DamagedError(f"{path} is damaged: its checksum is missing.")
    return dict(content)


def _verify(path: Path) -> bool:
    """Compare the checksum; False where there is none."""
    with path.open("rb") as file:
        num_bytes = file.seek(0, os.SEEK_END) - _COMMENT_BYTES
        if num_bytes < 22:  # of a zip's end
            raise ValueError("it is cut short")
        file.seek(num_bytes - 2)
        length, comment = file.read(2), file.read()
        if not comment.startswith(_MARK) or length != struct.pack("<H", _COMMENT_BYTES):
            return False
        file.seek(0)
        digest, rest = hashlib.sha256(), num_bytes - 2
        while rest:
            block = file.read(min(rest, _BLOCK_BYTES))
            if not block:
                raise ValueError("it is cut short")
            digest.update(block)
            rest -= len(block)
    digest.update(b"\0\0")  # the length as torch wrote it
    if digest.hexdigest().encode() != comment[len(_MARK) :]:
        raise ValueError("its checksum is wrong")
    return True


def _check_records(path: Path) -> None:
    # torch stores records as they are; a compressed one could unpack to any size.
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    if any(r.compress_type != zipfile.ZIP_STORED for r in records) or (
        sum(r.file_size for r in records) > path.stat().st_size
    ):
        raise ValueError("its records are not stored as they are")


def _check_content(path: Path, content: Any) -> None:
    if not isinstance(content, dict) or not {"G", "D", "step"} <= content.keys():
        raise DataError(f"{path} is no checkpoint of gantrain: it holds no networks.")
    found = content.get("format", 0)
    if found != FORMAT:
        age = "an older" if isinstance(found, int) and found < FORMAT else "a newer"
        raise DataError(
            f"{path} was written by gantrain {content.get('version')} in {age} format ({found}; this is gantrain "
            f"{version('gantrain')}, format {FORMAT}); use that version."
        )
    wrong = [name for name, kind in _TYPES.items() if not isinstance(content.get(name), kind)]
    if wrong:
        raise DataError(f"{path} is no checkpoint of gantrain: {', '.join(wrong)} is missing or of a wrong type.")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def paths(folder: Path) -> list[Path]:
    """The checkpoints of a run's folder, of the fewest steps first; best.pt is not among them."""
    found = (folder / "checkpoints").glob("step_*.pt")
    return sorted((path for path in found if re.fullmatch(r"step_\d{8,}", path.stem)), key=step_of)


def step_of(path: Path) -> int:
    """The step in the name of a checkpoint or a picture."""
    return int(path.stem.removeprefix("step_"))


def newest(folder: Path) -> tuple[Path, Content] | None:
    """Read the newest checkpoint of a run that is not damaged, naming those that are; None where there are none at all.

    Raises:
        DataError: every one is damaged, or one is of another format or cannot be read.
    """
    found = paths(folder)
    for path in reversed(found):
        try:
            return path, read(path)
        except DamagedError as error:
            failure = error
            logger.warning("%s Looking at the one before.", error)
    if found:
        raise DataError(f"{folder}: none of its {len(found)} checkpoints can be read. {failure}")
    return None


def find(place: str | Path) -> tuple[Path, Content]:
    """Read the checkpoint that a file or a run's folder stands for: the folder's newest.

    Raises:
        DataError: there is none that can be read.
    """
    place = Path(place).expanduser()
    if place.is_file():
        return place, read(place)
    found = newest(place)
    if found is None:
        raise DataError(
            f"{place} has no checkpoint (checkpoints/step_*.pt). Name the folder of a run that has reached its first: "
            "one is written every checkpoint.every steps and at the end."
        )
    return found
