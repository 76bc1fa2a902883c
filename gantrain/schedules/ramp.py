"""The common part of linear and cosine schedules, and checks of options."""

import math

from gantrain.schedules.base import Clock, Span


class Ramp:
    """Change a value from `start` to `end` in an interval; it is constant before and after. Subclasses override `ease`.

    Args:
        of: the config keys that the schedule changes, or a single key.
        start, end: the first and the last value.
        begin, finish: the interval: fractions of the training in [0, 1], or numbers of images if `unit` is "images".
        unit: "fraction" or "images".

    Raises:
        ValueError: an option is out of range.
    """

    def __init__(self, *, of: list[str] | str, start: float, end: float, begin: float, finish: float, unit: str):
        self.of = check_keys(of)
        self.start, self.end = check_finite("start", start), check_finite("end", end)
        try:
            self.span = Span(begin, finish, unit)
        except ValueError as error:
            raise ValueError(
                f"begin={begin}, finish={finish}, unit={unit}: begin and finish must be fractions of the training "
                "(0 <= begin < finish <= 1, unit=fraction) or numbers of images (0 <= begin < finish, unit=images); "
                "0, 1 and fraction are usual."
            ) from error

    def __call__(self, clock: Clock) -> float:
        """Return the value at this time."""
        weight = self.ease(self.span.done(clock))
        return (1 - weight) * self.start + weight * self.end  # not start + weight * (end - start), which rounds

    def ease(self, done: float) -> float:
        """Return the weight of `end`, in [0, 1], when the fraction `done` of the interval is done."""
        raise NotImplementedError


def check_keys(of: list[str] | str) -> list[str]:
    """Return the option `of` of a schedule as a list of config keys.

    Raises:
        ValueError: it is empty.
    """
    keys = [of] if isinstance(of, str) else list(of)
    if not keys or not all(keys):
        raise ValueError(f"of={of}: a schedule needs at least one config key, for example of=[optimizer.lr].")
    return keys


def check_finite(name: str, value: float) -> float:
    """Return the value as a float.

    Raises:
        ValueError: it is NaN or Inf.
    """
    if not math.isfinite(value):
        raise ValueError(f"{name}={value}: the values of a schedule must be finite; factors from 0 to 1 are usual.")
    return float(value)
