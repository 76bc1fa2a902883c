"""The parts of StyleGAN2's networks (Karras 2020): the mapping of latents to styles, and the stages of G and D."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

import gantrain.seeding as seeding
from gantrain.models import stylegan2_ops as ops
from gantrain.models.precision import full_precision
from gantrain.models.r3gan_parts import Upsample

NoiseName = Literal["random", "constant", "none"]
"""Noise of G in training: new for each image, always the same, or none."""

Architecture = Literal["resnet", "orig"]
"""Stages of D: with residual connections, or without (as in the first StyleGAN)."""

Styles = Float[Tensor, "n num_styles w_dim"]
"""The styles of each layer of G; without style mixing they are equal."""


class Mapping(nn.Module):
    """Map latents z [n, z_dim], labels y [n], or both, to vectors w [n, dim] by fully connected layers.

    z and the embedding of y are each normalized by their second moment, and concatenated.

    Source: Karras 2019 (StyleGAN), section 2; with labels: Karras 2020 (StyleGAN2-ADA), appendix.

    Args:
        z_dim: dimension of z; 0: there is no z.
        dim: dimension of w, and of the label embedding.
        lr_multiplier: the learning rate of the layers relative to that of other layers.
        num_classes: number of classes; None: there are no labels.

    Raises:
        ValueError: an option is out of its range.
    """

    def __init__(self, z_dim: int, dim: int, *, num_layers: int, lr_multiplier: float, num_classes: int | None = None):
        super().__init__()
        if dim < 1:
            raise ValueError(f"w_dim={dim}: w needs at least one dimension (512 is usual).")
        if num_layers < 1:
            raise ValueError(f"num_mapping_layers={num_layers}: must be at least 1 (8; 2 for little data).")
        if not lr_multiplier > 0:
            raise ValueError(f"mapping_lr_multiplier={lr_multiplier}: must be above 0 (0.01 is usual).")
        self.embedding = None if num_classes is None else ops.LabelEmbedding(num_classes, dim)
        widths = [z_dim + (0 if num_classes is None else dim)] + [dim] * num_layers
        make = partial(ops.Linear, activated=True, lr_multiplier=lr_multiplier)
        self.layers = nn.ModuleList(make(*widths[i : i + 2]) for i in range(num_layers))

    def forward(
        self, z: Float[Tensor, "n z_dim"] | None, y: Int64[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n dim"]:
        """Return the vectors."""
        parts = [] if z is None else [ops.normalize_second_moment(z)]
        if self.embedding is not None:
            parts.append(ops.normalize_second_moment(self.embedding(y)))
        w = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        for layer in self.layers:
            w = layer(w)
        return w


class StyledConv(nn.Conv2d):
    """A modulated 3x3 convolution, noise, bias and leaky ReLU; it may double height and width.

    Source: Karras 2020 (StyleGAN2), section 2.2 and figure 2.

    Args:
        size: height and width of the result.
        up: whether to double height and width.
        clamp: limit of the result's absolute value; None: no limit.
    """

    def __init__(self, num_in: int, num_out: int, *, w_dim: int, size: int, up: bool, clamp: float | None):
        super().__init__(num_in, num_out, 3)
        assert self.bias is not None
        nn.init.normal_(self.weight)
        nn.init.zeros_(self.bias)
        self.style = ops.Linear(w_dim, num_in, activated=False, bias_init=1.0)
        self.clamp = clamp
        self.blur = ops.Blur(gain=4.0, padding=1) if up else None
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise_map", torch.randn(size, size))
        self.noise_map: Tensor

    def noise(self, n: int, kind: NoiseName) -> Float[Tensor, "m 1 h w"]:
        """Return the noise of n images, or with kind="constant" that of all images, times the layer's strength."""
        if kind == "constant":
            return self.noise_map[None, None] * self.noise_strength
        draw = partial(torch.randn, dtype=self.noise_map.dtype, device=self.noise_map.device)
        return seeding.own_rows(draw, [n, 1, *self.noise_map.shape]) * self.noise_strength

    def forward(  # type: ignore[override]
        self, x: Float[Tensor, "n num_in h w"], w: Float[Tensor, "n w_dim"], noise: NoiseName
    ) -> Float[Tensor, "n num_out h_out w_out"]:
        """Return the features."""
        assert self.bias is not None
        with full_precision(x.device):
            styles = self.style(w)
        bias = self.bias * ops.GAIN
        x = ops.modulated_conv(x, self.weight, styles, blur=self.blur, gain=ops.GAIN, bias=bias)
        if noise != "none":
            x = x + (self.noise(len(x), noise) * ops.GAIN).to(x.dtype)
        return ops.activate(x, self.clamp)


