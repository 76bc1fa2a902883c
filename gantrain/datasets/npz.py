"""Arrays of images in .npz files. Nothing in them is unpickled."""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Shaped, UInt8

from gantrain.datasets.base import ImageDataset
from gantrain.datasets.cache import Source, cached
from gantrain.datasets.checks import check_count
from gantrain.datasets.classes import Classes, digest, from_values
from gantrain.datasets.images import MAX_PIXELS, center_crop, from_array, resize_shorter_side, to_array
from gantrain.datasets.many_files import list_files, listing_of, require_root
from gantrain.datasets.npz_array import Array, arrays_in, opened
from gantrain.datasets.untrusted import printable
from gantrain.errors import DataError

KIND = "an .npz file with images, or a folder of them"
IMAGES = (
    *("images", "image", "arr_0", "x_train", "train_images", "train_x"),
    *("x", "data", "imgs", "samples", "x_test", "test_images", "test_x"),
)
LABELS = (
    *("labels", "label", "arr_1", "y_train", "train_labels", "train_y"),
    *("y", "targets", "classes", "y_test", "test_labels", "test_y"),
)
TEST = re.compile(r"(^|_)test(_|$)", re.IGNORECASE)
"""Usual names of the arrays, by preference, in upper or lower case; those with the word test are of the test split."""

BLOCK_BYTES = 2**24
Layout = Literal["nhwc", "nchw"]


def npz(
    *,
    root: str | None,
    image_key: str | None,
    label_key: str | None,
    labels: bool,
    image_size: int | None,
    cache_dir: str,
) -> ImageDataset:
    """Load arrays of images: [n, h, w, c], [n, c, h, w], [n, h, w] or flat, with 1 or 3 channels.

    Values are whole numbers from 0 to 255, or fractions in [0, 1], [-1, 1] or [0, 255], which the smallest and the
    largest value tell apart. Labels are whole numbers, names or one-hot vectors.

    Args:
        image_key, label_key: names of the arrays; None: the first usual one (images, arr_0, x_train, ...).
        labels: whether the images have labels.
        image_size: the shorter side is resized to this, then the central square is cut out; None: as they are.

    Raises:
        ConfigError: image_size is below 1, or the cache cannot be written.
        DataError: an array is missing, broken, or does not hold images.
    """
    if image_size is not None:
        check_count("image_size", image_size)
    folder = require_root(root, KIND, "images.npz")
    paths = list_files(folder, (".npz",), KIND)

    def load(split: str) -> ImageDataset:
        having = [path for path in paths if has_images(path, image_key, split)]
        found = [Arrays.of(path, image_key, label_key, split, labels=labels) for path in having]
        return dataset(found, folder, labels=labels, image_size=image_size, cache_dir=Path(cache_dir).expanduser())

    splits = [split for split in ("train", "test") if any(has_images(path, image_key, split) for path in paths)]
    if splits:
        chosen = load(splits[0])
        if splits == ["train", "test"] and image_key is None:
            chosen.load_test_split = lambda: load("test")
        return chosen
    names = ", ".join(printable(name) for name in arrays_in(paths[0])[:12])
    raise DataError(
        f"{paths[0]} has the arrays {names or '(none)'}, none of which is called like images "
        f"({', '.join(IMAGES[:6])}, ...); name one with dataset.image_key."
    )


