"""Read every key that is a path as a path, on the command line and in configs: ~ and ~user, and numbers as names."""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from gantrain.command.overrides import key_of, quote
from gantrain.config import Node, settings
from gantrain.errors import ConfigError

_NAME_OF_PATH = re.compile(r"(\w+_)?(root|dir|file|path|folder)")
"""Names of options of parts, also of the user's own ones, that are paths."""

_OTHER_PATHS = ("features.weights",)
"""Paths among the options of parts that have another name."""

_NUMBER_TEXT = r"(?:[+-]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:e[+-]?\d[\d_]*)?|[+-]?inf|nan|true|false)"
_NUMBER = re.compile(rf"(?<![^,]){_NUMBER_TEXT}(?![^,])", re.IGNORECASE)
"""A value, alone or in a sweep, that Hydra would read as something else than text."""

_NUMBER_IN_MAPPING = re.compile(
    rf"((?<![^,\s{{]){_NAME_OF_PATH.pattern}\s*:\s*)(?P<number>{_NUMBER_TEXT})(?=\s*[,}}])", re.IGNORECASE
)
"""Such a value of a path in a mapping: {root: 2023_01}."""

_QUOTED = re.compile(r"""('(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")""")


@cache
def is_path(key: str) -> bool:
    """Return whether a key is a path: a setting by its declaration, an option of a part by its name."""
    if any(key == setting.key for setting in settings()):
        return any(key == setting.key and setting.is_path for setting in settings())
    *parents, name = key.split(".")
    return key in _OTHER_PATHS or bool(parents and _NAME_OF_PATH.fullmatch(name))


def expand(key: str, path: str) -> str:
    """Replace ~ or ~user at the start of a path by the home folder.

    Args:
        key: the key that holds the path, for messages.

    Raises:
        ConfigError: there is no such user.
    """
    if not path.startswith("~"):
        return path
    user, slash, rest = path.partition("/")
    try:
        return f"{Path(user).expanduser()}{slash}{rest}"
    except RuntimeError:
        raise ConfigError(
            f"{key}={path}: the home folder of {user} is not known; write the whole path, or for a folder with this "
            f"name {key}=./{path}"
        ) from None


def with_expanded_paths(overrides: Sequence[str]) -> list[str]:
    """Expand ~ in overrides, also in a sweep or a list; Hydra could not read a value that starts with ~.

    In keys that are paths, names that Hydra would read as numbers or truth values are quoted: it would read the folder
    2023_01 as 202301. In other keys, which may be paths of the user's own parts, only ~/ is expanded.
    """
    return [_expanded(override) for override in overrides]


def _expanded(override: str) -> str:
    name, equals, value = override.partition("=")
    key = key_of(override)
    of_path = is_path(key)

    def in_quotes(found: re.Match[str]) -> str:
        mark = found[1]
        return mark + expand(key, found[2]).replace(mark, f"\\{mark}")

    def expanded(part: str) -> str:
        if part.startswith(("'", '"')):
            return re.sub(r"^(['\"])(~[^/'\"]*)", in_quotes, part) if of_path else part
        if of_path:
            part = _NUMBER.sub(lambda found: quote(found[0]), part)
        else:
            part = _NUMBER_IN_MAPPING.sub(lambda found: found[1] + quote(found["number"]), part)
        home = r"~[^,'\"\]]*" if of_path else r"~/[^,'\"\]]*"
        return re.sub(rf"(?<![^,\[]){home}", lambda found: quote(expand(key, found[0])), part)

    return name + equals + "".join(map(expanded, _QUOTED.split(value)))


def expand_in(config: Node) -> None:
    """Expand the paths in a composed config, in place: ~ and ~user in keys that are paths, ~/ in every text.

    A ~/ at the start of a text can only be meant as a path, so that the user's own parts may name their options freely.
    """
    for key, value in config.items():
        config[key] = _expanded_value(key, value)


def _expanded_value(key: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _expanded_value(f"{key}.{name}", item) for name, item in value.items()}
    if isinstance(value, list):
        return [_expanded_value(key, item) for item in value]
    of_path = is_path(key)
    if of_path and isinstance(value, int | float) and not isinstance(value, bool):  # from an interpolation
        return str(value)
    return expand(key, value) if isinstance(value, str) and (of_path or value.startswith("~/")) else value
