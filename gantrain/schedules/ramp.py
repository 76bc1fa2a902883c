"""What linear and cosine schedules share."""

import math

from gantrain.schedules.base import Clock, Span


class Ramp:
    """Move a value from `start` to `end` over a span, and hold it constant before and after; override ease.

    Args:
        of: the config keys that it drives, or a single one.
        start, end: the first and the last value.
        begin, finish: when it moves: parts of the training in [0, 1], or numbers of images if `unit` is "images".
        unit: "fraction" or "images".
    """

    def __init__(self, *, of: list[str] | str, start: float, end: float, begin: float, finish: float, unit: str):
        self.of = driven_keys(of)
        self.start, self.end = check_finite("start", start), check_finite("end", end)
        try:
            self.span = Span(begin, finish, unit)
        except ValueError as error:
            raise ValueError(
                f"begin={begin}, finish={finish}, unit={unit}: a schedule runs from begin to finish, in parts of the "
                "training (0 <= begin < finish <= 1, unit=fraction) or in images (0 <= begin < finish, unit=images); "
                "usual are 0, 1 and fraction."
            ) from error

    def __call__(self, clock: Clock) -> float:
        """Return the value at this time."""
        weight = self.ease(self.span.done(clock))
        return (1 - weight) * self.start + weight * self.end  # exactly start and end at the ends

    def ease(self, done: float) -> float:
        """Return the weight of `end` in [0, 1] when this part of the span is done."""
        raise NotImplementedError


def driven_keys(of: list[str] | str) -> list[str]:
    """Return the config keys that a schedule drives as a list.

    Raises:
        ValueError: there are none.
    """
    keys = [of] if isinstance(of, str) else list(of)
    if not keys or not all(keys):
        raise ValueError(f"of={of}: a schedule drives one or more config keys, for example of=[optimizer.lr].")
    return keys


def check_finite(name: str, value: float) -> float:
    """Return the value as a float.

    Raises:
        ValueError: it is NaN or infinite.
    """
    if not math.isfinite(value):
        raise ValueError(f"{name}={value}: a schedule's values are finite numbers; usual are factors from 0 to 1.")
    return float(value)
