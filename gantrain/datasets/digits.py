"""10,000 handwritten digits included in the package: the MNIST test set. See digits_data/NOTICE."""

import gzip
import hashlib
import zlib
from importlib.resources import files
from io import BytesIO

import numpy as np

from gantrain.datasets.arrays import check_labels, in_memory, resize_array
from gantrain.datasets.base import ImageDataset
from gantrain.datasets.checks import check_count
from gantrain.datasets.idx import parse_idx
from gantrain.errors import DataError

# SHA-256 of the published files, decompressed.
_SHA256 = {
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def digits(*, image_size: int | None) -> ImageDataset:
    """Load 10,000 gray 28x28 digits with labels 0 to 9, without network or other files.

    Other values of image_size resize them in memory, which takes no longer than reading a cache.

    Raises:
        ConfigError: image_size is below 1.
        DataError: the installed files are damaged.

    Source: LeCun, Cortes, Burges 1998, "The MNIST database of handwritten digits".
    """
    if image_size is not None:
        check_count("image_size", image_size)
    images, labels = (parse_idx(BytesIO(_read(name)), name) for name in _SHA256)
    images = images[:, None]
    if image_size is not None and image_size != images.shape[-1]:
        images = np.stack([resize_array(image, image_size) for image in images])
    labels = check_labels("digits", labels, num_images=len(images), num_classes=10)
    return in_memory("digits", images, labels, num_classes=10, features="digits")


def _read(name: str) -> bytes:
    file = files("gantrain.datasets") / "digits_data" / f"{name}.gz"
    try:
        content = gzip.decompress(file.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file} is missing or damaged ({error}); install gantrain again.") from error
    if hashlib.sha256(content).hexdigest() != _SHA256[name]:
        raise DataError(f"{file} is not the published file; install gantrain again.")
    return content
