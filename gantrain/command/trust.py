"""Restrict the code that a config may call.

A config contains `_target_: module.Name`, and that class or function is imported and called. A config may be
untrusted, so it may only name gantrain's parts and torch's optimizers; other modules must be trusted on the command
line. Every config also has a section `hydra`, from which Hydra creates folders and calls code before the task starts;
there a config may only choose launcher and sweeper.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import _locate
from omegaconf import DictConfig, OmegaConf

from gantrain.errors import ConfigError

MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
"""The dotted name of a module, or of a class or function in one."""

GROUP_PACKAGES = {
    "task": "gantrain.tasks",
    "callback": "gantrain.callbacks",
    "metric": "gantrain.metrics",
    "verdict": "gantrain.verdicts",
    "features": "gantrain.evaluation.features",
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
"""For each group, the package that every config may name."""

trusted: list[str] = []
"""Further modules, which the user trusts on the command line; never set from a file."""


def resolve(path: str, target: object) -> Any:
    """Import the _target_ of the config node at `path`.

    Raises:
        ConfigError: it does not exist, or it is not trusted; in the latter case nothing was imported.
    """
    own = GROUP_PACKAGES[path.partition(".")[0]]
    if not isinstance(target, str) or not target:
        raise ConfigError(f"{path}._target_={target}: must name a class or a function, like {own}.module.Name.")
    if not _is_within(target, [own, *trusted]):
        module = target.rpartition(".")[0] or target
        raise ConfigError(
            f"{path}._target_={target} is code outside {own}, which a config may not call; "
            f"if you know that code, trust it: 'trust=[{module}]'."
        )
    try:
        found = _locate(target)
    except Exception as error:  # the import of a user's module may raise anything
        reason = explain_hidden(target.partition(".")[0]) or " ".join(str(error).split())
        raise ConfigError(f"{path}._target_={target} cannot be imported: {reason}") from error
    # A name may refer to code outside its package, such as gantrain.losses.base.torch.
    if not callable(found) or not _is_within(f"{getattr(found, '__module__', '')}.", [own, *trusted]):
        raise ConfigError(f"{path}._target_={target} is not a class or function of {own}; see gantrain --help.")
    return found


def explain_hidden(module: str) -> str | None:
    """Return why a module of the working directory cannot be imported: another one has its name; None: none has.

    The working directory comes last on the module search path, so that its files replace no library.
    """
    own = next((p for p in (Path.cwd() / f"{module}.py", Path.cwd() / module) if p.exists()), None)
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        return None
    if own is None or spec is None or (spec.origin and Path(spec.origin).is_relative_to(Path.cwd())):
        return None
    of = "Python's standard library" if module in sys.stdlib_module_names else f"an installed package ({spec.origin})"
    return f"{own.name} has the name of a module of {of}, which is imported instead; rename it to my_{own.name}"


_SILENT = {"version": 1, "root": None, "disable_existing_loggers": False}

ALLOWED_HYDRA_VALUES: dict[str, tuple[Any, ...]] = {
    "run": ({"dir": "${run_folder:${run_dir},${resume}}"}, {"dir": "."}),
    "sweep.dir": ("${sweep_folder:}", "${no_sweep:}"),
    "sweep.subdir": ("${sweep_run:${run_dir},${hydra.job.num}}", "${hydra.job.num}"),
    "output_subdir": (None,),
    "callbacks": ({},),
    "hydra_logging": (_SILENT,),
    "job_logging": (_SILENT,),
    "job.chdir": (False,),
    "job.env_set": ({},),
    "job.env_copy": ([],),
}
"""Hydra's keys that create folders, change the process or call code, with the values that conf/task gives them."""


def check_composed_configs() -> None:
    """Patch Hydra to check the section `hydra` of every config when it is composed, before Hydra uses it."""
    load = ConfigLoaderImpl.load_configuration

    def load_checked(*args: Any, **kwargs: Any) -> DictConfig:
        config = load(*args, **kwargs)
        check_hydra(config.hydra)
        return config

    ConfigLoaderImpl.load_configuration = load_checked  # type: ignore[method-assign]


@contextmanager
def hydra_checks(*, has_own_configs: bool) -> Iterator[None]:
    """Check composed configs while the block runs.

    Args:
        has_own_configs: whether the command has a --config-dir. Only the user's configs can set hydra.mode; without
            them Hydra need not compose the config a second time to read it.
    """
    load, get_mode = ConfigLoaderImpl.load_configuration, Hydra.get_mode
    check_composed_configs()
    if not has_own_configs:
        Hydra.get_mode = lambda *_, **__: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        ConfigLoaderImpl.load_configuration = load  # type: ignore[method-assign]
        Hydra.get_mode = get_mode  # type: ignore[method-assign]


def check_hydra(hydra: DictConfig) -> None:
    """Check the section `hydra` of a config.

    Raises:
        ConfigError: a key would make Hydra write to other folders or call untrusted code.
    """
    node: Any = OmegaConf.to_container(hydra, resolve=False)
    for key, allowed in ALLOWED_HYDRA_VALUES.items():
        value: Any = node
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value not in allowed:
            raise ConfigError(f"hydra.{key}={value}: gantrain sets this key itself; leave it out of your configs.")
    for name in ("launcher", "sweeper"):
        for target in _targets(node.get(name)):
            if not _is_within(str(target), ["hydra", "hydra_plugins"]):
                raise ConfigError(
                    f"hydra.{name}: _target_={target} is not a plugin of Hydra; choose one with hydra/{name}=NAME."
                )


def _targets(node: Any) -> Iterator[Any]:
    if isinstance(node, dict):
        yield from (value for key, value in node.items() if key == "_target_")
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _targets(value)


def _is_within(name: str, packages: list[str]) -> bool:
    return any(name.startswith(f"{package}.") for package in packages)
