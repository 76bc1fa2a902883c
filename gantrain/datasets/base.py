"""The two kinds of dataset: stored images, and distributions that are sampled afresh for every batch."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from typing_extensions import override

from gantrain.datasets.image_files import Originals


class ImageDataset:
    """Images of one shape, in memory or memory-mapped.

    Attributes:
        images: uint8 [n, c, h, w] in [0, 255]. Read-only: writing to memory-mapped images crashes the process.
        labels: int64 [n] in [0, num_classes), or None.
        fingerprint: SHA-256 of the images and labels used in training.
        features: the option of the group `features` that fits the images; features=auto takes it.
        split: "train"; of images on which nothing is trained, "held_out" or "test".
        held_out: images on which nothing is trained; see datasets.holdout.
        load_test_split: returns the dataset's own test split, if it has one.
        class_names: the name of each class, if they have names.
        bad: the reason, by name, for each image that was left out.
        originals: the images as they are stored, if they are decoded from files; None once they are loaded.
    """

    split: str = "train"
    held_out: "ImageDataset | None" = None
    load_test_split: "Callable[[], ImageDataset] | None" = None
    class_names: Sequence[str] | None = None
    bad: Mapping[str, str] = MappingProxyType({})
    originals: Originals | None = None

    def __init__(
        self,
        name: str,
        images: UInt8[Tensor, "n c h w"],
        labels: Int64[Tensor, " n"] | None,
        num_classes: int | None,
        fingerprint: str,
        features: str = "inception",
    ):
        self.name, self.num_classes, self.features = name, num_classes, features
        self.images, self.labels, self.fingerprint = images, labels, fingerprint

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Return (c, h, w)."""
        return tuple(self.images.shape[1:])

    @property
    def num_images(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def gather(self, indices: Int64[Tensor, " k"]) -> UInt8[Tensor, "k c h w"]:
        """Return a copy of the images with these indices; time and memory do not depend on the size of the dataset.

        Raises:
            GantrainError: the file of the images has changed or cannot be read.
        """
        return self.images.index_select(0, indices)  # ten times as fast as self.images[indices] on a CPU

    def prepare(self, *, num_workers: int | None = None) -> None:
        """Load the images now instead of at their first use; does nothing for images that are already in memory.

        Args:
            num_workers: number of parallel decoders, at least 1; None: one per core. It does not affect the images.
        """

    def describe_change(self, is_earlier: Callable[[str], bool]) -> str | None:
        """Say which files came, went or changed since the data had another fingerprint; None if it is not known.

        Args:
            is_earlier: whether a fingerprint is that of the earlier data.
        """
        return None


class LazyImageDataset(ImageDataset):
    """Images that are loaded by prepare(), or at the first use of the images, the labels or the fingerprint.

    The name, the number of classes and the image shape are known before loading, so they can be checked before minutes
    of decoding. num_images counts the files before loading; after loading it no longer counts the bad images left out.
    """

    def __init__(
        self,
        name: str,
        *,
        num_images: int,
        image_shape: tuple[int, ...],
        num_classes: int | None,
        load: Callable[[int | None], ImageDataset],
        features: str = "inception",
        describe_change: Callable[[Callable[[str], bool]], str | None] | None = None,
    ):
        self.name, self.num_classes, self.features = name, num_classes, features
        self._shape = (num_images, *image_shape)
        self._load, self._describe_change = load, describe_change
        self._loaded: ImageDataset | None = None

    def _load_once(self, num_workers: int | None = None) -> ImageDataset:
        if self._loaded is None:
            self._loaded = self._load(num_workers)
            self._shape = tuple(self._loaded.images.shape)
            del self._load  # releases the source of the images, such as an open zip
            self.originals, self.bad = None, self._loaded.bad
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

    @override
    def describe_change(self, is_earlier: Callable[[str], bool]) -> str | None:
        return None if self._describe_change is None else self._describe_change(is_earlier)


class Distribution(ABC):
    """A distribution over vectors. Every batch is a fresh sample, so there are no epochs.

    Attributes:
        image_shape: (d,). It has the same name as for images, so that networks need to know only one name.
        modes: centers of the k components of a mixture, float32 [k, d], or None.
        mode_std: standard deviation of each component, or None.
        mean, std: mean and standard deviation of each coordinate; None without a closed form.
        fingerprint: SHA-256 of the parameters.
    """

    name: str
    image_shape: tuple[int, ...]
    fingerprint: str
    labels: None = None
    num_images: None = None
    num_classes: None = None
    held_out: None = None
    split: str = "train"
    modes: Float[Tensor, "k d"] | None = None
    mode_std: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def prepare(self, *, num_workers: int | None = None) -> None:  # noqa: B027
        """Do nothing, because a distribution has nothing to load."""

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
        """Draw n vectors, float32 on the CPU."""


Dataset = ImageDataset | Distribution
