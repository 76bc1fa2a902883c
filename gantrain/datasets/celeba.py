"""CelebA, the aligned and cropped images of faces."""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from gantrain.datasets.base import ImageDataset
from gantrain.datasets.cache import Source, cached
from gantrain.datasets.celeba_attributes import attribute_classes
from gantrain.datasets.checks import check_count, check_fraction
from gantrain.datasets.classes import digest
from gantrain.datasets.download import obtain
from gantrain.datasets.image_files import ImageFiles, Originals, holds_images, open_image_files
from gantrain.datasets.images import center_crop, load_image, resize, to_array

logger = logging.getLogger(__name__)
_NUM_PUBLISHED = 202_599
_STEM = "img_align_celeba"


def celeba(
    *,
    root: str,
    download: bool,
    attributes: Sequence[str] | None,
    image_size: int,
    crop: int | None,
    cache_dir: str,
    max_bad_fraction: float,
) -> ImageDataset:
    """Load the 202,599 aligned faces of CelebA, published as 178x218 RGB, as squares of image_size pixels.

    With `crop`, cuts out the central square of `crop` pixels and resizes it. Without `crop`, resizes the whole image to
    a square, which changes its aspect ratio.

    Args:
        attributes: of list_attr_celeba.txt, whose combinations are the classes; for example ["Male", "Smiling"]: 4
            classes. None: no labels.

    Raises:
        ConfigError: an option is out of range, or the cache cannot be written.
        DataError: the images are missing and cannot be downloaded, or too many are bad.

    Source: Liu, Luo, Wang, Tang 2015, "Deep learning face attributes in the wild".
    """
    check_count("image_size", image_size)
    if crop is not None:
        check_count("crop", crop)
    check_fraction("max_bad_fraction", max_bad_fraction)
    files = open_image_files(_find(Path(root).expanduser(), download))
    num_found = len(files.names)
    level = logging.INFO if num_found >= _NUM_PUBLISHED else logging.WARNING
    logger.log(level, "Found %s of %s CelebA images in %s.", f"{num_found:,}", f"{_NUM_PUBLISHED:,}", files.origin)
    folders = dict.fromkeys(
        [Path(root).expanduser() / "celeba", Path(root).expanduser(), files.origin.parent, files.origin]
    )
    classes = None if attributes is None else attribute_classes(attributes, files.names, [*folders])
    source = Source(
        name="celeba",
        origin=str(files.origin),
        names=files.names,
        listing=files.listing,
        # The key of earlier versions, whose caches stay valid.
        preprocessing={"crop": crop, "resize": image_size} | ({"labels": digest(classes)} if classes else {}),
        image_shape=(3, image_size, image_size),
        labels=None if classes is None else classes.labels,
        num_classes=None if classes is None else len(classes.names),
        decode=lambda i: _decode(files, i, crop, image_size),
    )
    dataset = cached(source, cache_dir=Path(cache_dir).expanduser(), max_bad_fraction=max_bad_fraction)
    dataset.class_names = None if classes is None else classes.names
    dataset.originals = Originals(files, nullcontext, lambda width, height: (crop or width, crop or height))
    return dataset


def _decode(files: ImageFiles, i: int, crop: int | None, image_size: int) -> UInt8[np.ndarray, "3 h w"]:
    image = load_image(files.read(i), channels=3)
    if crop is not None:
        image = center_crop(image, crop)
    return to_array(resize(image, image_size, image_size))


def _find(root: Path, download: bool) -> Path:
    target = root / "celeba" / f"{_STEM}.zip"
    for base in (root / "celeba", root):
        for path in (base / _STEM, base / f"{_STEM}.zip"):
            if path.is_file() or (path.is_dir() and holds_images(path)):
                return path
    if root.is_file() or any(root.glob("*.jpg")):
        return root
    needs = f"CelebA needs the folder {_STEM} with its JPEGs, or {target.name}, in {target.parent}"
    obtain(needs, folder=target.parent, download=download, fetch=_fetch)
    return target


def _fetch(scratch: Path) -> Path:
    from torchvision.datasets import CelebA  # takes two seconds
    from torchvision.datasets.utils import download_file_from_google_drive

    file_id, md5, name = next(entry for entry in CelebA.file_list if entry[2] == f"{_STEM}.zip")
    download_file_from_google_drive(file_id, scratch, name, md5)
    return scratch