@dataclass(frozen=True)
class Arrays:
    """The images and the labels in one .npz."""

    images: Array
    labels: Array | None

    @classmethod
    def of(cls, path: Path, image_key: str | None, label_key: str | None, split: str, *, labels: bool) -> "Arrays":
        """Find the arrays of a split in a file that has images of it.

        Raises:
            DataError: an array is missing, or there is not one label per image.
        """
        with opened(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
            image = choose(path, names, "image_key", image_key, IMAGES, split)
            assert image is not None
            images = Array.of(archive, path, image)
            label = choose(path, names, "label_key", label_key, LABELS, split) if labels else None
            if label is None or label == image:
                return cls(images, None)
            found = Array.of(archive, path, label)
        if found.shape[:1] != images.shape[:1]:
            raise DataError(
                f"{path}: {label} {list(found.shape)} is not one label per image ({images.shape[0]:,}); name another "
                "array with dataset.label_key, or set dataset.labels=false."
            )
        return cls(images, found)


def has_images(path: Path, image_key: str | None, split: str) -> bool:
    """Return whether a file has an array of images of a split, by its name."""
    return choose(path, arrays_in(path), "image_key", image_key, IMAGES, split) is not None


def choose(
    path: Path, names: Sequence[str], option: str, given: str | None, usual: Sequence[str], split: str
) -> str | None:
    """Return the array that is named by the option, or else the first usual one of the split.

    Raises:
        DataError: there is no array with the given name.
    """
    if given is not None:
        if given not in names:
            known = ", ".join(printable(name) for name in names[:12])
            raise DataError(
                f"{path} has no array {given}, only {known or 'none'}; set dataset.{option} to one of them."
            )
        return given
    by_name = {name.lower(): name for name in names if bool(TEST.search(name)) == (split == "test")}
    return next((by_name[name] for name in usual if name in by_name), None)


@dataclass(frozen=True)
class Images:
    """How to take images out of an array.

    Attributes:
        shape: (c, h, w) of each.
    """

    array: Array
    layout: Layout
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, array: Array) -> "Images":
        """Find the layout.

        Raises:
            DataError: the array does not hold images.
        """
        shape, layout = image_shape(array.shape)
        if shape is None or array.dtype.kind not in "buif" or min(array.shape) < 1 or shape[1] * shape[2] > MAX_PIXELS:
            raise DataError(
                f"{array.path}: {array.member.removesuffix('.npy')} is {array.dtype} {list(array.shape)}, but images "
                "are [n, h, w, c], [n, c, h, w] with 1 or 3 channels, [n, h, w], or flat; convert it, or name another "
                "array with dataset.image_key."
            )
        return cls(array, layout, shape)

    def take(self, mapped: Shaped[np.ndarray, "..."], i: int) -> Shaped[np.ndarray, "c h w"]:
        """Return the i-th image."""
        image = mapped[i]
        if self.layout == "nhwc":
            c, h, w = self.shape
            image = image.reshape(h, w, c).transpose(2, 0, 1)
        return np.reshape(image, self.shape)


