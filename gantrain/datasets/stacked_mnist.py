"""Stacked MNIST: three random digits as the channels of an RGB image, for counting modes."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8

from gantrain.datasets.arrays import resize_array
from gantrain.datasets.base import ImageDataset
from gantrain.datasets.cache import Source, cached, fingerprint
from gantrain.datasets.checks import check_count
from gantrain.datasets.digits import digits
from gantrain.datasets.mnist import read_mnist
from gantrain.errors import DataError
from gantrain.seeding import generator


def stacked_mnist(
    *,
    root: str,
    download: bool,
    num_images: int,
    labels: bool,
    seed: int,
    image_size: int | None,
    cache_dir: str,
) -> ImageDataset:
    """Make a fixed pool of RGB images whose channels are digits drawn from MNIST with replacement, 28x28.

    The digits are the 60,000 training images of MNIST and its 10,000 test images; the latter are included in gantrain.
    The label of an image is 100 times the digit in red, plus 10 times the one in green, plus the one in blue.

    Args:
        num_images: size of the pool.
        labels: whether the images have labels, 0 to 999.
        seed: of the draw of digits.
        image_size: resize to squares of this size; None: the native size.

    Raises:
        ConfigError: an option is out of range, or the cache cannot be written.
        DataError: the files of MNIST are missing and cannot be downloaded, or are broken.

    Source: Lin, Khetan, Fanti, Oh 2018, "PacGAN", section 4.2 (pool of 128,000); the data set is of Metz 2017.
    """
    check_count("num_images", num_images)
    if image_size is not None:
        check_count("image_size", image_size)
    images, classes = read_mnist(Path(root).expanduser(), download=download)
    test = digits(image_size=None)
    assert test.labels is not None
    if images.shape[1:] != test.image_shape:
        raise DataError(f"The images of MNIST in {root} are of {images.shape[2:]} pixels, not 28x28; replace them.")
    images = np.concatenate([images[:, 0], test.images[:, 0].numpy()])
    classes = np.concatenate([classes, test.labels.numpy()])
    drawn = torch.randint(len(images), (num_images, 3), generator=generator("stacked_mnist", seed)).numpy()
    size = image_size or images.shape[-1]
    source = Source(
        name="stacked_mnist",
        origin="stacked_mnist",
        names=[f"image {i}" for i in range(num_images)],
        listing=[fingerprint(images[:, None], classes), hashlib.sha256(drawn.tobytes()).hexdigest()],
        preprocessing={"resize": size},
        image_shape=(3, size, size),
        labels=classes[drawn] @ np.array([100, 10, 1]) if labels else None,
        num_classes=1000 if labels else None,
        decode=lambda i: _stack(images, drawn[i], size),
        features="stacked_digits",
    )
    return cached(source, cache_dir=Path(cache_dir).expanduser(), max_bad_fraction=0.0)


def _stack(
    images: UInt8[np.ndarray, "n h w"], three: Int64[np.ndarray, " 3"], size: int
) -> UInt8[np.ndarray, "3 size size"]:
    stacked = images[three]
    return stacked if stacked.shape[-1] == size else resize_array(stacked, size)
