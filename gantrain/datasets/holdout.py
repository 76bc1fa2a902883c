"""Hold out images: a random part of a dataset, or its own test split, on which nothing is trained."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from typing_extensions import override

from gantrain.datasets.base import Dataset, ImageDataset
from gantrain.errors import ConfigError, DataError
from gantrain.seeding import generator


def hold_out(dataset: Dataset, holdout: object) -> Dataset:
    """Return the dataset to train on, with the held-out images as its attribute `held_out`.

    Args:
        holdout: fraction of the images to hold out, chosen at random but the same in every run; "test": the dataset's
            own test split; None: nothing.

    Raises:
        ConfigError: holdout is something else, or the dataset does not have that many images or a test split.
    """
    if holdout is None:
        return dataset
    if not isinstance(dataset, ImageDataset):
        raise ConfigError(
            f"dataset.holdout={holdout}: {dataset.name} draws new samples for every batch, so there is nothing to hold "
            "out; leave it out."
        )
    if holdout == "test":
        if dataset.load_test_split is None:
            raise ConfigError(f"dataset.holdout=test: {dataset.name} has no test split; use a fraction such as 0.05.")
        dataset.held_out = numbered_like(dataset, dataset.load_test_split())
        dataset.held_out.split = "test"
        return dataset
    if isinstance(holdout, bool) or not isinstance(holdout, int | float) or not 0 < holdout < 1:
        raise ConfigError(f"dataset.holdout={holdout}: must be a number between 0 and 1, test, or null.")
    if not 0 < (num := num_held_out(dataset.num_images, holdout)) < dataset.num_images:
        raise ConfigError(
            f"dataset.holdout={holdout}: of {dataset.num_images:,} images, {num:,} "
            "would be held out; at least one must be held out and one be left, so choose another fraction."
        )
    train, held_out = (Part(dataset, holdout, is_held_out=is_held_out) for is_held_out in (False, True))
    train.held_out = held_out
    return train


def num_held_out(num_images: int, fraction: float) -> int:
    """Return how many of the images are held out."""
    return round(fraction * num_images)


def numbered_like(train: ImageDataset, test: ImageDataset) -> ImageDataset:
    """Return test images whose classes have the numbers that classes of the same names have in the training images.

    Raises:
        DataError: a class is not among those of the training images.
    """
    names, known = test.class_names, train.class_names
    if names is None or known is None or list(names) == list(known):
        return test
    if unknown := [name for name in names if name not in known]:
        raise DataError(
            f"dataset.holdout=test: the test images of {test.name} have the class {unknown[0]}, which is none of the "
            f"{len(known)} classes of the training images ({', '.join(known[:8])}{', ...' * (len(known) > 8)}); "
            "correct the labels, or hold out a fraction such as dataset.holdout=0.05."
        )
    return Renumbered(test, tuple(known))


class View(ImageDataset, ABC):
    """A dataset that shows another one in its own way; the images are not copied."""

    def __init__(self, whole: ImageDataset):
        self.whole = whole
        self.name, self.num_classes, self.features = whole.name, whole.num_classes, whole.features
        self.class_names = whole.class_names

    @property
    @override
    def image_shape(self) -> tuple[int, ...]:
        return self.whole.image_shape

    @override
    def prepare(self, *, num_workers: int | None = None) -> None:
        self.whole.prepare(num_workers=num_workers)

    @override
    def describe_change(self, is_earlier: Callable[[str], bool]) -> str | None:
        return self.whole.describe_change(lambda of_whole: is_earlier(self.fingerprint_of(of_whole)))

    @property
    @override
    def fingerprint(self) -> str:  # type: ignore[override]
        return self.fingerprint_of(self.whole.fingerprint)

    @abstractmethod
    def fingerprint_of(self, of_whole: str) -> str:
        """Return the fingerprint, given that of the dataset that is shown."""


class Renumbered(View):
    """A dataset whose classes have other numbers.

    Args:
        names: of all classes; a class has the number of its name.
    """

    def __init__(self, whole: ImageDataset, names: Sequence[str]):
        super().__init__(whole)
        self.numbers = torch.tensor([names.index(name) for name in whole.class_names or ()])
        self.class_names, self.num_classes = names, len(names)

    @property
    @override
    def images(self) -> UInt8[Tensor, "n c h w"]:  # type: ignore[override]
        return self.whole.images

    @property
    @override
    def labels(self) -> Int64[Tensor, " n"] | None:  # type: ignore[override]
        return None if self.whole.labels is None else self.numbers[self.whole.labels]

    @override
    def fingerprint_of(self, of_whole: str) -> str:
        return hashlib.sha256(f"{of_whole} {self.numbers.tolist()}".encode()).hexdigest()

    @property
    @override
    def num_images(self) -> int:
        return self.whole.num_images

    @override
    def gather(self, indices: Int64[Tensor, " k"]) -> UInt8[Tensor, "k c h w"]:
        return self.whole.gather(indices)


class Part(View):
    """The held-out images of a dataset, or the others; they are not copied.

    Args:
        fraction: of the images that are held out.
    """

    def __init__(self, whole: ImageDataset, fraction: float, *, is_held_out: bool):
        super().__init__(whole)
        self.fraction, self.is_held_out = fraction, is_held_out
        self.split = "held_out" if is_held_out else "train"

    @cached_property
    def indices(self) -> Int64[Tensor, " n"]:
        """Indices of the images in the whole dataset, ascending. They are the same for every seed of a run."""
        self.whole.prepare()
        num = self.whole.num_images
        order = torch.randperm(num, generator=generator("holdout"))
        cut = num_held_out(num, self.fraction)
        return (order[:cut] if self.is_held_out else order[cut:]).sort().values

    @property
    @override
    def images(self) -> UInt8[Tensor, "n c h w"]:  # type: ignore[override]
        return self.whole.gather(self.indices)

    @property
    @override
    def labels(self) -> Int64[Tensor, " n"] | None:  # type: ignore[override]
        return None if self.whole.labels is None else self.whole.labels[self.indices]

    @override
    def fingerprint_of(self, of_whole: str) -> str:
        return hashlib.sha256(f"{of_whole} {self.split} {self.fraction}".encode()).hexdigest()

    @property
    @override
    def num_images(self) -> int:
        num = self.whole.num_images
        held_out = num_held_out(num, self.fraction)
        return held_out if self.is_held_out else num - held_out

    @override
    def gather(self, indices: Int64[Tensor, " k"]) -> UInt8[Tensor, "k c h w"]:
        return self.whole.gather(self.indices[indices])