class ToImage(nn.Conv2d):
    """A modulated 1x1 convolution to the channels of the image, without demodulation; see StyledConv."""

    def __init__(self, num_in: int, num_out: int, *, w_dim: int, clamp: float | None):
        super().__init__(num_in, num_out, 1)
        assert self.bias is not None
        nn.init.normal_(self.weight)
        nn.init.zeros_(self.bias)
        self.style = ops.Linear(w_dim, num_in, activated=False, bias_init=1.0)
        self.gain, self.clamp = 1 / math.sqrt(num_in), clamp

    def forward(  # type: ignore[override]
        self, x: Float[Tensor, "n num_in h w"], w: Float[Tensor, "n w_dim"]
    ) -> Float[Tensor, "n num_out h w"]:
        """Return the contribution to the image, in float32 at least."""
        assert self.bias is not None
        with full_precision(x.device):
            styles = self.style(w) * self.gain
        x = ops.modulated_conv(x, self.weight, styles, demodulate=False)
        return ops.limit(x.to(self.bias.dtype) + self.bias[:, None, None], self.clamp)


class SynthesisStage(nn.Module):
    """The layers of G for one image size: one or two styled convolutions, and a contribution to the image.

    Source: Karras 2020 (StyleGAN2), figures 2c and 7 (output skips).

    Args:
        num_in: channels of the previous stage; None: this is the first stage, which has a single convolution.
        size: height and width in pixels.
    """

    def __init__(
        self, num_in: int | None, width: int, num_channels: int, *, w_dim: int, size: int, clamp: float | None
    ):
        super().__init__()
        make = partial(StyledConv, w_dim=w_dim, size=size, clamp=clamp)
        convs = [] if num_in is None else [make(num_in, width, up=True)]
        self.convs = nn.ModuleList([*convs, make(width, width, up=False)])
        self.to_image = ToImage(width, num_channels, w_dim=w_dim, clamp=clamp)
        self.upsample = Upsample()

    def forward(
        self, x: Float[Tensor, "n num_in h w"], image: Float[Tensor, "*shape"], styles: Styles, noise: NoiseName
    ) -> tuple[Float[Tensor, "n width h_out w_out"], Float[Tensor, "n c h_out w_out"]]:
        """Return the features and the image so far.

        Args:
            image: that of the previous stage; the first stage does not use it.
            styles: those of the convolutions, and of the contribution to the image.
        """
        for i, conv in enumerate(self.convs):
            x = conv(x, styles[:, i], noise)
        own: Tensor = self.to_image(x, styles[:, len(self.convs)])
        if len(self.convs) == 1:
            return x, own
        with full_precision(x.device):
            return x, self.upsample(image) + own


class DiscriminatorStage(nn.Module):
    """Two convolutions, the second of which halves height and width, with or without a residual connection.

    Source: Karras 2020 (StyleGAN2), figure 7 (residual nets).
    """

    def __init__(self, width: int, num_out: int, *, architecture: Architecture, clamp: float | None):
        super().__init__()
        is_residual = architecture == "resnet"
        gain = math.sqrt(0.5) if is_residual else 1.0
        self.conv0 = ops.Conv(width, width, 3, clamp=clamp)
        self.conv1 = ops.Conv(width, num_out, 3, down=True, gain=gain, clamp=clamp)
        self.skip = ops.Conv(width, num_out, 1, down=True, gain=gain, activated=False) if is_residual else None

    def forward(self, x: Float[Tensor, "n width h w"]) -> Float[Tensor, "n num_out h_down w_down"]:
        """Return the features at half the size."""
        output: Tensor = self.conv1(self.conv0(x))
        return output if self.skip is None else self.skip(x) + output


def check_clamp(clamp: float | None) -> None:
    """Check the limit of the results of convolutions.

    Raises:
        ValueError: it is not above 0.
    """
    if clamp is not None and not clamp > 0:
        raise ValueError(f"clamp={clamp}: must be above 0, or null for no limit (256 is usual).")


def mix_styles(
    w: Float[Tensor, "n w_dim"], other: Float[Tensor, "n w_dim"], num_styles: int, probability: float
) -> Styles:
    """Return the styles of n images, some of which change from w to other vectors at a random layer.

    Source: Karras 2019 (StyleGAN), section 3.1 (mixing regularization).

    Args:
        probability: with which an image changes its styles.
    """
    draw = partial(torch.rand, dtype=w.dtype, device=w.device)
    mixes, where = seeding.own_rows(draw, [len(w), 2]).unbind(1)
    first_other = (1 + where * (num_styles - 1)).floor()
    first_other = torch.where(mixes < probability, first_other, num_styles)
    layer = torch.arange(num_styles, device=w.device)
    is_own = layer < first_other[:, None]
    return torch.where(is_own[:, :, None], w[:, None], other[:, None])


def first_layers_of(sizes: Sequence[int]) -> list[int]:
    """Return the index of each stage's first style; its last one, of the image, is the next stage's first."""
    return [max(0, 2 * i - 1) for i in range(len(sizes))]
