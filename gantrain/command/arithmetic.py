"""Arithmetic in config files, for settings that follow from others: ${product:312.5,${batch_size}}.

${image_size:256} is the image size of the data, or 256 where the config does not tell it.
"""

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from omegaconf import DictConfig, OmegaConf

from gantrain.config import is_number
from gantrain.errors import ConfigError

NATIVE_SIZES = {"cifar10": 32, "cifar100": 32, "svhn": 32, "stl10": 96} | dict.fromkeys(
    ("mnist", "fashion_mnist", "digits", "stacked_mnist"), 28
)
"""The image size in pixels that dataset.image_size=null stands for, by the name of the dataset's function."""


def register_arithmetic() -> None:
    """Register the operations with OmegaConf: product, ratio, quotient, min, max, from and image_size."""
    OmegaConf.register_new_resolver("image_size", image_size, replace=True)
    for name, function in OPERATIONS.items():
        OmegaConf.register_new_resolver(name, partial(compute, name, function), replace=True)


def product(*factors: float) -> float:
    """Multiply numbers."""
    return math.prod(factors)


def ratio(a: float, b: float) -> float:
    """Divide."""
    return a / b


def quotient(a: float, b: float) -> int:
    """Divide, and round down to a whole number."""
    return int(a // b)


def value_from(x: float, limit: float, below: float, otherwise: float) -> float:
    """Return the third number if the first is below the second, otherwise the fourth."""
    return below if x < limit else otherwise


def image_size(otherwise: int, *, _root_: DictConfig) -> object:
    """Return dataset.image_size, or the native size if that is null, or the given number if neither is known."""
    size = OmegaConf.select(_root_, "dataset.image_size")
    if size is None:
        target = str(OmegaConf.select(_root_, "dataset._target_"))
        size = NATIVE_SIZES.get(target.rpartition(".")[2], otherwise)
    return size


OPERATIONS: dict[str, Callable[..., float]] = {
    "product": product,
    "ratio": ratio,
    "quotient": quotient,
    "min": min,
    "max": max,
    "from": value_from,
}


def compute(name: str, function: Callable[..., float], *values: Any, _node_: Any) -> float:
    """Apply an operation to numbers.

    Raises:
        ConfigError: a value is not a number, or the operation is impossible.
    """
    key = _node_._get_full_key(None)
    for value in values:
        if not is_number(value):
            shown = "null" if value is None else value
            raise ConfigError(
                f"{key} is computed from a number, but that is {shown} here; set the number, for example "
                f"dataset.image_size=64, or set {key}."
            )
    try:
        return function(*values)
    except (TypeError, ValueError, ArithmeticError) as error:
        if isinstance(error, ZeroDivisionError):
            refuse_zeros(key, _node_)
        raise ConfigError(f"{key} cannot be computed by {name} of {', '.join(map(str, values))} ({error}).") from None


def refuse_zeros(key: str, node: Any) -> None:
    """Name the setting that is 0, if a key is computed from one.

    Raises:
        ConfigError: a setting is 0.
    """
    for source in re.findall(r"\$\{([\w.]+)\}", str(node._value())):
        if OmegaConf.select(node._get_root(), source) == 0:
            raise ConfigError(f"{source}=0: must be larger, for example {source}=64; {key} is computed from it.")
