"""Keep paths in config files as they are written, although YAML reads the folder 2023_01 as 202301, and on as true."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.default_element import ResultDefault
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf

from gantrain.command.paths import is_path
from gantrain.errors import ConfigError


@cache  # once is enough
def keep_paths_as_written() -> None:
    """Patch Hydra to read every path in a config file as text."""
    load = ConfigLoaderImpl._load_single_config

    def load_paths_as_text(self: ConfigLoaderImpl, default: ResultDefault, repo: Any) -> ConfigResult:
        result = load(self, default, repo)
        if result.path.startswith("file://") and isinstance(result.config, DictConfig):
            file = Path(result.path.removeprefix("file://"), f"{default.config_path}".removesuffix(".yaml") + ".yaml")
            package = result.header["package"] if default.package is None else default.package
            for key, value in list(_numbers(result.config)):
                within = key.removeprefix(f"{package}.") if package else key
                OmegaConf.update(result.config, key, _text(file, within.split("."), key, value))
        return result

    ConfigLoaderImpl._load_single_config = load_paths_as_text  # type: ignore[method-assign]


def _numbers(config: DictConfig, parent: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the paths that YAML has read as numbers, truth values or the like, each with its key."""
    for name in config:
        node, key = config._get_node(name), parent + str(name)
        if isinstance(node, DictConfig):
            if not (node._is_none() or node._is_missing() or node._is_interpolation()):
                yield from _numbers(node, f"{key}.")
        elif is_path(key) and isinstance(value := node._value(), bool | int | float):  # type: ignore[union-attr]
            yield key, value


def _text(file: Path, keys: list[str], key: str, value: Any) -> str:
    """Return how a value is written in a YAML file.

    Raises:
        ConfigError: it is not found there, for example because it is merged from an anchor.
    """
    node = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    for name in keys:
        found = node.value if isinstance(node, yaml.MappingNode) else []
        node = next((child for label, child in found if label.value == name), None)
    if not isinstance(node, yaml.ScalarNode):
        raise ConfigError(f"{file}: {key} is a path, but YAML reads it as {value}; write it in quotes: {key}: '...'.")
    return str(node.value)
