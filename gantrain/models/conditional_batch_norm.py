"""Batch normalization whose scale and shift depend on the class."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import embedding

from gantrain.models.layers import check_num_classes


class ConditionalBatchNorm2d(nn.Module):
    """BatchNorm of features [n, c, h, w] with a scale and a shift for each class, 1 and 0 at the start.

    The statistics are those of the whole batch, over all classes.

    Source: Dumoulin 2017, section 2.2 (for instance normalization); Miyato and Koyama 2018, appendix A.

    Attributes:
        gamma, beta: scale and shift [num_classes, c].
    """

    def __init__(self, num_features: int, *, num_classes: int):
        super().__init__()
        check_num_classes(num_classes)
        self.norm = nn.BatchNorm2d(num_features, affine=False)
        self.gamma = nn.Parameter(torch.ones(num_classes, num_features))
        self.beta = nn.Parameter(torch.zeros(num_classes, num_features))

    def forward(self, x: Float[Tensor, "n c h w"], y: Int64[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
        """Return the normalized features with the scale and shift of each sample's class."""
        return scale_and_shift(self.norm(x), embedding(y, self.gamma), embedding(y, self.beta))


class LinearConditionalBatchNorm2d(nn.Module):
    """BatchNorm of features [n, c, h, w] whose scale and shift are linear in a vector for each sample.

    The scale is 1 plus a linear function, the shift is another; neither has a constant part.

    Source: Brock 2019 (BigGAN), section 3.1 and appendix B.

    Args:
        condition_dim: dimension of the vectors.
    """

    def __init__(self, num_features: int, *, condition_dim: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(num_features, affine=False)
        self.gain = nn.Linear(condition_dim, num_features, bias=False)
        self.shift = nn.Linear(condition_dim, num_features, bias=False)

    def forward(
        self, x: Float[Tensor, "n c h w"], condition: Float[Tensor, "n condition_dim"]
    ) -> Float[Tensor, "n c h w"]:
        """Return the normalized features with the scale and shift of each sample's vector."""
        return scale_and_shift(self.norm(x), 1 + self.gain(condition), self.shift(condition))


def scale_and_shift(
    x: Float[Tensor, "n c h w"], gamma: Float[Tensor, "n c"], beta: Float[Tensor, "n c"]
) -> Float[Tensor, "n c h w"]:
    """Return x times gamma plus beta, for each sample and channel."""
    gamma, beta = gamma.to(x.dtype)[:, :, None, None], beta.to(x.dtype)[:, :, None, None]
    return torch.addcmul(beta, x, gamma)
