"""The weight clipping of WGAN."""

from typing import ClassVar, Literal

import torch
from torch import nn

from gantrain.regularizers.base import Regularizer


class WeightClip(Regularizer):
    """Keep every parameter of the critic in [-limit, limit], and with it the critic Lipschitz.

    Source: Arjovsky 2017, Algorithm 1, line 7.
    """

    # Normalizing by the batch undoes what clipping bounds: the critic is no longer Lipschitz in one sample.
    with_batch_norm: ClassVar[Literal["doubtful"]] = "doubtful"
    bounds_lipschitz = True

    def __init__(self, *, limit: float):
        if limit <= 0:
            raise ValueError(f"limit={limit}: weights are clipped to [-limit, limit], which must be > 0 (paper: 0.01).")
        self.limit = limit

    @torch.no_grad()
    def project(self, critic: nn.Module) -> None:
        """Clip in place."""
        for parameter in critic.parameters():
            parameter.clamp_(-self.limit, self.limit)