def image_shape(shape: tuple[int, ...]) -> tuple[tuple[int, int, int] | None, Layout]:
    """Return (c, h, w) of the images in an array of this shape, and the layout; (None, ...) if they are no images."""
    if len(shape) == 4 and shape[3] in (1, 3):
        return (shape[3], shape[1], shape[2]), "nhwc"
    if len(shape) == 4 and shape[1] in (1, 3):
        return (shape[1], shape[2], shape[3]), "nchw"
    if len(shape) == 3:
        return (1, shape[1], shape[2]), "nchw"
    if len(shape) == 2:
        for channels in (1, 3):  # no number is a square and three times a square
            side = math.isqrt(shape[1] // channels)
            if side > 1 and channels * side * side == shape[1]:
                return (channels, side, side), "nchw"
    return None, "nchw"


class Decoder:
    """Takes images out of the arrays of several files, in the order of the files.

    Args:
        image_size: the shorter side is resized to this, then the central square is cut out; None: as they are.
        folder: of temporary files.
    """

    def __init__(self, images: Sequence[Images], image_size: int | None, folder: Path):
        self.images, self.image_size, self.folder = images, image_size, folder
        self.ends = np.cumsum([image.array.shape[0] for image in images])
        self.maps: list[tuple[np.ndarray, float, float]] = []

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Map the arrays into memory, and find out how their values become bytes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            mapped = [stack.enter_context(image.array.mapped(self.folder)) for image in self.images]
            lows, highs = zip(*map(bounds, mapped), strict=True)
            for image, array in zip(self.images, mapped, strict=True):
                self.maps.append((array, *scale(array.dtype, np.min(lows), np.max(highs), image.array)))
            try:
                yield
            finally:
                self.maps.clear()

    def __call__(self, i: int) -> UInt8[np.ndarray, "c h w"]:
        """Return the i-th image as bytes."""
        k = int(np.searchsorted(self.ends, i, side="right"))
        array, factor, offset = self.maps[k]
        pixels = self.images[k].take(array, i - (int(self.ends[k - 1]) if k else 0))
        if array.dtype.kind == "f":
            pixels = np.rint(pixels.astype(np.float64) * factor + offset)
        elif array.dtype.kind == "b":
            pixels = pixels * np.uint8(255)
        whole = np.ascontiguousarray(pixels.astype(np.uint8))
        if self.image_size is None:
            return whole
        return to_array(center_crop(resize_shorter_side(from_array(whole), self.image_size), self.image_size))


def dataset(
    parts: Sequence[Arrays], root: Path, *, labels: bool, image_size: int | None, cache_dir: Path
) -> ImageDataset:
    """Make the dataset of the images in several files."""
    images = [Images.of(part.images) for part in parts]
    shape = images[0].shape
    for other in images:
        if other.shape != shape:
            raise DataError(
                f"{other.array.path} has images of {list(other.shape)}, but {images[0].array.path} of {list(shape)} "
                "(channels, height, width); all must have one shape."
            )
    classes = classes_of(parts, root) if labels else None
    decoder = Decoder(images, image_size, cache_dir)
    source = Source(
        name="npz",
        origin=str(root),
        names=[f"image {i}" for i in range(int(decoder.ends[-1]))],
        listing=listing_of([part.images.path for part in parts], root),
        preprocessing={
            "arrays": [part.images.member for part in parts],
            "labels": digest(classes),
            "resize_shorter_side": image_size,
        },
        image_shape=shape if image_size is None else (shape[0], image_size, image_size),
        labels=None if classes is None else classes.labels,
        num_classes=None if classes is None else len(classes.names),
        decode=decoder,
        opened=decoder.opened,
    )
    made = cached(source, cache_dir=cache_dir, max_bad_fraction=0.0)
    made.class_names = None if classes is None else classes.names
    return made


def classes_of(parts: Sequence[Arrays], root: Path) -> Classes | None:
    """Return the classes, if each file has labels."""
    arrays = [part.labels for part in parts if part.labels is not None]
    if len(arrays) < len(parts):
        return None
    remedy = "name another array with dataset.label_key, or set dataset.labels=false"
    values = [value for array in arrays for value in array.read().tolist()]
    return from_values(values, of=f"{root}, {arrays[0].member.removesuffix('.npy')}", remedy=remedy)


def bounds(array: Shaped[np.ndarray, "..."]) -> tuple[float, float]:
    """Return the smallest and the largest value; (nan, nan) if there is a NaN."""
    if array.dtype == np.uint8:
        return 0.0, 255.0
    rows = max(1, BLOCK_BYTES // max(1, array[:1].nbytes))
    blocks = [array[i : i + rows] for i in range(0, len(array), rows)]
    lows, highs = ([float(extreme(block)) for block in blocks] for extreme in (np.min, np.max))
    return (float(np.min(lows)), float(np.max(highs)))


def scale(dtype: np.dtype[Any], low: float, high: float, array: Array) -> tuple[float, float]:
    """Return factor and offset that bring values to [0, 255].

    Raises:
        DataError: the values are in none of the known ranges.
    """
    slack = 1e-3  # of numbers that were rounded, for example to float16
    if dtype.kind in "bui" and 0 <= low <= high <= 255:
        return 1.0, 0.0
    if dtype.kind == "f" and -1 - slack <= low < 0 and high <= 1 + slack:
        return 127.5, 127.5
    if dtype.kind == "f" and 0 <= low <= high <= 1 + slack:
        return 255.0, 0.0
    if dtype.kind == "f" and 0 <= low <= high <= 255:
        return 1.0, 0.0
    raise DataError(
        f"{array.path}: the values of {array.member.removesuffix('.npy')} go from {low:g} to {high:g}, but images have "
        "whole numbers from 0 to 255, or fractions in [0, 1], [-1, 1] or [0, 255]; convert it."
    )
