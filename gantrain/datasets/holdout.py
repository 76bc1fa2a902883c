"""Hold out images: a random part of a dataset, or its own test split, on which nothing is trained."""

import hashlib
from collections.abc import Callable
from functools import cached_property

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from typing_extensions import override

from gantrain.datasets.base import Dataset, ImageDataset
from gantrain.errors import ConfigError
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
        dataset.held_out = dataset.load_test_split()
        dataset.held_out.split = "test"
        return dataset
    if isinstance(holdout, bool) or not isinstance(holdout, int | float) or not 0 < holdout < 1:
        raise ConfigError(f"dataset.holdout={holdout}: must be a number between 0 and 1, test, or null.")
    if not 0 < num_held_out(dataset.num_images, holdout) < dataset.num_images:
        raise ConfigError(
            f"dataset.holdout={holdout}: with {dataset.num_images:,} images, no image would be left on one side."
        )
    train, held_out = (Part(dataset, holdout, is_held_out=is_held_out) for is_held_out in (False, True))
    train.held_out = held_out
    return train


def num_held_out(num_images: int, fraction: float) -> int:
    """Return how many of the images are held out."""
    return round(fraction * num_images)


class Part(ImageDataset):
    """The held-out images of a dataset, or the others; they are not copied.

    Args:
        fraction: of the images that are held out.
    """

    def __init__(self, whole: ImageDataset, fraction: float, *, is_held_out: bool):
        self.whole, self.fraction, self.is_held_out = whole, fraction, is_held_out
        self.name, self.num_classes, self.features = whole.name, whole.num_classes, whole.features
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

    @property
    @override
    def fingerprint(self) -> str:  # type: ignore[override]
        return self._of_part(self.whole.fingerprint)

    def _of_part(self, of_whole: str) -> str:
        return hashlib.sha256(f"{of_whole} {self.split} {self.fraction}".encode()).hexdigest()

    @override
    def describe_change(self, is_earlier: Callable[[str], bool]) -> str | None:
        return self.whole.describe_change(lambda of_whole: is_earlier(self._of_part(of_whole)))

    @property
    @override
    def image_shape(self) -> tuple[int, ...]:
        return self.whole.image_shape

    @property
    @override
    def num_images(self) -> int:
        num = self.whole.num_images
        held_out = num_held_out(num, self.fraction)
        return held_out if self.is_held_out else num - held_out

    @override
    def gather(self, indices: Int64[Tensor, " k"]) -> UInt8[Tensor, "k c h w"]:
        return self.whole.gather(self.indices[indices])

    @override
    def prepare(self, *, num_workers: int | None = None) -> None:
        self.whole.prepare(num_workers=num_workers)
