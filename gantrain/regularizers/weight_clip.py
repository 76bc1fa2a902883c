"""The weight clipping of WGAN."""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

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
        """Clip in place. A weight that is not finite becomes nan: the limit in its place would hide a divergence."""
        parameters: list[Tensor] = list(critic.parameters())
        spoilt = torch._foreach_sub(parameters, parameters)  # inf - inf is nan, all else 0
        torch._foreach_clamp_min_(parameters, -self.limit)
        torch._foreach_clamp_max_(parameters, self.limit)
        torch._foreach_sub_(parameters, spoilt)
