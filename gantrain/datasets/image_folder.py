"""Datasets of your own images, in a folder or a zip, and what all datasets of encoded images have in common."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from gantrain.datasets.base import ImageDataset
from gantrain.datasets.cache import Source, cached
from gantrain.datasets.checks import check_count, check_fraction
from gantrain.datasets.classes import Classes, Rule, by_folder, digest, find_classes
from gantrain.datasets.image_files import ImageFiles, Originals, open_image_files
from gantrain.datasets.images import center_crop, load_image, resize_shorter_side, to_array
from gantrain.errors import ConfigError


def image_folder(
    *, root: str | None, labels: Rule, image_size: int, channels: int, cache_dir: str, max_bad_fraction: float
) -> ImageDataset:
    """Load all images below a folder or in a zip, as squares of image_size pixels.

    Resizes the shorter side to image_size pixels, then cuts out the central square.

    Args:
        labels: where the classes are: "json": in dataset.json, as StyleGAN's tools write it. "folders": the first-level
            folders. "none": there are none. "auto": dataset.json if it exists, otherwise the first-level folders, if
            there are at least two of them, every image is in one, and they are not the numbered parts of a collection.

    Raises:
        ConfigError: an option is missing or out of range, or the cache cannot be written.
        DataError: there are no images, or too many are bad, or the classes cannot be found.
    """
    if root is None:
        raise ConfigError("dataset.root is not set: the folder or zip of images, for example dataset.root=photos")
    check_pictures(image_size, channels, max_bad_fraction)
    files = open_image_files(Path(root).expanduser())
    classes, usual = find_classes(files, labels), by_folder(files)
    # Earlier versions knew no other classes than the folders; their caches stay valid.
    is_usual = digest(classes) == digest(usual)
    return pictures(
        "image_folder",
        files,
        classes,
        image_size=image_size,
        channels=channels,
        cache_dir=cache_dir,
        max_bad_fraction=max_bad_fraction,
        facts={} if is_usual else {"labels": digest(classes)},
    )


def check_pictures(image_size: int, channels: int, max_bad_fraction: float) -> None:
    """Check the options that all datasets of encoded images have.

    Raises:
        ConfigError: one is out of range.
    """
    check_count("image_size", image_size)
    check_fraction("max_bad_fraction", max_bad_fraction)
    if channels not in (1, 3):
        raise ConfigError(f"dataset.channels={channels} must be 1 (gray) or 3 (RGB).")


def pictures(
    name: str,
    files: ImageFiles,
    classes: Classes | None,
    *,
    image_size: int,
    channels: int,
    cache_dir: str,
    max_bad_fraction: float,
    facts: Mapping[str, object],
    opened: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> ImageDataset:
    """Make a dataset of encoded images: the shorter side is resized, then the central square is cut out.

    Args:
        facts: what the labels or the images depend on beside the files, for the key of the cache.
        opened: a block around the decoding of all images, which is entered before the decoders are started.
    """
    source = Source(
        name=name,
        origin=str(files.origin),
        names=files.names,
        listing=files.listing,
        preprocessing={"channels": channels, "resize_shorter_side": image_size, "crop": image_size, **facts},
        image_shape=(channels, image_size, image_size),
        labels=None if classes is None else classes.labels,
        num_classes=None if classes is None else len(classes.names),
        decode=lambda i: square(files, i, channels, image_size),
        opened=opened,
    )
    dataset = cached(source, cache_dir=Path(cache_dir).expanduser(), max_bad_fraction=max_bad_fraction)
    dataset.class_names = None if classes is None else classes.names
    dataset.originals = Originals(files, opened, cut_to_square)
    return dataset


def cut_to_square(width: int, height: int) -> tuple[int, int]:
    """Return the size of the part of an image that is used, in its own pixels."""
    return min(width, height), min(width, height)


def square(files: ImageFiles, i: int, channels: int, image_size: int) -> UInt8[np.ndarray, "c h w"]:
    """Decode the i-th image, resize its shorter side and cut out the central square.

    Raises:
        BadImageError: the image cannot be used.
    """
    image = resize_shorter_side(load_image(files.read(i), channels=channels), image_size)
    return to_array(center_crop(image, image_size))
