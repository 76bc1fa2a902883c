"""The discriminator of ACGAN, which also predicts the class. The generator is conditional_dcgan.Generator."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from gantrain.losses.base import Logits
from gantrain.models import dcgan, layers
from gantrain.models.layers import ActivationName, BiasName, InitName, NormOption
from gantrain.models.spectral_norm import spectral_norm
from gantrain.regularizers.base import Auxiliary


class Discriminator(nn.Module):
    """Map images [n, c, h, w] to logits [n] and {"class_logits": [n, num_classes]}, for auxiliary_classifier.

    This is DCGAN's discriminator with a second head. It takes no labels, so it has no attribute `num_classes`.

    Source: Odena 2017, section 3.

    Args:
        image_shape: (c, h, w) with h = w a multiple of 4 from 16 to 256.
        num_classes: number of classes.
        width, norm, ...: as in dcgan.Discriminator.

    Attributes:
        num_aux_classes: number of classes that the discriminator predicts.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        *,
        num_classes: int,
        width: int,
        norm: NormOption,
        activation: ActivationName,
        slope: float,
        bias: BiasName,
        init: InitName,
    ):
        super().__init__()
        layers.check_width(width)
        layers.check_num_classes(num_classes)
        self.num_aux_classes = num_classes
        base, halvings = dcgan.base_and_halvings(image_shape)
        num_features, head_bias = width * 2 ** (halvings - 1), bias != "none"
        self.trunk = nn.Sequential(
            *dcgan.downsampling(
                image_shape[0], halvings, width=width, norm=norm, activation=activation, slope=slope, bias=bias
            )
        )
        self.head = nn.Sequential(nn.Conv2d(num_features, 1, base, bias=head_bias), nn.Flatten(0))
        self.class_head = nn.Sequential(nn.Conv2d(num_features, num_classes, base, bias=head_bias), nn.Flatten(1))
        layers.initialize(self, init)
        if norm == "spectral":
            spectral_norm(self)

    def forward(self, x: Float[Tensor, "n c h w"]) -> tuple[Logits, Auxiliary]:
        """Return the logits and the class logits of the images."""
        features = self.trunk(x)
        return self.head(features), {"class_logits": self.class_head(features)}
