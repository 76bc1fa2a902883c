"""A value that follows half a period of a cosine."""

import math

from gantrain.schedules.ramp import Ramp


class Cosine(Ramp):
    """Change a value from `start` to `end` by start + (end - start) (1 - cos(pi t)) / 2, with t in [0, 1].

    Source: Loshchilov and Hutter 2017 (SGDR), equation 5, without restarts. Huang 2024 (R3GAN) uses it for the learning
        rate, beta2, gamma, the half-life of the EMA and the strength of the augmentation.
    """

    def ease(self, done: float) -> float:
        """Return (1 - cos(pi t)) / 2."""
        return (1 - math.cos(math.pi * done)) / 2
