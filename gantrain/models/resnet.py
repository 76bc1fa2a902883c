"""The residual networks of SNGAN (Miyato 2018) and WGAN-GP (Gulrajani 2017) for square images."""

from collections.abc import Callable, Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import relu

from gantrain.losses.base import Logits
from gantrain.models.attention import SelfAttention
from gantrain.models.residual import (
    DownBlock,
    ResidualInit,
    UpBlock,
    UpsampleName,
    check_attention,
    discriminator_layout,
    generator_layout,
    initialize,
    pool,
)
from gantrain.models.spectral_norm import spectral_norm

PoolingName = Literal["sum", "mean"]
DiscriminatorNorm = Literal["spectral", "none"]
HiddenName = Literal["before", "after"]


class GeneratorBody(nn.Module):
    """Map latents z [n, z_dim] to images [n, c, h, w] in [-1, 1]: a linear layer, residual blocks, a 3x3 convolution.

    Args:
        num_channels: number of channels of the image.
        base: size of the first feature maps.
        channels: number of channels at each size, from the base to the image.
        norm: makes the normalization of a number of channels in the blocks.
        attention: numbers of the blocks, from 1, after which self-attention is applied.
    """

    def __init__(
        self,
        z_dim: int,
        num_channels: int,
        base: int,
        channels: Sequence[int],
        *,
        norm: Callable[[int], nn.Module],
        upsample: UpsampleName,
        attention: Sequence[int],
    ):
        super().__init__()
        num_blocks = len(channels) - 1
        check_attention(attention, num_blocks)
        self.linear = nn.Linear(z_dim, channels[0] * base * base)
        self.reshape = nn.Unflatten(1, (channels[0], base, base))
        self.blocks = nn.ModuleList(
            UpBlock(channels[i], channels[i + 1], norm=norm, upsample=upsample) for i in range(num_blocks)
        )
        self.attention = nn.ModuleDict({str(i): SelfAttention(channels[i]) for i in attention})
        self.output = nn.Sequential(
            nn.BatchNorm2d(channels[-1]), nn.ReLU(), nn.Conv2d(channels[-1], num_channels, 3, padding=1), nn.Tanh()
        )

    def forward(self, z: Float[Tensor, "n z_dim"], *conditions: Tensor) -> Float[Tensor, "n c h w"]:
        """Return the images of latents.

        Args:
            conditions: passed to the normalizations in the blocks: nothing, one for all blocks, or one for each block.
        """
        x = self.reshape(self.linear(z))
        for i, block in enumerate(self.blocks, 1):
            x = block(x, *(conditions if len(conditions) < 2 else conditions[i - 1 : i]))
            if str(i) in self.attention:
                x = self.attention[str(i)](x)
        images: Tensor = self.output(x)
        return images


class DiscriminatorBody(nn.Module):
    """Map images [n, num_channels, h, w] to features [n, c]: residual blocks, ReLU, sum or mean over the pixels.

    Args:
        channels: number of channels after each block.
        num_halvings: number of blocks, the first ones, that halve the size.
        hidden: whether the channels between the two convolutions of a block are those before or after it; those of the
            first block are always those after it.
        attention: numbers of the blocks, from 1, after which self-attention is applied.
    """

    def __init__(
        self,
        num_channels: int,
        channels: Sequence[int],
        *,
        num_halvings: int,
        pooling: PoolingName,
        attention: Sequence[int],
        hidden: HiddenName,
    ):
        super().__init__()
        check_attention(attention, len(channels))
        before = [num_channels, *channels[:-1]]
        self.blocks = nn.ModuleList(
            DownBlock(
                num_in,
                num_out,
                num_hidden=num_in if i and hidden == "before" else num_out,
                downsample=i < num_halvings,
                first=i == 0,
            )
            for i, (num_in, num_out) in enumerate(zip(before, channels, strict=True))
        )
        self.attention = nn.ModuleDict({str(i): SelfAttention(channels[i - 1]) for i in attention})
        self.pooling: PoolingName = pooling

    def forward(self, x: Float[Tensor, "n num_channels h w"]) -> Float[Tensor, "n c"]:
        """Return the features of images."""
        for i, block in enumerate(self.blocks, 1):
            x = block(x)
            if str(i) in self.attention:
                x = self.attention[str(i)](x)
        return pool(relu(x), self.pooling)


class Generator(nn.Module):
    """Map latents z [n, z_dim] to images [n, c, h, w] in [-1, 1].

    Source: Miyato 2018, appendix B.4; for 32 px also the released code of Gulrajani 2017.

    Args:
        image_shape: (c, h, w) with h = w a multiple of 4 from 16 to 256.
        width, multipliers: number of channels; see residual.generator_layout.
        upsample: how feature maps are doubled in size, nearest (Miyato 2018) or bilinear.
        init: see residual.initialize.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        z_dim: int,
        *,
        width: int,
        multipliers: Sequence[int] | None,
        upsample: UpsampleName,
        init: ResidualInit,
    ):
        super().__init__()
        base, channels = generator_layout(image_shape, width=width, multipliers=multipliers)
        self.body = GeneratorBody(
            z_dim, image_shape[0], base, channels, norm=nn.BatchNorm2d, upsample=upsample, attention=()
        )
        initialize(self, init)

    def forward(self, z: Float[Tensor, "n z_dim"]) -> Float[Tensor, "n c h w"]:
        """Return the images of latents."""
        images: Tensor = self.body(z)
        return images


class Discriminator(nn.Module):
    """Map images [n, c, h, w] to logits [n].

    Source: Miyato 2018, appendix B.4; for 32 px also the released code of Gulrajani 2017.

    Args:
        image_shape: (c, h, w) with h = w a multiple of 4 from 16 to 256.
        width, multipliers, num_halvings: number of channels and sizes; see residual.discriminator_layout.
        norm: spectral (SNGAN) or none (WGAN-GP).
        pooling: sum (SNGAN) or mean (WGAN-GP) over the pixels of the last features.
        head_bias: whether the last linear layer has a bias.
        init: see residual.initialize.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        *,
        width: int,
        multipliers: Sequence[int] | None,
        num_halvings: int | None,
        norm: DiscriminatorNorm,
        pooling: PoolingName,
        head_bias: bool,
        init: ResidualInit,
    ):
        super().__init__()
        channels, num_halvings = discriminator_layout(
            image_shape, width=width, multipliers=multipliers, num_halvings=num_halvings
        )
        self.body = DiscriminatorBody(
            image_shape[0], channels, num_halvings=num_halvings, pooling=pooling, attention=(), hidden="before"
        )
        self.head = nn.Sequential(nn.Linear(channels[-1], 1, bias=head_bias), nn.Flatten(0))
        initialize(self, init)
        if norm == "spectral":
            spectral_norm(self)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Logits:
        """Return the logits of images."""
        logits: Tensor = self.head(self.body(x))
        return logits
