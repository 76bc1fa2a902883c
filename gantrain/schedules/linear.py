"""A value that changes linearly."""

from gantrain.schedules.ramp import Ramp


class Linear(Ramp):
    """Change a value from `start` to `end` linearly: start + (end - start) t, with t in [0, 1]."""

    def ease(self, done: float) -> float:
        """Return t."""
        return done
