"""The networks of gantrain.models.stylegan2, conditioned on labels."""

from collections.abc import Sequence

from jaxtyping import Float, Int64
from torch import Tensor

from gantrain.losses.base import Logits
from gantrain.models import stylegan2
from gantrain.models import stylegan2_ops as ops
from gantrain.models import stylegan2_parts as parts
from gantrain.models.precision import full_precision
from gantrain.models.stylegan2 import Widths
from gantrain.models.stylegan2_parts import Architecture, NoiseName


class Generator(stylegan2.Generator):
    """Map latents z [n, z_dim] and labels y [n] to images [n, c, h, w]; no activation limits them to [-1, 1].

    The mapping network sees z and an embedding of the label, each normalized.

    Source: Karras 2020 (StyleGAN2-ADA), section 4.3 and appendix.

    Args:
        image_shape: (c, h, w) with h = w of 4 to 15 pixels times a power of 2.
        num_classes: labels lie in [0, num_classes).
        w_dim, ...: as in stylegan2.Generator.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        z_dim: int,
        *,
        num_classes: int,
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
        super().__init__(
            image_shape,
            z_dim,
            w_dim=w_dim,
            num_mapping_layers=num_mapping_layers,
            mapping_lr_multiplier=mapping_lr_multiplier,
            width=width,
            full_width_until=full_width_until,
            style_mixing=style_mixing,
            noise=noise,
            w_avg_decay=w_avg_decay,
            num_bf16_stages=num_bf16_stages,
            clamp=clamp,
        )
        self.num_classes = num_classes
        self.mapping = parts.Mapping(
            z_dim, w_dim, num_layers=num_mapping_layers, lr_multiplier=mapping_lr_multiplier, num_classes=num_classes
        )

    def forward(  # type: ignore[override]
        self, z: Float[Tensor, "n z_dim"], y: Int64[Tensor, " n"]
    ) -> Float[Tensor, "n c h w"]:
        """Return the images of latents and labels."""
        return self.synthesize(self.styles(z, y))


class Discriminator(stylegan2.Discriminator):
    """Map images [n, c, h, w] and labels y [n] to logits [n]: the product of the image's vector and the mapped label.

    Source: Karras 2020 (StyleGAN2-ADA), section 4.3 and appendix; Miyato and Koyama 2018 (projection discriminator).

    Args:
        image_shape: (c, h, w) with h = w of 4 to 15 pixels times a power of 2.
        num_classes: labels lie in [0, num_classes).
        num_mapping_layers, mapping_lr_multiplier: of the mapping of labels, as in Generator.
        architecture, ...: as in stylegan2.Discriminator.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        *,
        num_classes: int,
        num_mapping_layers: int,
        mapping_lr_multiplier: float,
        architecture: Architecture,
        width: Widths,
        full_width_until: int,
        minibatch_group: int,
        num_bf16_stages: int,
        clamp: float | None,
    ):
        super().__init__(
            image_shape,
            architecture=architecture,
            width=width,
            full_width_until=full_width_until,
            minibatch_group=minibatch_group,
            num_bf16_stages=num_bf16_stages,
            clamp=clamp,
        )
        self.num_classes = num_classes
        dim = self.output.in_features
        self.output = ops.Linear(dim, dim, activated=False)
        self.mapping = parts.Mapping(
            0, dim, num_layers=num_mapping_layers, lr_multiplier=mapping_lr_multiplier, num_classes=num_classes
        )

    def forward(self, x: Float[Tensor, "n c h w"], y: Int64[Tensor, " n"]) -> Logits:  # type: ignore[override]
        """Return the logits of images with their labels."""
        with full_precision(x.device):
            w = self.mapping(None, y)
        # Without the root, the product of two vectors would grow with their dimension.
        logits: Tensor = (self.outputs(x) * w).sum(1) * w.shape[1] ** -0.5
        return logits
