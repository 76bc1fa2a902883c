"""Compose the shipped configs as the command does."""

from dataclasses import replace
from functools import cache
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from gantrain.command.folders import register
from gantrain.config import CONF, Config


@cache
def _composed(overrides: tuple[str, ...]) -> Any:
    register(fixed_run_dir=False)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(compose("train", list(overrides)), resolve=True)


@cache
def composed(*overrides: str) -> Config:
    """Compose a config. The result is shared, so it must not be changed."""
    config: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), _composed(overrides)))
    return config


def changed(config: Config, key: str, value: object) -> Config:
    """Return a copy of a config with another value for a dotted key; the type is not checked."""
    first, _, rest = key.partition(".")
    return replace(config, **{first: _changed(getattr(config, first), rest, value) if rest else value})


def _changed(part: Any, key: str, value: object) -> Any:
    first, _, rest = key.partition(".")
    inner = _changed(part[first] if isinstance(part, dict) else getattr(part, first), rest, value) if rest else value
    return part | {first: inner} if isinstance(part, dict) else replace(part, **{first: inner})
