"""Turn Hydra's and OmegaConf's errors into ones that a person can act on."""

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gantrain.config import CONF
from gantrain.errors import ConfigError, GantrainError


def explain(error: BaseException, arguments: Sequence[str]) -> GantrainError | None:
    """Find what to tell the user about an error, or None where it is not the user's."""
    for cause in causes(error):
        if isinstance(cause, GantrainError):
            return cause
    if isinstance(error, MissingConfigException):
        return ConfigError(_missing_option(str(error)))
    if isinstance(error, HydraException | OmegaConfBaseException):
        return ConfigError(_composition("\n".join(str(cause) for cause in causes(error)), arguments))
    return None


def causes(error: BaseException) -> Iterator[BaseException]:
    """Follow an error to what caused it."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def _missing_option(message: str) -> str:
    found = re.search(
        r"Could not find '([^']+)'|Could not load '([^']+)'|Cannot find primary config '([^']+)'", message
    )
    if found is None:
        return message.strip()
    name = next(filter(None, found.groups()))
    group, _, option = name.rpartition("/")
    available = options(group)
    if not available:
        return f"{name}: there is no such config; see gantrain --help for the groups and their options."
    return f"{group}={option}: no such option.{nearest(option, available)} The options are {', '.join(available)}."


def _composition(message: str, arguments: Sequence[str]) -> str:
    first = message.strip().splitlines()[0]
    if found := re.search(r"Could not override '([^']+)'", message):
        key = found.group(1)
        return f"{key}: there is no such key or group.{nearest(key, known_keys(arguments))} See gantrain --help."
    if found := re.search(r"Value '(.*?)'.* of type '.*?' could not be converted to (\w+)", message):
        value, wanted = found.groups()
        where = re.search(r"full_key: (\S+)", message)
        key = where.group(1) if where else "a key"
        return f"{key}={value}: must be {_kind(wanted)}, and {value!r} is not."
    if "LexerNoViableAltException" in message or "mismatched input" in message or "no viable alternative" in message:
        return (
            f"{first} An override is key=value; put quotes around values that hold "
            "spaces, commas or braces, for example 'run_dir=\"my run\"'."
        )
    where = re.search(r"full_key: (\S+)", message)
    return f"{where.group(1)}: {first}" if where and where.group(1) not in first else first


def _kind(name: str) -> str:
    return {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}.get(name, name)


def nearest(name: str, names: Sequence[str]) -> str:
    """Suggest the nearest of the names, as a sentence, or nothing."""
    last = name.rsplit(".", 1)[-1]
    candidates = difflib.get_close_matches(name, names, n=1, cutoff=0.7)
    candidates = candidates or [n for n in names if n.rsplit(".", 1)[-1] == last][:1]
    return f" Did you mean {candidates[0]}?" if candidates else ""


def options(group: str) -> list[str]:
    """List the options of a group of the shipped configs."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml")) if group else []


def groups() -> list[str]:
    """List the groups of the shipped configs."""
    return sorted(path.name for path in CONF.iterdir() if path.is_dir())


def known_keys(arguments: Sequence[str]) -> list[str]:
    """List every key and group that could have been meant, given the groups that the arguments choose."""
    chosen = [a for a in arguments if (m := re.fullmatch(r"(\w+)=(\w+)", a)) and m[2] in options(m[1])]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(config_dir=str(CONF.absolute()), version_base="1.3"):
            config = OmegaConf.to_container(compose("train", overrides=chosen))
    except HydraException:  # what was chosen does not compose either; there is nothing to suggest
        config = {}
    return [*flat_keys(config), *groups()]


def flat_keys(node: Any, prefix: str = "") -> list[str]:
    """List the dotted keys of a nested mapping."""
    if not isinstance(node, dict):
        return []
    return [k for name, value in node.items() for k in (f"{prefix}{name}", *flat_keys(value, f"{prefix}{name}."))]
