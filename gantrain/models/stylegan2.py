"""The networks of StyleGAN2 (Karras 2020) for square images."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

import gantrain.seeding as seeding
from gantrain.losses.base import Logits
from gantrain.models import stylegan2_ops as ops
from gantrain.models import stylegan2_parts as parts
from gantrain.models.precision import full_precision, run_stage, stages_in_bf16
from gantrain.models.r3gan_parts import stage_sizes, stage_widths
from gantrain.models.stylegan2_parts import Architecture, NoiseName, Styles

Widths = int | Sequence[int]
"""One number, or one for each image size, from the smallest."""


class Generator(nn.Module):
    """Map latents z [n, z_dim] to images [n, c, h, w]; no activation limits them to [-1, 1].

    A mapping network makes a vector w of each latent, and affine layers make the styles of each convolution of it. In
    training, two latents are mixed in some images (the second is N(0, 1), whatever the distribution of z), noise is new
    for each image, and the mean of w is tracked. In evaluation mode, noise is constant, so that samples depend only on
    their latents.

    Source: Karras 2020 (StyleGAN2), sections 2 and 4; mapping, noise, mixing and truncation: Karras 2019 (StyleGAN).

    Args:
        image_shape: (c, h, w) with h = w of 4 to 15 pixels times a power of 2.
        w_dim: dimension of w.
        num_mapping_layers: number of layers of the mapping network.
        mapping_lr_multiplier: their learning rate relative to that of other layers.
        width: largest number of channels; it is halved with each doubling of the image size above full_width_until.
        full_width_until: the largest image size in pixels with the full width.
        style_mixing: probability that an image is made from two latents, in training.
        noise: kind of the noise, in training.
        w_avg_decay: decay of the mean of w per forward pass in training.
        num_bf16_stages: number of image sizes, from the largest, that may run in bf16.
        clamp: limit of the absolute values of all convolutions' results; None: no limit.

    Attributes:
        num_styles: number of layers with a style.
        w_avg: the exponential moving average of w, over the batches of all processes.

    Raises:
        ValueError: the options do not fit the images or each other.
    """

    couples_samples = True  # by the mean of w

    def __init__(
        self,
        image_shape: Sequence[int],
        z_dim: int,
        *,
        w_dim: int,
        num_mapping_layers: int,
        mapping_lr_multiplier: float,
        width: Widths,
        full_width_until: int,
        style_mixing: float,
        noise: NoiseName,
        w_avg_decay: float,
        num_bf16_stages: int,
        clamp: float | None,
    ):
        super().__init__()
        parts.check_clamp(clamp)
        if not 0 <= style_mixing <= 1:
            raise ValueError(f"style_mixing={style_mixing}: a probability must be in [0, 1] (0.9 is usual).")
        if not 0 <= w_avg_decay < 1:
            raise ValueError(f"w_avg_decay={w_avg_decay}: must be in [0, 1) (0.995 is usual).")
        sizes = stage_sizes(image_shape, "StyleGAN2")
        widths = stage_widths(sizes, width, full_width_until)
        self.mapping = parts.Mapping(z_dim, w_dim, num_layers=num_mapping_layers, lr_multiplier=mapping_lr_multiplier)
        self.basis = nn.Parameter(torch.randn(widths[0], sizes[0], sizes[0]))
        self.stages = nn.ModuleList(
            parts.SynthesisStage(before, now, image_shape[0], w_dim=w_dim, size=size, clamp=clamp)
            for before, now, size in zip([None, *widths], widths, sizes, strict=False)
        )
        self.style_mixing, self.noise, self.w_avg_decay = style_mixing, noise, w_avg_decay
        self.first_styles = parts.first_layers_of(sizes)
        self.num_styles = 2 * len(sizes)
        self.in_bf16 = stages_in_bf16(len(sizes), num_bf16_stages)
        self.register_buffer("w_avg", torch.zeros(w_dim))
        self.w_avg: Tensor

    def forward(self, z: Float[Tensor, "n z_dim"]) -> Float[Tensor, "n c h w"]:
        """Return the images of latents."""
        return self.synthesize(self.styles(z))

    def styles(self, z: Float[Tensor, "n z_dim"], *labels: Tensor) -> Styles:
        """Return the styles of latents; in training, mix them with those of other latents, and track the mean of w."""
        with full_precision(z.device):
            w: Tensor = self.mapping(z, *labels)
            if not self.training:
                return w[:, None].expand(-1, self.num_styles, -1)
            self.track(w)
            if self.style_mixing == 0:
                return w[:, None].expand(-1, self.num_styles, -1)
            other = seeding.own_rows(lambda shape: torch.randn(*shape, dtype=z.dtype, device=z.device), z.shape)
            return parts.mix_styles(w, self.mapping(other, *labels), self.num_styles, self.style_mixing)

    @torch.no_grad()
    def track(self, w: Float[Tensor, "n w_dim"]) -> None:
        """Update the mean of w, in place."""
        self.w_avg.lerp_(seeding.whole_batch(w.detach()).mean(0), 1 - self.w_avg_decay)

    def truncate(self, styles: Styles, truncation: float) -> Styles:
        """Move styles towards the mean of w: all the way with 0, not at all with 1.

        Source: Karras 2019 (StyleGAN), appendix B (truncation trick in W).
        """
        return self.w_avg.lerp(styles, truncation)

    def synthesize(self, styles: Styles) -> Float[Tensor, "n c h w"]:
        """Return the images of styles."""
        noise: NoiseName = "constant" if self.noise == "random" and not self.training else self.noise
        x, image = self.basis.expand(len(styles), -1, -1, -1), styles.new_zeros(1)
        for first, in_bf16, stage in zip(self.first_styles, self.in_bf16, self.stages, strict=True):
            x, image = run_stage(stage, x, image, styles[:, first:], noise, in_bf16=in_bf16)
        return image


class Discriminator(nn.Module):
    """Map images [n, c, h, w] to logits [n].

    Source: Karras 2020 (StyleGAN2), section 4 and figure 7; the standard deviation of groups: Karras 2018.

    Args:
        image_shape, width, full_width_until, num_bf16_stages, clamp: as in Generator.
        architecture: with residual connections (resnet), or without (orig), as for CIFAR-10.
        minibatch_group: number of samples in a group, over which the standard deviation is computed.

    Raises:
        ValueError: the options do not fit the images or each other.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        *,
        architecture: Architecture,
        width: Widths,
        full_width_until: int,
        minibatch_group: int,
        num_bf16_stages: int,
        clamp: float | None,
    ):
        super().__init__()
        parts.check_clamp(clamp)
        sizes = stage_sizes(image_shape, "StyleGAN2")
        widths = stage_widths(sizes, width, full_width_until)
        self.from_image = ops.Conv(image_shape[0], widths[-1], 1, clamp=clamp)
        self.stages = nn.ModuleList(
            parts.DiscriminatorStage(widths[i], widths[i - 1], architecture=architecture, clamp=clamp)
            for i in reversed(range(1, len(sizes)))
        )
        self.in_bf16 = stages_in_bf16(len(sizes), num_bf16_stages)[::-1]
        self.deviation = ops.MinibatchStdDev(group=minibatch_group, num_channels=1)
        self.conv = ops.Conv(widths[0] + 1, widths[0], 3, clamp=clamp)
        self.linear = ops.Linear(widths[0] * sizes[0] ** 2, widths[0], activated=True)
        self.output = ops.Linear(widths[0], 1, activated=False)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Logits:
        """Return the logits of images."""
        return self.outputs(x).flatten()

    def outputs(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Return the outputs of the last layer."""
        x = run_stage(self.from_image, x, in_bf16=self.in_bf16[0])
        for in_bf16, stage in zip(self.in_bf16, self.stages, strict=False):
            x = run_stage(stage, x, in_bf16=in_bf16)
        outputs: Tensor = run_stage(self.head, x, in_bf16=False)
        return outputs

    def head(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Return the outputs of the last layer for features of the smallest size."""
        outputs: Tensor = self.output(self.linear(self.conv(self.deviation(x)).flatten(1)))
        return outputs
