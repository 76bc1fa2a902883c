"""Checks of dataset options; each error names the option and the rule."""

import math

from gantrain.errors import ConfigError


def check_count(name: str, value: object) -> None:
    """Raise an error unless the value is a whole number of at least 1.

    Raises:
        ConfigError: names `dataset.<name>`.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"dataset.{name}={_as_typed(value)} must be a whole number of at least 1.")


def check_finite(name: str, value: object) -> None:
    """Raise an error unless the value is a finite number.

    Raises:
        ConfigError: names `dataset.<name>`.
    """
    if not _is_finite(value):
        raise ConfigError(f"dataset.{name}={_as_typed(value)} must be a finite number.")


def check_non_negative(name: str, value: object) -> None:
    """Raise an error unless the value is a finite number of at least 0.

    Raises:
        ConfigError: names `dataset.<name>`.
    """
    if not _is_finite(value) or value < 0:  # type: ignore[operator]
        raise ConfigError(f"dataset.{name}={_as_typed(value)} must be a finite number of at least 0.")


def check_positive(name: str, value: object) -> None:
    """Raise an error unless the value is a finite number above 0.

    Raises:
        ConfigError: names `dataset.<name>`.
    """
    if not _is_finite(value) or value <= 0:  # type: ignore[operator]
        raise ConfigError(f"dataset.{name}={_as_typed(value)} must be a finite number above 0.")


def check_fraction(name: str, value: object) -> None:
    """Raise an error unless the value is a number in [0, 1].

    Raises:
        ConfigError: names `dataset.<name>`.
    """
    if not _is_finite(value) or not 0 <= value <= 1:  # type: ignore[operator]
        raise ConfigError(f"dataset.{name}={_as_typed(value)} must be a number from 0 to 1.")


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _as_typed(value: object) -> str:
    return "null" if value is None else str(value)
