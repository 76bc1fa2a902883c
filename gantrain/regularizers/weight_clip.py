"""The weight clipping of WGAN."""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from gantrain.regularizers.base import Regularizer


class WeightClip(Regularizer):
    """Clip every parameter of the critic to [-limit, limit], which bounds its Lipschitz constant.

    Source: Arjovsky 2017, Algorithm 1, line 7.

    Raises:
        ValueError: limit is not positive.
    """

    # Batch normalization divides by the standard deviation of the batch, and clipping gives that no lower bound.
    with_batch_norm: ClassVar[Literal["doubtful"]] = "doubtful"
    bounds_lipschitz = True

    def __init__(self, *, limit: float):
        if limit <= 0:
            raise ValueError(f"limit={limit}: the limit of the weights must be above 0 (0.01 in the paper).")
        self.limit = limit

    @torch.no_grad()
    def project(self, D: nn.Module) -> None:
        """Clip in place; NaN and Inf become NaN, because clipping Inf to the limit would hide a divergence."""
        parameters: list[Tensor] = list(D.parameters())
        non_finite = torch._foreach_sub(parameters, parameters)  # NaN where a weight is NaN or Inf, else 0
        torch._foreach_clamp_min_(parameters, -self.limit)
        torch._foreach_clamp_max_(parameters, self.limit)
        torch._foreach_sub_(parameters, non_finite)
