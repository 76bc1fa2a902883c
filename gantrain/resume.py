"""Going on with a run: the command that made it, and whether it is still the same training.

Nothing here imports torch, and nothing here trusts a file: a run's folder may come from a stranger.
"""

import json
import os
import re
import shlex
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from gantrain.config import NOT_TRAINING, RUN_FILES, Node
from gantrain.datasets.untrusted import open_regular
from gantrain.errors import ConfigError, DataError
from gantrain.explain import flat_keys, nearest

MAX_BYTES = 2_000_000
"""Of a config or a record: far above what gantrain writes."""

MAY_DIFFER = (
    *NOT_TRAINING,
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
    config = _load_yaml(path)
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


def with_saved_overrides(typed: Sequence[str]) -> list[str]:
    """Put the overrides that made a run before those that were typed, where these name a run to go on with.

    What was typed wins. Neither the place nor the trust that was given then is taken over.

    Raises:
        ConfigError: resume does not name the folder of a run, or contradicts run_dir.
        DataError: the folder's files are broken.
    """
    wanted = {key_of(override): value_of(override) for override in typed}
    resume = wanted.get("resume", "auto")
    if resume in ("auto", "null"):
        return list(typed)
    folder = Path(resume).expanduser()
    if "run_dir" in wanted and Path(wanted["run_dir"]) != folder:
        raise ConfigError(
            f"run_dir={wanted['run_dir']} resume={resume}: a run goes on in its own folder; leave out run_dir."
        )
    if not holds_run(folder):
        raise ConfigError(
            f"resume={resume}: must be auto, null or the folder of a run, and {folder} holds none; "
            "see what is in outputs."
        )
    path = folder / ".hydra" / "overrides.yaml"
    saved = _load_yaml(path)
    if not isinstance(saved, list) or not all(isinstance(override, str) for override in saved):
        raise DataError(
            f"{path} is damaged: it must be a list of overrides. Give the run's whole command with run_dir={resume}."
        )
    replaced = {*wanted, "run_dir", "resume", "trust", "allow_change", "task"}
    replaced |= {"steps", "epochs"} if {"steps", "epochs"} & {*wanted} else set()
    # An option of what was exchanged for another has no place any more, as optimizer.betas with optimizer=sgd.
    kept = [override for override in saved if not any(_is_below(key_of(override), key) for key in replaced)]
    kept = [
        override for override in kept if not key_of(override).startswith(("hydra", "-"))
    ]  # flags would be read as such
    return [*kept, *typed, f"run_dir={quote(str(folder))}"]


def key_of(override: str) -> str:
    """Cut an override down to its key or group."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0].strip()


def value_of(override: str) -> str:
    """Read the value of an override, without the quotes around it; as it stands where Hydra could not read it."""
    try:
        value = OverridesParser.create().parse_override(override).value()
    except (HydraException, ValueError, RecursionError):
        return override.partition("=")[2]
    return "null" if value is None else str(value)


def quote(value: str) -> str:
    """Write a value so that Hydra's grammar reads it as it is."""
    if re.fullmatch(r"[\w./:+-]+", value, re.ASCII) and not re.fullmatch(
        r"[\d.e+-]+|null|true|false|inf|nan", value, re.I
    ):
        return value
    # A backslash stands for itself but before a quote.
    return "'" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + (f"\\{found[2]}" if found[2] else ""), value) + "'"


def shell_command(*words: str) -> str:
    """Write a command as a person would type it; shlex.join makes a thicket of the quotes that Hydra needs."""
    return " ".join(
        f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word) for word in words
    )


def check_same(saved: Node, config: Node, allow_change: Sequence[str]) -> dict[str, list[Any]]:
    """Compare the config that a run was trained with to the one that it is to go on with.

    Returns:
        what has changed and was allowed to, by key: the old value and the new.

    Raises:
        ConfigError: something that changes the training differs and is not allowed by name.
    """
    changes = differences(saved, config)
    for name in allow_change:
        known = [*flat_keys(config), *flat_keys(saved)]
        if name not in known:
            raise ConfigError(f"allow_change=[{name}]: there is no such key.{nearest(name, known)}")
    refused = [name for name in changes if not any(_is_below(name, allowed) for allowed in allow_change)]
    # An option of a group that was exchanged for another is named by the group.
    exchanged = [name.removesuffix("._target_") for name in refused if name.endswith("._target_")]
    names = [next((group for group in exchanged if _is_below(name, group)), name) for name in refused]
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


def _is_below(name: str, parent: str) -> bool:
    return name == parent or name.startswith(f"{parent}.")


def _show(value: Any) -> str:
    return "null" if value is None else str(value)


def _load_yaml(path: Path) -> Any:
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
