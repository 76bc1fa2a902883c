"""The networks of gantrain.models.r3gan, conditioned on labels."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from gantrain.losses.base import Logits
from gantrain.models import r3gan
from gantrain.models import r3gan_parts as parts
from gantrain.models.precision import run_stage
from gantrain.models.r3gan import Widths


class Generator(nn.Module):
    """Map latents z [n, z_dim] and labels y [n] to images [n, c, h, w]; no activation limits them to [-1, 1].

    The embedding of the label is concatenated to z.

    Source: Huang 2024, appendix.

    Args:
        image_shape: (c, h, w) with h = w of 4 to 15 pixels times a power of 2.
        num_classes: labels lie in [0, num_classes).
        embedding_dim: dimension of the label embeddings.
        width, ...: as in r3gan.Generator.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        z_dim: int,
        *,
        num_classes: int,
        embedding_dim: int,
        width: Widths,
        full_width_until: int,
        num_blocks: Widths,
        expansion: int,
        group_size: int,
        slope: float,
        num_bf16_stages: int,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.embedding = parts.label_embedding(num_classes, embedding_dim)
        self.network = r3gan.Generator(
            image_shape,
            z_dim + embedding_dim,
            width=width,
            full_width_until=full_width_until,
            num_blocks=num_blocks,
            expansion=expansion,
            group_size=group_size,
            slope=slope,
            num_bf16_stages=num_bf16_stages,
        )

    def forward(self, z: Float[Tensor, "n z_dim"], y: Int64[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
        """Return the images of latents and labels."""
        images: Tensor = self.network(torch.cat([z, self.embedding(y)], dim=1))
        return images


class Discriminator(nn.Module):
    """Map images [n, c, h, w] and labels y [n] to logits [n]: the product of the image's vector and the label's.

    Source: Miyato and Koyama 2018 (projection discriminator), without the unconditional term; Huang 2024, appendix.

    Args:
        image_shape: (c, h, w) with h = w of 4 to 15 pixels times a power of 2.
        num_classes: labels lie in [0, num_classes).
        width, ...: as in r3gan.Generator.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        *,
        num_classes: int,
        width: Widths,
        full_width_until: int,
        num_blocks: Widths,
        expansion: int,
        group_size: int,
        slope: float,
        num_bf16_stages: int,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.features = r3gan.Features(
            image_shape,
            width=width,
            full_width_until=full_width_until,
            num_blocks=num_blocks,
            expansion=expansion,
            group_size=group_size,
            slope=slope,
            num_bf16_stages=num_bf16_stages,
        )
        dim = self.features.num_features
        self.basis_linear = parts.linear(dim, dim)
        # Without this gain the product of two vectors would grow with their dimension.
        self.embedding = parts.label_embedding(num_classes, dim, gain=dim**-0.5)

    def forward(self, x: Float[Tensor, "n c h w"], y: Int64[Tensor, " n"]) -> Logits:
        """Return the logits of images with their labels."""
        features = run_stage(self.basis_linear, self.features(x), in_bf16=False)
        logits: Tensor = (features * self.embedding(y)).sum(1)
        return logits
