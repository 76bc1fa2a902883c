"""A value that jumps."""

from gantrain.schedules.base import Clock, Span
from gantrain.schedules.ramp import check_finite, driven_keys


class Steps:
    """Hold values[0] until at[0], values[1] from there until at[1], and so on.

    Args:
        of: the config keys that it drives, or a single one.
        values: the values, one more than `at`.
        at: when the next value takes over: parts of the training in (0, 1], or numbers of images if `unit` is "images".
        unit: "fraction" or "images".
    """

    def __init__(self, *, of: list[str] | str, values: list[float], at: list[float], unit: str):
        if len(values) != len(at) + 1:
            raise ValueError(
                f"values={values}, at={at}: there is one value more than there are jumps, "
                "for example values=[1,0.1] at=[0.5]."
            )
        if any(late <= early for early, late in zip([0.0, *at], at, strict=False)):
            raise ValueError(f"at={at}: the times of the jumps are above 0 and increase, for example at=[0.5,0.75].")
        self.of = driven_keys(of)
        self.values = [check_finite("values", value) for value in values]
        try:
            self.spans = [Span(0.0, time, unit) for time in at]
        except ValueError as error:
            raise ValueError(
                f"at={at}, unit={unit}: the times are parts of the training up to 1 (unit=fraction) "
                "or numbers of images (unit=images), for example at=[0.5] unit=fraction."
            ) from error

    def __call__(self, clock: Clock) -> float:
        """Return the value at this time."""
        return self.values[sum(span.done(clock) == 1.0 for span in self.spans)]
