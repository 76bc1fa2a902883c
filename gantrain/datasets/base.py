"""What a dataset is: stored images, or a distribution that is sampled afresh."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from typing_extensions import override


class ImageDataset:
    """Images of one shape, in memory or memory-mapped.

    Attributes:
        images: uint8 [n, c, h, w] in [0, 255]; to be read only, because a write to mapped ones ends the process.
        labels: int64 [n] in [0, num_classes), or None.
        fingerprint: sha256 of the images and labels, as trained on.
    """

    def __init__(
        self,
        name: str,
        images: UInt8[Tensor, "n c h w"],
        labels: Int64[Tensor, " n"] | None,
        num_classes: int | None,
        fingerprint: str,
    ):
        self.name, self.num_classes = name, num_classes
        self.images, self.labels, self.fingerprint = images, labels, fingerprint

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(c, h, w)."""
        return tuple(self.images.shape[1:])

    @property
    def num_images(self) -> int:
        """How many images there are."""
        return len(self.images)

    def gather(self, indices: Int64[Tensor, " k"]) -> UInt8[Tensor, "k c h w"]:
        """Bring some images together, in a time and memory that do not depend on how many there are.

        Raises:
            GantrainError: the file that they are in has changed or cannot be read.
        """
        return self.images.index_select(0, indices)  # ten times as fast as self.images[indices] on a CPU

    def prepare(self, *, num_workers: int | None = None) -> None:
        """Do now what would be done when the images are first asked for: nothing, since they are here.

        Args:
            num_workers: that decode at the same time, at least 1; None: one a core. The images do not depend on it.
        """


class ImagesOnDemand(ImageDataset):
    """Images that are loaded when they, their labels or their fingerprint are first asked for, or by prepare().

    What else there is to know is known before, so that it can be checked before minutes of decoding. Until then
    num_images is the number of files; afterwards it is smaller by the bad ones, where those may be left out.
    """

    def __init__(
        self,
        name: str,
        *,
        num_images: int,
        image_shape: tuple[int, ...],
        num_classes: int | None,
        load: Callable[[int | None], ImageDataset],
    ):
        self.name, self.num_classes = name, num_classes
        self._shape = (num_images, *image_shape)
        self._load = load
        self._loaded: ImageDataset | None = None

    def _load_once(self, num_workers: int | None = None) -> ImageDataset:
        if self._loaded is None:
            self._loaded = self._load(num_workers)
            self._shape = tuple(self._loaded.images.shape)
            del self._load  # and with it what the images were decoded from
        return self._loaded

    @property
    @override
    def images(self) -> UInt8[Tensor, "n c h w"]:  # type: ignore[override]
        return self._load_once().images

    @property
    @override
    def labels(self) -> Int64[Tensor, " n"] | None:  # type: ignore[override]
        return self._load_once().labels

    @property
    @override
    def fingerprint(self) -> str:  # type: ignore[override]
        return self._load_once().fingerprint

    @property
    @override
    def image_shape(self) -> tuple[int, ...]:
        return self._shape[1:]

    @property
    @override
    def num_images(self) -> int:
        return self._shape[0]

    @override
    def gather(self, indices: Int64[Tensor, " k"]) -> UInt8[Tensor, "k c h w"]:
        return self._load_once().gather(indices)

    @override
    def prepare(self, *, num_workers: int | None = None) -> None:
        self._load_once(num_workers)


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

    def prepare(self, *, num_workers: int | None = None) -> None:  # noqa: B027
        """Do nothing: there is nothing to decode."""

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
        """Draw n vectors, float32 on the CPU."""


Dataset = ImageDataset | Distribution
