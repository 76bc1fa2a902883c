"""Which code a config may name.

A config says `_target_: module.Name`, and what it names is imported and called. Configs come from anywhere, so they
may name gantrain's own parts and torch's optimizers; other modules only if the user trusts them by name on the command
line. Hydra has a part of its own in every config, from which it makes folders and calls what that names, before any
task begins; of that a config may choose launcher and sweeper, and no more.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import _locate
from omegaconf import DictConfig, OmegaConf

from gantrain.errors import ConfigError

MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
"""The name of a module, or of what is in one."""

OWN = {
    "task": "gantrain.tasks",
    "callback": "gantrain.callbacks",
    "metric": "gantrain.metrics",
    "latent": "gantrain.models",
    "model": "gantrain.models",
    "loss": "gantrain.losses",
    "regularizer": "gantrain.regularizers",
    "augment": "gantrain.augment",
    "schedule": "gantrain.schedules",
    "optimizer": "torch.optim",
    "discriminator_optimizer": "torch.optim",
    "dataset": "gantrain.datasets",
}
"""The package of each group, that any config may name."""

trusted: list[str] = []
"""What the user of this process trusts besides; never set from a file."""


def resolve(path: str, target: object) -> Any:
    """Import what the node at `path` of a config names as its _target_.

    Raises:
        ConfigError: it does not exist, or it is not trusted, in which case nothing was imported.
    """
    own = OWN[path.partition(".")[0]]
    if not isinstance(target, str) or not target:
        raise ConfigError(f"{path}._target_={target}: must name a class or a function, as {own}.module.Name.")
    if not _is_within(target, [own, *trusted]):
        module = target.rpartition(".")[0] or target
        raise ConfigError(
            f"{path}._target_={target} is code outside {own}, which a config alone may not call; "
            f"if you know that code, trust it: 'trust=[{module}]'."
        )
    try:
        found = _locate(target)
    except Exception as error:  # the import of a user's own module may fail in any way
        raise ConfigError(f"{path}._target_={target} cannot be imported: {' '.join(str(error).split())}") from error
    # A name may lead out of its package again, as gantrain.losses.base.torch does.
    if not callable(found) or not _is_within(f"{getattr(found, '__module__', '')}.", [own, *trusted]):
        raise ConfigError(f"{path}._target_={target} is not a class or function of {own}; see gantrain --help.")
    return found


_SILENT = {"version": 1, "root": None, "disable_existing_loggers": False}

SETTLED: dict[str, tuple[Any, ...]] = {
    "run": ({"dir": "${run_folder:${run_dir},${resume}}"}, {"dir": "."}),
    "sweep.dir": ("${sweep_folder:${run_dir}}", "${no_sweep:}"),
    "sweep.subdir": ("${hydra.job.num}",),
    "output_subdir": (None,),
    "callbacks": ({},),
    "hydra_logging": (_SILENT,),
    "job_logging": (_SILENT,),
    "job.chdir": (False,),
    "job.env_set": ({},),
    "job.env_copy": ([],),
}
"""Hydra's own keys that make folders, change the process or call what they name, with the values of conf/task."""


def guard() -> None:
    """Have Hydra's own part of every config checked as soon as it is composed, which is before Hydra acts on it."""
    load = ConfigLoaderImpl.load_configuration

    def load_checked(*args: Any, **kwargs: Any) -> DictConfig:
        config = load(*args, **kwargs)
        check_hydra(config.hydra)
        return config

    ConfigLoaderImpl.load_configuration = load_checked  # type: ignore[method-assign]


@contextmanager
def guarded() -> Iterator[None]:
    """Guard while the block runs, and let -m alone decide whether it is a sweep.

    Hydra would ask the config for hydra.mode too, and compose all of it once more for that.
    """
    load, get_mode = ConfigLoaderImpl.load_configuration, Hydra.get_mode
    guard()
    Hydra.get_mode = lambda *_, **__: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        ConfigLoaderImpl.load_configuration = load  # type: ignore[method-assign]
        Hydra.get_mode = get_mode  # type: ignore[method-assign]


def check_hydra(hydra: DictConfig) -> None:
    """Refuse what would have Hydra write elsewhere or call foreign code.

    Raises:
        ConfigError: naming the key.
    """
    node: Any = OmegaConf.to_container(hydra, resolve=False)
    for key, settled in SETTLED.items():
        value: Any = node
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value not in settled:
            raise ConfigError(f"hydra.{key}={value}: gantrain sets this key itself; leave it out of your configs.")
    for name in ("launcher", "sweeper"):
        for target in _targets(node.get(name)):
            if not _is_within(str(target), ["hydra", "hydra_plugins"]):
                raise ConfigError(
                    f"hydra.{name}: _target_={target} is no plugin of Hydra's; choose one by hydra/{name}=NAME."
                )


def _targets(node: Any) -> Iterator[Any]:
    if isinstance(node, dict):
        yield from (value for key, value in node.items() if key == "_target_")
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _targets(value)


def _is_within(name: str, packages: list[str]) -> bool:
    return any(name.startswith(f"{package}.") for package in packages)
