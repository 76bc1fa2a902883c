"""A value that follows half a period of a cosine."""

import math

from gantrain.schedules.ramp import Ramp


class Cosine(Ramp):
    """Move a value from `start` to `end`, slowly at both ends: start + (end - start) (1 - cos(pi t)) / 2.

    Source: Loshchilov and Hutter 2017 (SGDR), equation 5, without restarts; Huang 2024 (R3GAN) moves the learning
        rate, beta2, gamma, the EMA's half-life and the augmentation's strength so.
    """

    def ease(self, done: float) -> float:
        """Return (1 - cos(pi t)) / 2."""
        return (1 - math.cos(math.pi * done)) / 2
