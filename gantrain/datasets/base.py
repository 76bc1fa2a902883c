"""What a dataset is: stored images, or a distribution that is sampled afresh."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor


@dataclass(frozen=True)
class ImageDataset:
    """Images of one shape, in memory or memory-mapped.

    Attributes:
        images: uint8 [n, c, h, w] in [0, 255].
        labels: int64 [n] in [0, num_classes), or None.
        fingerprint: sha256 of the images and labels, as trained on.
    """

    name: str
    images: UInt8[Tensor, "n c h w"]
    labels: Int64[Tensor, " n"] | None
    num_classes: int | None
    fingerprint: str

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(c, h, w)."""
        return tuple(self.images.shape[1:])

    @property
    def num_images(self) -> int:
        """How many images there are."""
        return len(self.images)


class Distribution(ABC):
    """A distribution over vectors; every batch is a fresh sample, so that there is no epoch.

    Attributes:
        image_shape: (d,), named as for images so that networks need to know only one name.
        modes: the k centres of a mixture, float32 [k, d], or None.
        mode_std: standard deviation around each of them, or None.
        mean, std: of each coordinate where a closed form is known, else None.
        fingerprint: sha256 of the parameters.
    """

    name: str
    image_shape: tuple[int, ...]
    fingerprint: str
    labels: None = None
    num_images: None = None
    num_classes: None = None
    modes: Float[Tensor, "k d"] | None = None
    mode_std: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
        """Draw n vectors, float32 on the CPU."""


Dataset = ImageDataset | Distribution
