"""Datasets of your own images, in a folder or a zip."""

from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from gantrain.datasets.base import ImageDataset
from gantrain.datasets.cache import Source, cached
from gantrain.datasets.checks import check_count, check_fraction
from gantrain.datasets.image_files import ImageFiles, open_image_files
from gantrain.datasets.images import center_crop, load_image, resize_shorter_side, to_array
from gantrain.errors import ConfigError


def image_folder(
    *, root: str | None, image_size: int, channels: int, cache_dir: str, max_bad_fraction: float
) -> ImageDataset:
    """Load all PNG, JPEG and WebP images below a folder or in a zip, as squares of image_size pixels.

    Resizes the shorter side to image_size pixels, then cuts out the central square. The first-level folders are the
    classes, if there are at least two of them and every image is in one.

    Raises:
        ConfigError: an option is missing or out of range, or the cache cannot be written.
        DataError: there are no images, or too many are bad.
    """
    if root is None:
        raise ConfigError("dataset.root is not set: the folder or zip of images, for example dataset.root=photos")
    check_count("image_size", image_size)
    check_fraction("max_bad_fraction", max_bad_fraction)
    if channels not in (1, 3):
        raise ConfigError(f"dataset.channels={channels} must be 1 (gray) or 3 (RGB).")
    files = open_image_files(Path(root).expanduser())
    labels, num_classes = _labels(files)
    source = Source(
        name="image_folder",
        origin=str(files.origin),
        names=files.names,
        listing=files.listing,
        preprocessing={"channels": channels, "resize_shorter_side": image_size, "crop": image_size},
        image_shape=(channels, image_size, image_size),
        labels=labels,
        num_classes=num_classes,
        decode=lambda i: square(files, i, channels, image_size),
    )
    return cached(source, cache_dir=Path(cache_dir).expanduser(), max_bad_fraction=max_bad_fraction)


def square(files: ImageFiles, i: int, channels: int, image_size: int) -> UInt8[np.ndarray, "c h w"]:
    """Decode the i-th image, resize its shorter side and cut out the central square.

    Raises:
        BadImageError: the image cannot be used.
    """
    image = resize_shorter_side(load_image(files.read(i), channels=channels), image_size)
    return to_array(center_crop(image, image_size))


def _labels(files: ImageFiles) -> tuple[Int64[np.ndarray, " n"] | None, int | None]:
    # Unreadable files do not define classes. They get label 0, and are left out later.
    # Split by hand: pathlib takes ten times as long, which is a second for 100,000 images.
    parts = {
        name: tuple(part for part in name.split("/") if part not in ("", "."))
        for name in files.names
        if name not in files.flaws
    }
    if files.origin.is_file() and len({path[0] for path in parts.values()}) == 1:
        parts = {name: path[1:] for name, path in parts.items()}  # the folder that was zipped
    classes = sorted({path[0] for path in parts.values() if path})
    if len(classes) < 2 or any(len(path) < 2 for path in parts.values()):
        return None, None
    index = {name: i for i, name in enumerate(classes)}
    return np.array([index[parts[name][0]] if name in parts else 0 for name in files.names], np.int64), len(classes)
