"""Create the folders of runs and sweeps, and register them as Hydra's output folders."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gantrain.command.arithmetic import register_arithmetic
from gantrain.command.path_texts import keep_paths_as_written
from gantrain.command.paths import expand
from gantrain.config import Config
from gantrain.engine.torchrun import process_rank
from gantrain.errors import ConfigError
from gantrain.session.saved import has_record, holds_run


def register(*, fixed_run_dir: bool, sweeps_run_dir: bool = False, sweep: str = "") -> None:
    """Register the config schema and the resolvers with Hydra, and let it read paths in config files as text.

    Args:
        fixed_run_dir: whether the user set run_dir; otherwise every call makes a new folder.
        sweeps_run_dir: whether the user gave several run_dirs, for the runs of a sweep.
        sweep: folder of the sweep that this process runs a part of, if another process created it.
    """
    _folders.fixed, _folders.swept, _folders.sweep = fixed_run_dir, sweeps_run_dir, sweep
    _folders.taken.clear()
    _folders.above.clear()
    ConfigStore.instance().store(name="schema", node=Config)
    OmegaConf.register_new_resolver("run_folder", _run_folder, replace=True)
    OmegaConf.register_new_resolver("sweep_folder", _sweep_folder, replace=True)
    OmegaConf.register_new_resolver("sweep_run", _sweep_run, replace=True)
    register_arithmetic()
    keep_paths_as_written()


@dataclass
class _Folders:
    fixed: bool = False
    swept: bool = False
    sweep: str = ""
    taken: dict[Path, list[str]] = field(default_factory=dict)
    """The folders of a sweep's runs that do not lie in the folder of the sweep, with the overrides of each run."""
    above: dict[Path, Path] = field(default_factory=dict)
    """The folders above those, each with one that lies below it."""


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


def _sweep_folder(_parent_: Any, _root_: Any) -> str:
    _only_for("hydra.sweep", _parent_)
    if not _folders.sweep:
        if has_folder_for_each_run(_root_):  # Hydra still needs a folder; it is removed if nothing is written to it
            run_dir, fixed = f"{datetime.now():outputs/%Y-%m-%d/%H-%M-%S}", False
        else:
            run_dir, fixed = expand("run_dir", _root_.run_dir), _folders.fixed
        # Below outputs/multirun, unless the user set run_dir.
        named = run_dir if fixed else run_dir.replace("outputs/", "outputs/multirun/", 1)
        if fixed and holds_run(Path(named)):
            raise ConfigError(
                f"run_dir={named} holds a run, and the runs of a sweep would be inside of it; choose another folder."
            )
        _folders.sweep = claim_folder(named, by_time=not fixed)
    return _folders.sweep


def _sweep_run(run_dir: str, number: int, _parent_: Any, _root_: Any) -> str:
    _only_for("hydra.sweep", _parent_)
    if not has_folder_for_each_run(_root_):
        return str(number)  # in the folder of the sweep
    run_dir = expand("run_dir", run_dir)
    take(run_dir, list(_root_.hydra.overrides.task))
    return str(Path(claim_folder(run_dir, by_time=False)).absolute())


def has_folder_for_each_run(config: Any) -> bool:
    """Return whether run_dir names the folder of a run also in a sweep, because it depends on the run."""
    node = config._get_node("run_dir")
    raw = "" if node is None else str(node._value())
    # The time of the start and environment variables are the same for all runs.
    return _folders.swept or "${" in re.sub(r"\$\{(now|oc\.env):[^{}]*\}", "", raw)


def take(run_dir: str, overrides: list[str]) -> None:
    """Check that no other run of the sweep has this folder, or one inside of it or around it.

    Raises:
        ConfigError: another run has.
    """
    folder = Path(run_dir).absolute()
    around = next((parent for parent in (folder, *folder.parents) if parent in _folders.taken), None)
    for other in filter(None, (around, _folders.above.get(folder))):
        theirs = _folders.taken[other]
        if theirs != overrides:
            where = "the same folder as" if folder == other else "a folder inside or around that of"
            raise ConfigError(
                f"run_dir={run_dir}: the run with {' '.join(overrides)} would have {where} the run with "
                f"{' '.join(theirs)}. Each run of a sweep needs its own: write every swept key into run_dir, or a "
                "plain run_dir=FOLDER, in which the runs are numbered."
            )
    _folders.taken[folder] = overrides
    _folders.above |= dict.fromkeys(folder.parents, folder)


@contextmanager
def distinct_folders() -> Iterator[None]:
    """Check while the block runs, before Hydra starts the runs of a sweep, that each has a folder of its own."""
    load = ConfigLoaderImpl.load_sweep_config

    def load_checked(*args: Any, **kwargs: Any) -> DictConfig:
        config = load(*args, **kwargs)
        if has_folder_for_each_run(config):
            with suppress(OmegaConfBaseException):  # it depends on the number of the run, which is not known yet
                take(expand("run_dir", str(config.run_dir)), list(config.hydra.overrides.task))
        return config

    ConfigLoaderImpl.load_sweep_config = load_checked  # type: ignore[method-assign]
    try:
        yield
    finally:
        ConfigLoaderImpl.load_sweep_config = load  # type: ignore[method-assign]


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
    check_not_inside_run(Path(path))
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


def check_not_inside_run(folder: Path) -> None:
    """Check that a new folder is not inside the folder of a run, whose files those of another run would mix with.

    Raises:
        ConfigError: it is.
    """
    try:
        around = [parent for parent in folder.parents if parent != Path() and has_record(parent)]
        if not around or holds_run(folder):
            return
    except (OSError, ValueError):  # an impossible name, or no permission: making the folder tells
        return
    raise ConfigError(f"run_dir={folder} is inside the folder of the run {around[0]}; choose one beside it.")


created: set[str] = set()
"""Absolute paths of the folders that this process created for its runs."""
