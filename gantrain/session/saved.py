"""Resuming a run: what its folder holds, and whether a config would train the same.

Nothing here imports torch, and nothing here trusts a file: a run's folder may come from a stranger.
"""

import json
import os
import stat
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf

from gantrain.command.suggest import flat_keys, nearest
from gantrain.config import Config, Node, not_training, plain
from gantrain.datasets.untrusted import open_regular
from gantrain.errors import ConfigError, DataError

RUN_FILES = (
    ".hydra/config.yaml",
    "run.json",
    "metrics.csv",
    "tensorboard",
    "samples",
    "checkpoints",
    "samples.gif",
    "curves.png",
)
"""What marks a folder as that of a run."""

MAX_BYTES = 2_000_000
"""Of a config or a record: far above what gantrain writes."""

MAY_DIFFER = (
    *not_training(),
    *("steps", "epochs", "runtime", "allow", "init_from"),
    *("dataset.root", "dataset.cache_dir", "dataset.download", "dataset.max_bad_fraction"),
)
"""Keys that a resumed run may change: the training stays the same, or grows. Data are known by their fingerprint."""


def holds_run(folder: Path) -> bool:
    """Whether a run has begun in the folder."""
    return any((folder / name).exists() for name in RUN_FILES)


def require_new(folder: Path) -> None:
    """Refuse a folder in which a run has begun.

    Raises:
        ConfigError: naming the remedies.
    """
    if holds_run(folder):
        held = ", ".join(name for name in RUN_FILES if (folder / name).exists())
        raise ConfigError(
            f"run_dir={folder} holds a run already ({held}), and runs are never overwritten; go on with it by "
            f"resume={folder}, choose another folder, or move that one away."
        )


def require_plain(folder: Path) -> None:
    """Refuse a run's folder that holds links, pipes or devices: they lead elsewhere, or never end.

    Raises:
        DataError: naming the first.
    """
    tops = [folder / name for name in {name.partition("/")[0] for name in RUN_FILES} | {"gantrain.log"}]
    for path in (path for top in tops for path in (top, *(() if top.is_symlink() else top.rglob("*")))):
        if os.path.lexists(path) and not (stat.S_ISREG(mode := path.lstat().st_mode) or stat.S_ISDIR(mode)):
            raise DataError(
                f"{path} is a link or no file at all, which gantrain never makes; the folder may be forged. Replace it "
                "by what it stands for if you know it."
            )


def load_config(folder: Path) -> Node:
    """Read the config that a run was trained with.

    Raises:
        ConfigError: the folder is not that of a run.
        DataError: the file is broken.
    """
    path = folder / ".hydra" / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"{folder} is not the folder of a run: it has no {path.relative_to(folder)}.")
    config = load_yaml(path)
    if not isinstance(config, dict):
        raise DataError(f"{path} is damaged: it holds no mapping.")
    return config


def load_record(folder: Path) -> Node:
    """Read run.json, or nothing where it is missing or broken: no training depends on it."""
    try:
        content = json.loads(_read(folder / "run.json"))
    except (DataError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def check_same(saved: Node, config: Config) -> dict[str, list[Any]]:
    """Compare the config that a run was trained with to the one that it is to go on with.

    Returns:
        what has changed and was allowed to, by key: the old value and the new.

    Raises:
        ConfigError: something that changes the training differs and is not allowed by name.
    """
    new, allow_change = plain(config), config.allow_change
    changes = differences(completed(saved, new), new)
    for name in allow_change:
        known = [*flat_keys(new), *flat_keys(saved)]
        if name not in known:
            raise ConfigError(f"allow_change=[{name}]: there is no such key.{nearest(name, known)}")
    refused = [name for name in changes if not any(is_below(name, allowed) for allowed in allow_change)]
    # An option of a group that was exchanged for another is named by the group.
    exchanged = [name.removesuffix("._target_") for name in refused if name.endswith("._target_")]
    names = [next((group for group in exchanged if is_below(name, group)), name) for name in refused]
    if refused:
        lines = [
            line
            for name in refused
            for line in (f"  - {name}: {_show(changes[name][0])}", f"  + {name}: {_show(changes[name][1])}")
        ]
        raise ConfigError(
            "the config differs from the one that the run was trained with, and this would change the training:\n"
            + "\n".join(lines)
            + "\nLeave the run as it was, choose another run_dir, or allow it by name: "
            + f"'allow_change=[{','.join(dict.fromkeys(names))}]'."
        )
    return changes


NEW_OPTIONS = {"every": 1, "strength": 1.0}
"""Options that parts had no name for in earlier versions, with the values that stand for what these did."""


def completed(saved: Node, new: Node) -> Node:
    """Add to the config of an earlier version's run what that version had no name for, with the values it meant."""
    filled = plain(Config()) | saved
    for group in ("regularizer", "augment"):
        for name, node in filled[group].items():
            options = new[group].get(name)
            if isinstance(node, dict) and isinstance(options, dict):
                added = {key: value for key, value in NEW_OPTIONS.items() if key in options and key not in node}
                filled = filled | {group: filled[group] | {name: node | added}}
    return filled


_MISSING = "(absent)"


def differences(saved: Node, config: Node, prefix: str = "") -> dict[str, list[Any]]:
    """List the leaves in which two configs differ and that matter to the training, with both values."""
    found: dict[str, list[Any]] = {}
    for name in dict.fromkeys([*saved, *config]):
        path = f"{prefix}{name}"
        old, new = saved.get(name, _MISSING), config.get(name, _MISSING)
        if path in MAY_DIFFER or old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            found |= differences(old, new, f"{path}.")
        else:
            found[path] = [old, new]
    return found


def is_below(name: str, parent: str) -> bool:
    """Tell whether a dotted key is another one or lies below it."""
    return name == parent or name.startswith(f"{parent}.")


def _show(value: Any) -> str:
    return "null" if value is None else str(value)


def load_yaml(path: Path) -> Any:
    """Read a YAML file that may come from a stranger.

    Raises:
        DataError: it is broken, or holds an alias.
    """
    text = _read(path)
    try:
        # An alias lets a few lines stand for more values than fit into memory; gantrain writes none.
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise DataError(f"{path} is damaged or forged: it holds an alias (*), which gantrain never writes.")
        return OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except DataError:
        raise
    except Exception as error:  # broken YAML raises exceptions of several libraries
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} is damaged: {reason}.") from error


def _read(path: Path) -> str:
    try:
        with open_regular(path, max_bytes=MAX_BYTES) as file:
            return file.read().decode()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise DataError(f"{path} is damaged: it is not text.") from error
