"""Read every key that is a path as a path, on the command line and in configs: ~ and ~user, and numbers as names."""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from gantrain.command.overrides import key_of, quote
from gantrain.config import Node, settings
from gantrain.errors import ConfigError

PATHS_OF_PARTS = ("dataset.root", "dataset.cache_dir", "features.weights")
"""Keys of parts that are paths."""

_NUMBER = re.compile(
    r"(?<![^,])([+-]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(e[+-]?\d[\d_]*)?|[+-]?inf|nan|true|false)(?![^,])", re.IGNORECASE
)
"""A value, alone or in a sweep, that Hydra would read as something else than text."""

_QUOTED = re.compile(r"""('(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")""")


@cache
def path_keys() -> frozenset[str]:
    """Return every key that is a path."""
    return frozenset([*(setting.key for setting in settings() if setting.is_path), *PATHS_OF_PARTS])


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
    """Expand the paths in overrides, also those in a sweep; Hydra could not read a value that starts with ~.

    Names that Hydra would read as numbers or truth values are quoted: it would read the folder 2023_01 as 202301.
    """
    return [_expanded(override) if key_of(override) in path_keys() else override for override in overrides]


def _expanded(override: str) -> str:
    name, equals, value = override.partition("=")
    key = key_of(override)

    def in_quotes(found: re.Match[str]) -> str:
        mark = found[1]
        return mark + expand(key, found[2]).replace(mark, f"\\{mark}")

    def expanded(part: str) -> str:
        if part.startswith(("'", '"')):
            return re.sub(r"^(['\"])(~[^/'\"]*)", in_quotes, part)
        part = _NUMBER.sub(lambda found: quote(found[0]), part)
        return re.sub(r"(?<![^,])~[^,'\"]*", lambda found: quote(expand(key, found[0])), part)

    return name + equals + "".join(map(expanded, _QUOTED.split(value)))


def expand_in(config: Node) -> None:
    """Expand the paths in a composed config, in place."""
    for key in path_keys():
        *parents, name = key.split(".")
        node = config
        for parent in parents:
            node = node.get(parent, {})
        value = node.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):  # a folder whose name is a number
            value = node[name] = str(value)
        if isinstance(value, str):
            node[name] = expand(key, value)
