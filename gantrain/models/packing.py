"""Packing: the discriminator takes several samples as one input."""

from collections.abc import Callable, Sequence

from jaxtyping import Float
from torch import Tensor, nn

from gantrain.losses.base import Logits
from gantrain.models.interface import heads_of, takes_labels, without_decoding


class Packed(nn.Module):
    """Map samples [k, c, ...] to logits [k / packing]: one logit for each pack of `packing` consecutive samples.

    The samples of a pack are concatenated along their first dimension: the channels of images, or the elements of
    vectors. From a pack, D can see that samples are too similar to each other, which reduces mode collapse.

    Source: Lin 2018 (PacGAN), section 2.

    Args:
        discriminator: discriminator for samples with `packing` times the channels.
        packing: number of samples in a pack.

    Raises:
        ValueError: the discriminator takes or predicts labels, or has several heads or a decoder.
    """

    couples_samples = True

    def __init__(self, discriminator: nn.Module, *, packing: int):
        super().__init__()
        if takes_labels(discriminator) or getattr(discriminator, "num_aux_classes", None) is not None:
            raise ValueError(
                f"packing={packing} with {type(discriminator).__module__}.{type(discriminator).__name__}: a label "
                "belongs to a single sample, and the samples of a pack have different labels. Use packing=1, or a "
                "discriminator without labels, for example network=dcgan."
            )
        if heads_of(discriminator) or without_decoding(discriminator):
            raise ValueError(
                f"packing={packing} with {type(discriminator).__module__}.{type(discriminator).__name__}: it has "
                "several heads or a decoder, whose outputs belong to a single sample. Use packing=1, or another "
                "discriminator, for example network=dcgan."
            )
        self.discriminator, self.packing = discriminator, packing

    def forward(self, x: Float[Tensor, "k *shape"]) -> Logits:
        """Return the logits of the packs.

        Raises:
            ValueError: the number of samples k is not a multiple of `packing`.
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
    """Make a packed discriminator, or with packing=1 an ordinary one.

    Args:
        make_discriminator: makes a discriminator for samples of a given shape.
        image_shape: shape of a single sample, (c, h, w) or (d,).

    Raises:
        ValueError: packing is below 1, or the discriminator cannot be packed.
    """
    if packing < 1:
        raise ValueError(f"packing={packing}: a pack needs at least one sample (2 is usual).")
    if packing == 1:
        return make_discriminator(tuple(image_shape))
    channels, *rest = image_shape
    return Packed(make_discriminator((packing * channels, *rest)), packing=packing)
