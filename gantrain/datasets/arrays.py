"""Datasets made of arrays: in memory at their native size, otherwise resized once and cached."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, Integer, UInt8

from gantrain.datasets.base import ImageDataset
from gantrain.datasets.cache import Source, cached, fingerprint
from gantrain.datasets.checks import check_count
from gantrain.datasets.images import from_array, resize, to_array
from gantrain.errors import DataError


def array_dataset(
    name: str,
    images: UInt8[np.ndarray, "n c h w"],
    labels: Int64[np.ndarray, " n"] | None,
    *,
    num_classes: int | None,
    image_size: int | None,
    cache_dir: Path,
    features: str = "inception",
) -> ImageDataset:
    """Make a dataset of arrays, resized to squares of image_size pixels; None keeps the native size.

    Raises:
        ConfigError: image_size is below 1.
    """
    if image_size is not None:
        check_count("image_size", image_size)
    if image_size is None or images.shape[2:] == (image_size, image_size):
        return in_memory(name, images, labels, num_classes=num_classes, features=features)
    source = Source(
        name=name,
        origin=name,
        names=[f"image {i}" for i in range(len(images))],
        listing=[fingerprint(images, labels)],
        preprocessing={"resize": image_size},
        image_shape=(images.shape[1], image_size, image_size),
        labels=labels,
        num_classes=num_classes,
        decode=lambda i: resize_array(images[i], image_size),
        features=features,
    )
    return cached(source, cache_dir=cache_dir, max_bad_fraction=0.0)


def in_memory(
    name: str,
    images: UInt8[np.ndarray, "n c h w"],
    labels: Int64[np.ndarray, " n"] | None,
    *,
    num_classes: int | None,
    features: str = "inception",
) -> ImageDataset:
    """Wrap arrays as a dataset."""
    return ImageDataset(
        name=name,
        images=torch.from_numpy(images),
        labels=None if labels is None else torch.from_numpy(labels),
        num_classes=num_classes,
        fingerprint=fingerprint(images, labels),
        features=features,
    )


def resize_array(image: UInt8[np.ndarray, "c h w"], size: int) -> UInt8[np.ndarray, "c size size"]:
    """Resize one image to a square, bilinearly with antialiasing."""
    return to_array(resize(from_array(image), size, size))


def check_labels(
    name: str, labels: Integer[np.ndarray, "..."], *, num_images: int, num_classes: int
) -> Int64[np.ndarray, " n"]:
    """Check that there is one label in [0, num_classes) per image and at least one image; return the labels as int64.

    Raises:
        DataError: the check fails; the message names the file.
    """
    if num_images == 0:
        raise DataError(f"{name} holds no images; replace it.")
    if labels.shape != (num_images,):
        raise DataError(f"{name} holds labels of shape {labels.shape} for {num_images:,} images; replace it.")
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if len(outside):
        raise DataError(f"{name} holds the label {outside[0]}, outside of 0 to {num_classes - 1}; replace it.")
    return labels.astype(np.int64)
