"""The generator of BigGAN. The discriminator is conditional_resnet.Discriminator with hidden=after."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from gantrain.models.conditional_batch_norm import LinearConditionalBatchNorm2d
from gantrain.models.layers import label_embedding
from gantrain.models.residual import ResidualInit, UpsampleName, generator_layout, initialize
from gantrain.models.resnet import GeneratorBody
from gantrain.models.spectral_norm import spectral_norm


class Generator(nn.Module):
    """Map latents z [n, z_dim] and labels y [n] to images [n, c, h, w] in [-1, 1].

    z is split in equal chunks, one for the first layer and one for each block (hierarchical latent); if z_dim is not a
    multiple of their number, the first layer gets the rest too. The scale and shift of the BatchNorm layers of a block
    are linear in its chunk and an embedding of the label, which all blocks share. The last BatchNorm is unconditional.

    Source: Brock 2019, section 3.1 and appendix B, figure 15.

    Args:
        image_shape: (c, h, w) with h = w a multiple of 4 from 16 to 256.
        num_classes: labels lie in [0, num_classes).
        shared_dim: dimension of the embedding of a label.
        width, multipliers: number of channels; see residual.generator_layout.
        upsample: how feature maps are doubled in size, nearest or bilinear.
        attention: numbers of the blocks, from 1, after which self-attention is applied.
        norm: "batch": only the (conditional) BatchNorm; "spectral": also spectral norm of all weights but the
            embedding.
        init: see residual.initialize.

    Raises:
        ValueError: z_dim is smaller than the number of chunks.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        z_dim: int,
        *,
        num_classes: int,
        shared_dim: int,
        width: int,
        multipliers: Sequence[int] | None,
        upsample: UpsampleName,
        attention: Sequence[int],
        norm: Literal["batch", "spectral"],
        init: ResidualInit,
    ):
        super().__init__()
        self.num_classes = num_classes
        base, channels = generator_layout(image_shape, width=width, multipliers=multipliers)
        num_blocks = len(channels) - 1
        chunk = z_dim // (num_blocks + 1)
        if chunk < 1:
            raise ValueError(
                f"z_dim={z_dim}: BigGAN splits z in {num_blocks + 1} chunks for images of {image_shape[1]} px; choose "
                f"latent.z_dim of at least {num_blocks + 1}, for example {20 * (num_blocks + 1)}."
            )
        self.sizes = [z_dim - num_blocks * chunk, *[chunk] * num_blocks]
        self.embedding = label_embedding(num_classes, shared_dim)
        self.body = GeneratorBody(
            *(self.sizes[0], image_shape[0], base, channels),
            norm=partial(LinearConditionalBatchNorm2d, condition_dim=shared_dim + chunk),
            upsample=upsample,
            attention=attention,
        )
        initialize(self, init)
        if norm == "spectral":
            spectral_norm(self.body)

    def forward(self, z: Float[Tensor, "n z_dim"], y: Int64[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
        """Return the images of latents and labels."""
        first, *chunks = torch.split_with_sizes(z, self.sizes, dim=1)
        shared = self.embedding(y)
        images: Tensor = self.body(first, *(torch.cat([shared, chunk], dim=1) for chunk in chunks))
        return images
