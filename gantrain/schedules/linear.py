"""A value that changes linearly."""

from gantrain.schedules.ramp import Ramp


class Linear(Ramp):
    """Move a value from `start` to `end` along a line: start + (end - start) t."""

    def ease(self, done: float) -> float:
        """Return t itself."""
        return done
