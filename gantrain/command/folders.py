"""The folders that Hydra is told to write to: a run's, and a sweep's."""

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from gantrain.config import Config
from gantrain.engine.torchrun import place
from gantrain.errors import ConfigError


def register(*, fixed_run_dir: bool, sweep: str = "") -> None:
    """Make the schema and the resolvers known to Hydra.

    Args:
        fixed_run_dir: whether the user named the folder, which is then the same at every call.
        sweep: the folder of the sweep that this process has a part of, where another has made it.
    """
    _folders.fixed, _folders.sweep = fixed_run_dir, sweep
    ConfigStore.instance().store(name="schema", node=Config)
    OmegaConf.register_new_resolver("run_folder", _run_folder, replace=True)
    OmegaConf.register_new_resolver("sweep_folder", _sweep_folder, replace=True)


@dataclass
class _Folders:
    fixed: bool = False
    sweep: str = ""


_folders = _Folders()


def claimed_sweep() -> str:
    """The folder of the sweep that this process has begun, or has a part of."""
    return _folders.sweep


# At the top level, and no closures: Hydra sends resolvers to the processes of a sweep, which have places of their own.


def _run_folder(run_dir: str, resume: str | None, _parent_: Any) -> str:
    _only_for("hydra.run", _parent_)
    if place().rank > 0:  # the folder is the leader's
        return "."
    return claim_folder(run_dir, by_time=not _folders.fixed and resume in (None, "auto"))


def _sweep_folder(run_dir: str, _parent_: Any) -> str:
    _only_for("hydra.sweep", _parent_)
    if not _folders.sweep:
        # Beside the folders of single runs, unless the user says where.
        named = run_dir if _folders.fixed else run_dir.replace("outputs/", "outputs/multirun/", 1)
        _folders.sweep = claim_folder(named, by_time=not _folders.fixed)
    return _folders.sweep


def _only_for(key: str, parent: Any) -> None:
    if parent is None or parent._get_full_key(None) != key:
        raise ConfigError(f"The resolvers of {key}.dir make folders and serve no other key; leave them out.")


@cache
def claim_folder(path: str, *, by_time: bool) -> str:
    """Make the folder of a run, or of a sweep, where there is none.

    Args:
        by_time: whether the name is the time alone; two runs started in the same second get folders of their own.

    Raises:
        ConfigError: the folder cannot be made or written to.
    """
    if not path:
        raise ConfigError("run_dir is empty: a run needs a folder of its own; name one, or leave it out: one by date.")
    for attempt in range(1, 1000):
        folder = Path(path if attempt == 1 else f"{path}-{attempt}")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            existed = folder.is_dir()
            folder.mkdir(exist_ok=not by_time)
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
            if by_time and folder.is_dir():
                continue
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"run_dir={path} cannot be made ({reason}); choose another place.") from None
        if not os.access(folder, os.W_OK):
            raise ConfigError(f"run_dir={path} cannot be written to; choose another place.")
        if not existed:
            created.add(str(folder.absolute()))
        return str(folder)
    raise ConfigError(f"run_dir={path}: a thousand runs started in this second; choose a folder with run_dir=PATH.")


created: set[str] = set()
"""The folders, by absolute path, that this process has made for its runs."""
