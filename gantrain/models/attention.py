"""Self-attention over the pixels of feature maps."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import max_pool2d


class SelfAttention(nn.Module):
    """Add to each pixel of the features [n, c, h, w] a weighted mean over all pixels.

    Queries and keys have c / 8 channels, values c / 2. Keys and values are halved in size by max pooling, as in the
    released code. The dot products are not scaled. The result is multiplied by gamma, which starts at 0, so that the
    network first learns from near pixels.

    Source: Zhang 2019 (SAGAN), section 3, equations 1 to 3.

    Args:
        num_channels: number of channels c, any from 1; c / 8 and c / 2 are rounded down, but are at least 1.
    """

    def __init__(self, num_channels: int):
        super().__init__()
        num_keys, num_values = max(num_channels // 8, 1), max(num_channels // 2, 1)
        self.query = nn.Conv2d(num_channels, num_keys, 1, bias=False)
        self.key = nn.Conv2d(num_channels, num_keys, 1, bias=False)
        self.value = nn.Conv2d(num_channels, num_values, 1, bias=False)
        self.out = nn.Conv2d(num_values, num_channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Return x + gamma * attention(x)."""
        query = self.query(x).flatten(2)
        key, value = max_pool2d(self.key(x), 2).flatten(2), max_pool2d(self.value(x), 2).flatten(2)
        weights = torch.softmax(query.mT @ key, dim=2)  # [n, pixels, pixels / 4]
        attended = (value @ weights.mT).view(len(x), -1, *x.shape[2:])
        output: Tensor = x + self.gamma * self.out(attended)
        return output
