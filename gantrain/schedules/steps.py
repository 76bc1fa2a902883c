"""A piecewise constant value."""

from gantrain.schedules.base import Clock, Span
from gantrain.schedules.ramp import check_finite, check_keys


class Steps:
    """Keep values[0] until at[0], then values[1] until at[1], and so on.

    Args:
        of: the config keys that the schedule changes, or a single key.
        values: the values, one more than `at`.
        at: the times of the changes, increasing: fractions of the training in (0, 1], or numbers of images if `unit` is
            "images".
        unit: "fraction" or "images".

    Raises:
        ValueError: an option is out of range.
    """

    def __init__(self, *, of: list[str] | str, values: list[float], at: list[float], unit: str):
        if len(values) != len(at) + 1:
            raise ValueError(
                f"values={values}, at={at}: values must have one element more than at, "
                "for example values=[1,0.1] at=[0.5]."
            )
        if any(late <= early for early, late in zip([0.0, *at], at, strict=False)):
            raise ValueError(f"at={at}: the times must be above 0 and increase, for example at=[0.5,0.75].")
        self.of = check_keys(of)
        self.values = [check_finite("values", value) for value in values]
        try:
            self.spans = [Span(0.0, time, unit) for time in at]
        except ValueError as error:
            raise ValueError(
                f"at={at}, unit={unit}: the times must be fractions of the training up to 1 (unit=fraction) "
                "or numbers of images (unit=images), for example at=[0.5] unit=fraction."
            ) from error

    def __call__(self, clock: Clock) -> float:
        """Return the value at this time."""
        return self.values[sum(span.done(clock) == 1.0 for span in self.spans)]
