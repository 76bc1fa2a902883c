"""Residual networks with labels: conditional BatchNorm in G; in D a projection of the label, or a second head.

cGANs with projection discriminator (Miyato and Koyama 2018), SAGAN (Zhang 2019), the discriminator of BigGAN (Brock
2019), and WGAN-GP with ACGAN's classifier (Gulrajani 2017, released code).
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal

from jaxtyping import Float, Int64
from torch import Tensor, nn

from gantrain.losses.base import Logits
from gantrain.models import layers
from gantrain.models.conditional_batch_norm import ConditionalBatchNorm2d
from gantrain.models.residual import (
    ResidualInit,
    UpsampleName,
    discriminator_layout,
    generator_layout,
    initialize,
)
from gantrain.models.resnet import DiscriminatorBody, DiscriminatorNorm, GeneratorBody, HiddenName, PoolingName
from gantrain.models.spectral_norm import spectral_norm
from gantrain.regularizers.base import Auxiliary


class Generator(nn.Module):
    """Map latents z [n, z_dim] and labels y [n] to images [n, c, h, w] in [-1, 1].

    The BatchNorm layers in the blocks are conditional, the last one is not.

    Source: Miyato and Koyama 2018, appendix A; with attention and norm=spectral Zhang 2019, sections 3 and 4.

    Args:
        image_shape: (c, h, w) with h = w a multiple of 4 from 16 to 256.
        num_classes: labels lie in [0, num_classes).
        width, multipliers: number of channels; see residual.generator_layout.
        upsample: how feature maps are doubled in size, nearest or bilinear.
        attention: numbers of the blocks, from 1, after which self-attention is applied.
        norm: "batch": only the (conditional) BatchNorm; "spectral": also spectral norm of all weights.
        init: see residual.initialize.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        z_dim: int,
        *,
        num_classes: int,
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
        self.body = GeneratorBody(
            *(z_dim, image_shape[0], base, channels),
            norm=partial(ConditionalBatchNorm2d, num_classes=num_classes),
            upsample=upsample,
            attention=attention,
        )
        initialize(self, init)
        if norm == "spectral":
            spectral_norm(self)

    def forward(self, z: Float[Tensor, "n z_dim"], y: Int64[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
        """Return the images of latents and labels."""
        images: Tensor = self.body(z, y)
        return images


class Discriminator(nn.Module):
    """Map images [n, c, h, w] and labels y [n] to logits [n], by a projection of the label on the features.

    The logit is a linear function of the features plus their inner product with the embedding of the label.

    Source: Miyato and Koyama 2018, equation 3 and appendix A; with attention Zhang 2019, sections 3 and 4.

    Args:
        image_shape: (c, h, w) with h = w a multiple of 4 from 16 to 256.
        num_classes: labels lie in [0, num_classes).
        width, multipliers, num_halvings: number of channels and sizes; see residual.discriminator_layout.
        hidden: whether the channels between the two convolutions of a block are those before (Miyato and Koyama 2018)
            or after it (Brock 2019).
        attention: numbers of the blocks, from 1, after which self-attention is applied.
        norm: spectral (also of the embedding, as a matrix [num_classes, c]) or none.
        pooling: sum or mean over the pixels of the last features.
        init: see residual.initialize.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        *,
        num_classes: int,
        width: int,
        multipliers: Sequence[int] | None,
        num_halvings: int | None,
        hidden: HiddenName,
        attention: Sequence[int],
        norm: DiscriminatorNorm,
        pooling: PoolingName,
        init: ResidualInit,
    ):
        super().__init__()
        self.num_classes = num_classes
        channels, num_halvings = discriminator_layout(
            image_shape, width=width, multipliers=multipliers, num_halvings=num_halvings
        )
        self.body = DiscriminatorBody(
            *(image_shape[0], channels),
            num_halvings=num_halvings,
            pooling=pooling,
            attention=attention,
            hidden=hidden,
        )
        self.projection = ProjectionHead(channels[-1], num_classes=num_classes)
        initialize(self, init)
        if norm == "spectral":
            spectral_norm(self)

    def forward(self, x: Float[Tensor, "n c h w"], y: Int64[Tensor, " n"]) -> Logits:
        """Return the logits of images with their labels."""
        logits: Tensor = self.projection(self.body(x), y)
        return logits


class ProjectionHead(nn.Module):
    """Map features [n, c] and labels y [n] to logits [n]: a linear function plus <embedding(y), features>.

    Source: Miyato and Koyama 2018, equation 3.
    """

    def __init__(self, num_features: int, *, num_classes: int):
        super().__init__()
        self.linear = nn.Linear(num_features, 1)
        self.embedding = layers.label_embedding(num_classes, num_features)

    def forward(self, features: Float[Tensor, "n c"], y: Int64[Tensor, " n"]) -> Logits:
        """Return the logits of features with their labels."""
        logits: Tensor = self.linear(features).squeeze(1) + (self.embedding(y) * features).sum(1)
        return logits


class ClassifyingDiscriminator(nn.Module):
    """Map images [n, c, h, w] to logits [n] and {"class_logits": [n, num_classes]}, for auxiliary_classifier.

    It takes no labels, so it has no attribute `num_classes`.

    Source: Gulrajani 2017, released code for CIFAR-10; Odena 2017, section 3.

    Args:
        image_shape: (c, h, w) with h = w a multiple of 4 from 16 to 256.
        num_classes: number of classes.
        width, multipliers, num_halvings, norm, pooling, init: as in Discriminator.

    Attributes:
        num_aux_classes: number of classes that the discriminator predicts.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        *,
        num_classes: int,
        width: int,
        multipliers: Sequence[int] | None,
        num_halvings: int | None,
        norm: DiscriminatorNorm,
        pooling: PoolingName,
        init: ResidualInit,
    ):
        super().__init__()
        layers.check_num_classes(num_classes)
        self.num_aux_classes = num_classes
        channels, num_halvings = discriminator_layout(
            image_shape, width=width, multipliers=multipliers, num_halvings=num_halvings
        )
        self.body = DiscriminatorBody(
            image_shape[0], channels, num_halvings=num_halvings, pooling=pooling, attention=(), hidden="before"
        )
        self.head = nn.Sequential(nn.Linear(channels[-1], 1), nn.Flatten(0))
        self.class_head = nn.Linear(channels[-1], num_classes)
        initialize(self, init)
        if norm == "spectral":
            spectral_norm(self)

    def forward(self, x: Float[Tensor, "n c h w"]) -> tuple[Logits, Auxiliary]:
        """Return the logits and the class logits of the images."""
        features = self.body(x)
        return self.head(features), {"class_logits": self.class_head(features)}
