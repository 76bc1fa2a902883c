"""WebDataset: tar files in which NAME.jpg and NAME.cls are the image and the class of a sample."""

import json
import logging
import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gantrain.datasets.base import ImageDataset
from gantrain.datasets.classes import Classes, digest, from_values
from gantrain.datasets.image_files import ImageFiles
from gantrain.datasets.image_folder import check_pictures, pictures
from gantrain.datasets.images import KINDS, SUFFIXES
from gantrain.datasets.kinds import remedy as instead
from gantrain.datasets.left_out import LeftOut, is_unread_picture, suffix_of
from gantrain.datasets.many_files import list_files, listing_of, load_split, require_root
from gantrain.datasets.slices import Slices
from gantrain.datasets.untrusted import open_regular, printable, read_slice
from gantrain.errors import ConfigError, DataError

logger = logging.getLogger(__name__)
KIND = "a .tar file, or a folder of them"
MAX_LABEL_BYTES = 2**20
_BLOCK = 512


def webdataset(
    *,
    root: str | None,
    split: str,
    label: str | None,
    image_size: int,
    channels: int,
    cache_dir: str,
    max_bad_fraction: float,
) -> ImageDataset:
    """Load the images in tar files, as squares of image_size pixels, as image_folder does. Nothing is unpacked.

    Args:
        split: of files whose paths name splits (train-000000.tar, test/0.tar), those to train on.
        label: "cls": the class of NAME.jpg is the number or text in NAME.cls; if there are no such files, there are no
            labels. "json:KEY": the value of a key in NAME.json. None: no labels.

    Raises:
        ConfigError: an option is out of range.
        DataError: the files are missing or broken, or too many images are bad.

    Source: Aizman, Maltby, Breuel 2019, "High performance I/O for large scale deep learning".
    """
    check_pictures(image_size, channels, max_bad_fraction)
    extension, _, key = (label or "").partition(":")
    if label is not None and (extension not in ("cls", "json") or (extension == "json") != bool(key)):
        raise ConfigError(f"dataset.label={label} must be cls, json:KEY (for example json:label), or null.")
    folder = require_root(root, KIND, "data/train-000000.tar")
    paths = list_files(folder, (".tar", ".tar.gz", ".tgz"), KIND)

    def load(chosen: list[Path]) -> ImageDataset:
        samples = Samples(chosen, folder)
        for number in range(len(chosen)):
            samples.add(number, extension)
        classes = samples.classes(key) if label is not None else None
        files = ImageFiles(folder, samples.names, listing_of(chosen, folder), {}, samples.images.read)
        if not files.names:
            others = f", only others: {samples.left_out}" if samples.left_out else ""
            raise DataError(f"{chosen[0]} holds no {KINDS} images{others}; set dataset.root to {KIND}.")
        if samples.left_out:
            logger.warning("%s images in %s; left out: %s.", f"{len(files.names):,}", folder, samples.left_out)
        return pictures(
            "webdataset",
            files,
            classes,
            image_size=image_size,
            channels=channels,
            cache_dir=cache_dir,
            max_bad_fraction=max_bad_fraction,
            facts={"labels": digest(classes)},
        )

    return load_split(paths, folder, split, load)


