"""Create the folders of runs and sweeps, and register them as Hydra's output folders."""

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from gantrain.command.arithmetic import register_arithmetic
from gantrain.command.paths import expand
from gantrain.config import Config
from gantrain.engine.torchrun import process_rank
from gantrain.errors import ConfigError


def register(*, fixed_run_dir: bool, sweep: str = "") -> None:
    """Register the config schema and the resolvers with Hydra.

    Args:
        fixed_run_dir: whether the user set run_dir; otherwise every call makes a new folder.
        sweep: folder of the sweep that this process runs a part of, if another process created it.
    """
    _folders.fixed, _folders.sweep = fixed_run_dir, sweep
    ConfigStore.instance().store(name="schema", node=Config)
    OmegaConf.register_new_resolver("run_folder", _run_folder, replace=True)
    OmegaConf.register_new_resolver("sweep_folder", _sweep_folder, replace=True)
    register_arithmetic()


@dataclass
class _Folders:
    fixed: bool = False
    sweep: str = ""


_folders = _Folders()


def claimed_sweep() -> str:
    """Return the folder of the sweep that this process started or runs a part of; "" if there is none."""
    return _folders.sweep


# At module level and not closures: Hydra pickles resolvers for the processes of a sweep, and each has its own _folders.


def _run_folder(run_dir: str, resume: str | None, _parent_: Any) -> str:
    _only_for("hydra.run", _parent_)
    if process_rank().rank > 0:  # rank 0 creates the folder
        return "."
    return claim_folder(expand("run_dir", run_dir), by_time=not _folders.fixed and resume in (None, "auto"))


def _sweep_folder(run_dir: str, _parent_: Any) -> str:
    _only_for("hydra.sweep", _parent_)
    if not _folders.sweep:
        # Below outputs/multirun, unless the user set run_dir.
        run_dir = expand("run_dir", run_dir)
        named = run_dir if _folders.fixed else run_dir.replace("outputs/", "outputs/multirun/", 1)
        _folders.sweep = claim_folder(named, by_time=not _folders.fixed)
    return _folders.sweep


def _only_for(key: str, parent: Any) -> None:
    if parent is None or parent._get_full_key(None) != key:
        raise ConfigError(f"The resolvers of {key}.dir create folders; no other key may use them. Leave them out.")


@cache
def claim_folder(path: str, *, by_time: bool) -> str:
    """Create the folder of a run or a sweep, if it does not exist, and return its path.

    Args:
        by_time: whether the name is the time of the start; runs that start in the same second get different folders.

    Raises:
        ConfigError: the folder cannot be created or written to.
    """
    if not path:
        raise ConfigError("run_dir is empty: every run needs a folder; name one, or leave run_dir out for a new one.")
    for attempt in range(1, 1000):
        folder = Path(path if attempt == 1 else f"{path}-{attempt}")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            existed = folder.is_dir()
            folder.mkdir(exist_ok=not by_time)
        except (OSError, ValueError) as error:  # ValueError: the name has a null byte
            if by_time and folder.is_dir():
                continue
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"run_dir={path} cannot be created ({reason}); choose another run_dir.") from None
        if not os.access(folder, os.W_OK):
            raise ConfigError(f"run_dir={path} cannot be written to; choose another run_dir.")
        if not existed:
            created.add(str(folder.absolute()))
        return str(folder)
    raise ConfigError(f"run_dir={path}: a thousand folders with this name exist; choose another with run_dir=PATH.")


created: set[str] = set()
"""Absolute paths of the folders that this process created for its runs."""
