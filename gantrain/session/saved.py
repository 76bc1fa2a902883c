"""Read the config and the record of a run from its folder, and compare its config with that of a resumed run.

This module does not import torch, and does not trust the files: a run's folder may be untrusted.
"""

import json
import os
import stat
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf

from gantrain.command.suggest import flat_keys, nearest
from gantrain.config import Config, Node, keys_outside_training, to_dict
from gantrain.datasets.untrusted import open_regular
from gantrain.errors import ConfigError, DataError
from gantrain.older import with_part_options

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
"""A folder that has one of these holds a run."""

MAX_BYTES = 2_000_000
"""Maximum size of a config or record; gantrain writes far smaller ones."""

MAY_DIFFER = (
    *keys_outside_training(),
    *("steps", "epochs", "runtime", "allow", "init_from"),
    *("dataset.root", "dataset.cache_dir", "dataset.download", "dataset.max_bad_fraction"),
)
"""Keys that may change when a run is resumed: the length of the training, how it is executed, and what does not affect
how weights are updated. Paths may change because the data are compared by their fingerprint."""


def holds_run(folder: Path) -> bool:
    """Return whether a run has started in the folder."""
    return any((folder / name).exists() for name in RUN_FILES)


def has_config(folder: Path) -> bool:
    """Return whether the folder holds the config of a run."""
    return (folder / ".hydra" / "config.yaml").is_file()


def require_new(folder: Path) -> None:
    """Check that no run has started in the folder.

    Raises:
        ConfigError: a run has started there.
    """
    if holds_run(folder):
        held = ", ".join(name for name in RUN_FILES if (folder / name).exists())
        raise ConfigError(
            f"run_dir={folder} holds a run already ({held}), and runs are never overwritten; resume it with "
            f"resume={folder}, choose another folder, or move that folder away."
        )


def require_regular_files(folder: Path) -> None:
    """Check that the files of a run's folder are regular; reading a link, pipe or device could leave it or never end.

    Raises:
        DataError: one is not.
    """
    tops = [folder / name for name in {name.partition("/")[0] for name in RUN_FILES} | {"gantrain.log"}]
    for path in (path for top in tops for path in (top, *(() if top.is_symlink() else top.rglob("*")))):
        if os.path.lexists(path) and not (stat.S_ISREG(mode := path.lstat().st_mode) or stat.S_ISDIR(mode)):
            raise DataError(
                f"{path} is a link or not a regular file, which gantrain never creates; the folder may have "
                "been tampered with. If you know what it refers to, replace it by a copy of that."
            )


def load_config(folder: Path) -> Node:
    """Read the resolved config of a run.

    Raises:
        ConfigError: the folder does not hold a run.
        DataError: the file is damaged.
    """
    path = folder / ".hydra" / "config.yaml"
    if not has_config(folder):
        raise ConfigError(f"{folder} is not the folder of a run: it has no {path.relative_to(folder)}.")
    config = load_yaml(path)
    if not isinstance(config, dict):
        raise DataError(f"{path} is damaged: it is not a mapping.")
    return config


def load_record(folder: Path) -> Node:
    """Read run.json; return {} if it is missing or damaged, because the training does not depend on it."""
    try:
        content = json.loads(_read(folder / "run.json"))
    except (DataError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def has_record(folder: Path) -> bool:
    """Return whether the folder holds run.json of a run; other programs write files of this name too."""
    versions = load_record(folder).get("versions") if (folder / "run.json").is_file() else None
    return isinstance(versions, dict) and "gantrain" in versions


def check_same(saved: Node, config: Config) -> dict[str, list[Any]]:
    """Compare the saved config of a run with the config that it is resumed with.

    Returns:
        the changes that allow_change permits: for each key, the old and the new value.

    Raises:
        ConfigError: a key that changes the training differs, and allow_change does not name it.
    """
    new, allow_change = to_dict(config), config.allow_change
    changes = differences(with_new_options(saved, new), new)
    for name in allow_change:
        known = [*flat_keys(new), *flat_keys(saved)]
        if name not in known:
            raise ConfigError(f"allow_change=[{name}]: there is no such key.{nearest(name, known)}")
    refused = [name for name in changes if not any(is_below(name, allowed) for allowed in allow_change)]
    # If a class was replaced, suggest allowing the whole group rather than each of its keys.
    replaced = [name.removesuffix("._target_") for name in refused if name.endswith("._target_")]
    names = [next((group for group in replaced if is_below(name, group)), name) for name in refused]
    if refused:
        scalars = [name for name in refused if isinstance(changes[name][0], (int, float, str))]
        example = f", as in {scalars[0]}={_show(changes[scalars[0]][0])}" if scalars else ""
        lines = [
            line
            for name in refused
            for line in (f"  - {name}: {_show(changes[name][0])}", f"  + {name}: {_show(changes[name][1])}")
        ]
        raise ConfigError(
            "the config differs from the saved config of the run, and this would change the training:\n"
            + "\n".join(lines)
            + f"\nKeep the saved values by typing them{example}, choose another run_dir, or allow the change by name: "
            + f"'allow_change=[{','.join(dict.fromkeys(names))}]'."
        )
    return changes


NEW_OPTIONS: Node = {"every": 1, "strength": 1.0, "operations": {"filter": 0.0}, "ranges": {"filter": 1.0}}
"""Options that earlier versions did not have, with the values at which a part behaves as it did then."""


def with_new_options(saved: Node, new: Node) -> Node:
    """Add to a saved config the keys that did not exist in the version that saved it, with equivalent values."""
    filled = with_part_options(to_dict(Config()) | saved, new)
    for group in ("regularizer", "augment"):
        for name, node in filled[group].items():
            options = new[group].get(name)
            if isinstance(node, dict) and isinstance(options, dict):
                filled = filled | {group: filled[group] | {name: with_missing(node, NEW_OPTIONS, options)}}
    return filled


def with_missing(saved: Node, added: Node, new: Node) -> Node:
    """Return a saved node with those options of `added` that it lacks and that the new node has."""
    filled = dict(saved)
    for key, value in added.items():
        if key not in saved and key in new and not isinstance(value, dict):
            filled[key] = value
        elif all(isinstance(options, dict) for options in (value, saved.get(key), new.get(key))):
            filled[key] = with_missing(saved[key], value, new[key])
    return filled


_MISSING = "(absent)"


def differences(saved: Node, config: Node, prefix: str = "") -> dict[str, list[Any]]:
    """Return the keys, except MAY_DIFFER, whose values differ between two configs, with the old and the new value."""
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
    """Return whether a dotted key equals another or is below it."""
    return name == parent or name.startswith(f"{parent}.")


def _show(value: Any) -> str:
    return "null" if value is None else str(value)


def load_yaml(path: Path) -> Any:
    """Read a YAML file that may be untrusted.

    Raises:
        DataError: it is damaged, or has an alias.
    """
    text = _read(path)
    try:
        # With aliases, a few lines can expand to more values than fit into memory; gantrain writes none.
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise DataError(
                f"{path} is damaged or has been tampered with: it has an alias (*), which gantrain never writes."
            )
        return OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except DataError:
        raise
    except Exception as error:  # invalid YAML raises exceptions of several libraries
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
