"""The image files of a folder or of a zip, read through one interface."""

import os
import weakref
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from gantrain.datasets.images import SUFFIXES, BadImageError
from gantrain.errors import DataError

MAX_FILE_BYTES = 256 * 2**20


@dataclass(frozen=True)
class ImageFiles:
    """Image files below one root, sorted by name.

    Attributes:
        names: paths relative to the root, with forward slashes.
        listing: name, size and modification time (folder) or CRC (zip) of each: changes when an image does.
        read: content of the i-th; may be called from several threads; raises BadImageError.
    """

    origin: Path
    names: list[str]
    listing: list[tuple[str, int, int]]
    read: Callable[[int], bytes]


def open_image_files(path: Path) -> ImageFiles:
    """List the image files below a folder or inside a zip, at any depth.

    Hidden files and the __MACOSX folders that Finder adds are left out. A zip stays open while the result is in use.

    Raises:
        DataError: it is missing, unreadable, or holds no images; the message says what it holds instead.
    """
    if path.is_dir():
        return _of_folder(path)
    if path.exists():
        return _of_zip(path, _open_zip(path))
    raise DataError(f"{path} does not exist; set dataset.root to the folder or zip that holds the images.")


def _open_zip(path: Path) -> zipfile.ZipFile:
    with ExitStack() as stack:
        try:
            # ZipFile counts the readers of a file that it opened itself, which is not safe from several threads.
            archive = zipfile.ZipFile(stack.enter_context(path.open("rb")))
        except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            raise DataError(f"{path} is neither a folder nor a readable zip ({error}); replace it.") from error
        # For the same reason it would leave this file open, and images are read long after they were listed.
        weakref.finalize(archive, stack.pop_all().close)
    return archive


def _of_folder(root: Path) -> ImageFiles:
    try:
        found = list(_walk(root, "", frozenset()))
    except OSError as error:
        raise DataError(f"{error.filename} cannot be listed: {error.strerror}.") from error
    listing = _images_among(root, found)

    def read(i: int) -> bytes:
        name, num_bytes, _ = listing[i]
        _check_size(num_bytes)
        try:
            return (root / name).read_bytes()
        except OSError as error:
            raise BadImageError(f"cannot be read ({error.strerror})") from error

    return ImageFiles(root, [name for name, *_ in listing], listing, read)


def _of_zip(path: Path, archive: zipfile.ZipFile) -> ImageFiles:
    members = {info.filename: info for info in archive.infolist() if not info.is_dir()}
    listing = _images_among(path, [(name, info.file_size, info.CRC) for name, info in members.items()])

    def read(i: int) -> bytes:
        info = members[listing[i][0]]
        _check_size(info.file_size)
        try:
            return archive.read(info)
        except Exception as error:  # encryption, unknown compression, broken streams: each raises its own kind
            raise BadImageError(f"cannot be unzipped ({error})") from error

    return ImageFiles(path, [name for name, *_ in listing], listing, read)


def _walk(folder: Path, prefix: str, above: frozenset[Path]) -> Iterator[tuple[str, int, int]]:
    # Links are followed, because data sets are often folders of links, but never into a folder that they lie in.
    real = folder.resolve()
    if real in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            name = prefix + entry.name
            if not _is_visible(name):
                continue
            if entry.is_dir():
                yield from _walk(Path(entry.path), f"{name}/", above | {real})
            elif entry.is_file():
                status = entry.stat()
                yield name, status.st_size, status.st_mtime_ns


def _images_among(root: Path, found: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    visible = [entry for entry in found if _is_visible(entry[0])]
    images = sorted(entry for entry in visible if _suffix(entry[0]) in SUFFIXES)
    if images:
        return images
    if not visible:
        raise DataError(f"dataset.root={root} is empty; put PNG, JPEG or WebP images there.")
    counts = Counter(_suffix(name) or "without a suffix" for name, *_ in visible)
    instead = ", ".join(f"{count:,} {suffix}" for suffix, count in counts.most_common(8))
    raise DataError(
        f"{root} holds no PNG, JPEG or WebP images, only other files ({instead}); "
        "put images there, or set dataset.root to the folder or zip that holds them."
    )


def _is_visible(name: str) -> bool:
    return not any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _check_size(num_bytes: int) -> None:
    if num_bytes > MAX_FILE_BYTES:
        raise BadImageError(f"takes {num_bytes:,} bytes, more than {MAX_FILE_BYTES:,}")
