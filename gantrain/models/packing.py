"""Packing: the discriminator judges several samples at a time."""

from collections.abc import Callable, Sequence

from jaxtyping import Float
from torch import Tensor, nn

from gantrain.losses.base import Logits
from gantrain.models.calling import takes_labels


class Packed(nn.Module):
    """Samples [k, c, ...] to logits [k / packing]: one for each `packing` consecutive samples.

    The samples of a pack are concatenated along the channels, or end to end where they are vectors. In a
    pack D can see that samples resemble each other too much, which works against mode collapse.

    Source: Lin 2018 (PacGAN), section 2.

    Args:
        discriminator: takes samples of `packing` times the channels.
        packing: samples in a pack.

    Raises:
        ValueError: the discriminator takes or predicts labels.
    """

    couples_samples = True

    def __init__(self, discriminator: nn.Module, *, packing: int):
        super().__init__()
        if takes_labels(discriminator) or getattr(discriminator, "num_aux_classes", None) is not None:
            raise ValueError(
                f"packing={packing} with {type(discriminator).__module__}.{type(discriminator).__name__}, whose labels "
                "belong to single samples: the samples of a pack have different ones. Use packing=1, or a "
                "discriminator without labels, for example network=dcgan."
            )
        self.discriminator, self.packing = discriminator, packing

    def forward(self, x: Float[Tensor, "k *shape"]) -> Logits:
        """Judge each pack; k is the number of samples.

        Raises:
            ValueError: the samples cannot be divided into packs.
        """
        k, channels, *rest = x.shape
        if k % self.packing:
            raise ValueError(
                f"packing={self.packing}: {k} samples cannot be divided into packs of {self.packing}; choose a "
                f"batch_size that is a multiple of {self.packing} in each process and micro-batch, for example "
                f"{64 * self.packing}."
            )
        logits: Tensor = self.discriminator(x.reshape(k // self.packing, self.packing * channels, *rest))
        return logits


def pack(
    make_discriminator: Callable[[tuple[int, ...]], nn.Module], image_shape: Sequence[int], packing: int
) -> nn.Module:
    """Make a discriminator that judges `packing` samples at a time; with packing 1 the discriminator itself.

    Args:
        make_discriminator: makes one for the shape that it is given.
        image_shape: (c, h, w) or (d,), of a single sample.

    Raises:
        ValueError: packing is below 1, or the discriminator cannot be packed.
    """
    if packing < 1:
        raise ValueError(f"packing={packing}: the discriminator judges at least one sample at a time (2 is usual).")
    if packing == 1:
        return make_discriminator(tuple(image_shape))
    channels, *rest = image_shape
    return Packed(make_discriminator((packing * channels, *rest)), packing=packing)