@dataclass
class Samples:
    """The samples in tar files.

    Attributes:
        labels: for each image, the place of the file that holds its label; None if there is none.
        left_out: counts the samples whose only pictures are of kinds that gantrain cannot read, by suffix.
    """

    paths: list[Path]
    root: Path
    names: list[str] = field(default_factory=list)
    labels: list[tuple[int, int, int] | None] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)

    def __post_init__(self) -> None:
        self.images = Slices(self.paths)

    def add(self, number: int, extension: str) -> None:
        """Add the samples of a file: consecutive members with the same name up to the first dot."""
        path = self.paths[number]
        above = f"{path.relative_to(self.root).as_posix()}/" if path != self.root else f"{path.name}/"
        seen: Counter[str] = Counter()
        image: tuple[str, tuple[int, int, int]] | None = None
        label, other, previous = None, None, None

        def finish() -> None:
            if image is not None:
                seen[image[0]] += 1
                again = f" ({seen[image[0]]})" * (seen[image[0]] > 1)  # names must tell images apart
                self.names.append(f"{above}{image[0]}{again}")
                self.images.places.append(image[1])
                self.labels.append(label)
            elif other is not None:
                self.left_out.suffixes[other] += 1

        for name, offset, num_bytes in members(path):
            folder, _, base = name.rpartition("/")
            stem, dot, suffix = base.partition(".")
            if not stem or not dot:  # a hidden file, or one without a suffix
                continue
            if (folder, stem) != previous:
                finish()
                image, label, other, previous = None, None, None, (folder, stem)
            if f".{suffix.lower()}" in SUFFIXES and image is None:
                image = name, (number, offset, num_bytes)
            elif suffix.lower() == extension:
                label = number, offset, num_bytes
            elif is_unread_picture(name):
                other = suffix_of(name)
        finish()

    def classes(self, key: str) -> Classes | None:
        """Read the labels; None if no sample has one.

        Args:
            key: of the label in a .json; "": the file is the label.
        """
        if not any(self.labels) and not key:
            return None
        remedy = "set dataset.label=null to train without labels"
        values: list[object] = []
        for name, place in zip(self.names, self.labels, strict=True):
            if place is None:
                raise DataError(f"{printable(name)} has no label, but other samples have one; {remedy}.")
            values.append(self.read_label(place, key, name, remedy))
        return from_values(values, of=str(self.root), remedy=remedy)

    def read_label(self, place: tuple[int, int, int], key: str, name: str, remedy: str) -> object:
        """Read the label of a sample."""
        which, offset, num_bytes = place
        try:
            if num_bytes > MAX_LABEL_BYTES:
                raise ValueError(f"it takes {num_bytes:,} bytes")
            text = read_slice(os.fspath(self.paths[which]), offset, num_bytes).decode()
            if key:
                value: object = json.loads(text)[key]
                return value
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            reason = f"no {key}" if isinstance(error, KeyError) else printable(error)
            raise DataError(f"The label of {printable(name)} cannot be read ({reason}); {remedy}.") from error
        text = text.strip()
        return int(text) if text.isdecimal() and len(text) < 10 else text


def members(path: Path) -> Iterator[tuple[str, int, int]]:
    """Yield name, offset and size of the regular files in a tar, without reading their content.

    Raises:
        DataError: the tar is compressed or damaged.
    """
    try:
        with open_regular(path) as file:
            start = file.read(6)
            if (
                start[:2] == b"\x1f\x8b"
                or start[:3] == b"BZh"
                or start == b"\xfd7zXZ\0"
                or start[:4] == b"\x28\xb5\x2f\xfd"
            ):
                raise DataError(
                    f"{path} is compressed, so its images cannot be read in place; decompress it (gunzip) first."
                )
            file.seek(0)
            end = os.fstat(file.fileno()).st_size
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    archive.members = []  # type: ignore[attr-defined]  # or it keeps all of them
                    if member.isreg() and not member.issparse():
                        if member.offset_data + member.size > end:
                            raise EOFError("it ends within a file")
                        yield member.name, member.offset_data, member.size
                check_end(file, archive.offset)
    except DataError:
        raise
    except Exception as error:  # a broken tar can raise any exception
        reason = error.strerror if isinstance(error, OSError) and error.strerror else printable(error)
        raise DataError(f"{path} is not a readable tar ({reason}); {instead(path, 'webdataset')}.") from error


def check_end(file: Any, offset: int) -> None:
    """Check that tarfile stopped at the end of the archive: at a damaged header it stops without an error."""
    file.seek(offset)
    if any(file.read(_BLOCK)):
        raise tarfile.ReadError(f"damaged at byte {offset:,}")
