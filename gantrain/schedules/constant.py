"""A value that does not change."""

from gantrain.schedules.base import Clock
from gantrain.schedules.ramp import check_finite, check_keys


class Constant:
    """Keep a value for the whole training.

    Args:
        of: the config keys that the schedule changes, or a single key.
        value: the value.
    """

    def __init__(self, *, of: list[str] | str, value: float):
        self.of = check_keys(of)
        self.value = check_finite("value", value)

    def __call__(self, clock: Clock) -> float:
        """Return the value at this time."""
        return self.value
