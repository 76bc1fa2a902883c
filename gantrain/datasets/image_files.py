"""Read the image files of a folder or a zip through one interface."""

import errno
import logging
import os
import stat
import weakref
import zipfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from io import BufferedReader, RawIOBase
from pathlib import Path, PureWindowsPath
from typing import Any

from typing_extensions import override

from gantrain.datasets.images import KINDS, BadImageError
from gantrain.datasets.kinds import remedy
from gantrain.datasets.left_out import Head, LeftOut, is_image, select
from gantrain.datasets.untrusted import open_regular, printable, read_regular
from gantrain.datasets.walk import walk
from gantrain.errors import DataError

logger = logging.getLogger(__name__)
MAX_FILE_BYTES = 256 * 2**20
MAX_DIRECTORY_BYTES = 256 * 2**20  # of the directory of a zip: two million files with names of usual length
_DIRECTORY_BYTES = 5  # index of the directory's size in the record that zipfile reads from the end of a zip
_MIN_HEADER_BYTES = 30


@dataclass(frozen=True)
class ImageFiles:
    """Image files below one root, sorted by name.

    Attributes:
        names: paths relative to the root, with forward slashes.
        listing: name, size, and modification time (folder) or CRC (zip) of each file: changes when an image changes.
        flaws: the reason, by name, for each file that is known to be unreadable before it is read.
        read: returns the content of the i-th file or raises BadImageError; may be called from several threads.
        read_other: returns the folder and the content of a file with another purpose, such as dataset.json, at the root
            or in the one folder that was zipped; None if there is none. The folder is "" or ends with a slash.
    """

    origin: Path
    names: list[str]
    listing: list[tuple[str, int, int]]
    flaws: Mapping[str, str]
    read: Callable[[int], bytes]
    read_other: Callable[[str], tuple[str, bytes] | None] = lambda _: None


@dataclass(frozen=True)
class Originals:
    """The images of a dataset as they are stored, for a look at them.

    Attributes:
        opened: a block in which the files can be read.
        part_used: from width and height of an image to those of the part of it that the preprocessing uses.
    """

    files: ImageFiles
    opened: Callable[[], AbstractContextManager[None]]
    part_used: Callable[[int, int], tuple[int, int]]


def open_image_files(path: Path, option: str = "dataset.root") -> ImageFiles:
    """List the image files below a folder or inside a zip, at any depth.

    Skips hidden files, folders that systems make, and what gantrain made; logs what is left out. A zip stays open while
    the result is in use.

    Args:
        option: name of the option that holds the path, for messages.

    Raises:
        DataError: the path is missing, unreadable, or holds no images; the message says what it holds instead.
    """
    try:
        if path.is_dir():
            return _of_folder(path, option)
        exists = path.exists()
    except OSError as error:
        raise DataError(f"{option}={path} cannot be read ({error.strerror}); choose another.") from error
    if exists:
        return _of_zip(path, _open_zip(path), option)
    raise DataError(f"{path} does not exist; set {option} to the folder or zip that holds the images.")


def holds_images(folder: Path) -> bool:
    """Return whether there is an image below a folder, at any depth, by the names of the files.

    Raises:
        OSError: the folder cannot be listed.
    """
    return any(is_image(name) for name, *_ in walk(folder, {}, LeftOut(), "dataset.root"))


def _of_folder(root: Path, option: str) -> ImageFiles:
    flaws: dict[str, str] = {}
    left_out = LeftOut()
    try:
        found = list(walk(root, flaws, left_out, option))
    except OSError as error:
        raise DataError(f"{error.filename} cannot be listed: {error.strerror}.") from error
    folder = os.path.join(root, "")  # noqa: PTH118 (pathlib would take 1% of the decoding time)

    def head(name: str, num_bytes: int) -> bytes:
        try:
            with open_regular(root / name) as file:
                return file.read(num_bytes)
        except OSError:
            return b""

    listing = _images_among(root, found, option, head, left_out)

    def read(i: int) -> bytes:
        name, num_bytes, _ = listing[i]
        _check_readable(num_bytes, flaws.get(name))
        try:
            return read_regular(f"{folder}{name}", max_bytes=MAX_FILE_BYTES)
        except OSError as error:
            raise BadImageError(f"cannot be read ({error.strerror})") from error

    def read_other(name: str) -> tuple[str, bytes] | None:
        path = f"{folder}{name}"
        try:
            return "", read_regular(path, max_bytes=MAX_FILE_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}); replace it.") from error

    return ImageFiles(root, [name for name, *_ in listing], listing, flaws, read, read_other)


def _open_zip(path: Path) -> zipfile.ZipFile:
    with ExitStack() as stack:
        try:
            # ZipFile counts the readers of a file that it opens itself, and this count is not thread-safe.
            own: Any = _PositionedReader(stack.enter_context(open_regular(path)))
            file = BufferedReader(own)
            _check_directory(file)
            archive = zipfile.ZipFile(file)
        except Exception as error:  # a broken zip can raise any exception
            reason = error.strerror if isinstance(error, OSError) and error.strerror else printable(error)
            raise DataError(
                f"{path} is neither a folder nor a readable zip ({reason}); {remedy(path, 'image_folder')}."
            ) from error
        # ZipFile does not close a file that it did not open, so the file is closed with the last use of the archive.
        weakref.finalize(archive, stack.pop_all().close)
    return archive


class _PositionedReader(RawIOBase):
    """A file with its own position in each process; forked processes share the position of an open file."""

    def __init__(self, file: BufferedReader):
        self.file, self.position = file, 0

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return True

    @override
    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        starts = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: os.fstat(self.file.fileno()).st_size}
        if (position := starts[whence] + offset) < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self.position = position
        return position

    @override
    def readinto(self, buffer: Any, /) -> int:
        content = os.pread(self.file.fileno(), len(buffer), self.position)
        buffer[: len(content)] = content
        self.position += len(content)
        return len(content)


def _check_directory(file: BufferedReader) -> None:
    # ZipFile would read the whole directory and create an object for each entry.
    record = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    if record and record[_DIRECTORY_BYTES] > MAX_DIRECTORY_BYTES:
        raise zipfile.BadZipFile(f"its directory takes more than {MAX_DIRECTORY_BYTES:,} bytes")


def _of_zip(path: Path, archive: zipfile.ZipFile, option: str) -> ImageFiles:
    members = {info.filename: info for info in archive.infolist() if not info.filename.endswith("/")}
    flaws = _zip_flaws(archive)

    def head(name: str, num_bytes: int) -> bytes:
        try:
            with archive.open(name) as member:
                return b"" if name in flaws else member.read(num_bytes)
        except Exception:  # a broken zip can raise any exception
            return b""

    found = [(name, info.file_size, info.CRC) for name, info in members.items()]
    listing = _images_among(path, found, option, head, is_zip=True)

    def read(i: int) -> bytes:
        return unzip(members[listing[i][0]])

    def unzip(info: zipfile.ZipInfo) -> bytes:
        _check_readable(info.file_size, flaws.get(info.filename))
        try:
            with archive.open(info) as member:
                # Reading without a limit would decompress far more bytes than a false size claims.
                return member.read(info.file_size + 1)
        except Exception as error:  # encryption and broken streams raise many kinds of exceptions
            raise BadImageError(f"cannot be unzipped ({printable(error)})") from error

    def read_other(name: str) -> tuple[str, bytes] | None:
        tops = {image.partition("/")[0] for image, *_ in listing if "/" in image}
        folder = next(
            (top for top in ("", *(f"{top}/" for top in tops if len(tops) == 1)) if top + name in members), None
        )
        if folder is None:
            return None
        try:
            return folder, unzip(members[folder + name])
        except BadImageError as error:
            raise DataError(f"{path}: {name} {error}; replace it.") from error

    return ImageFiles(path, [name for name, *_ in listing], listing, flaws, read, read_other)


def _zip_flaws(archive: zipfile.ZipFile) -> dict[str, str]:
    flaws: dict[str, str] = {}
    by_offset = sorted(archive.infolist(), key=lambda info: info.header_offset)
    ends = [*(info.header_offset for info in by_offset), archive.start_dir][1:]
    for info, end in zip(by_offset, ends, strict=True):
        if info.header_offset + _MIN_HEADER_BYTES + info.compress_size > end:
            flaws[info.filename] = "overlaps the next entry of the zip"  # overlaps let a small zip expand to terabytes
        elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # Python decompresses the other methods without a limit.
            flaws[info.filename] = f"is compressed by method {info.compress_type}, neither stored nor deflated"
        elif stat.S_ISLNK(info.external_attr >> 16):
            flaws[info.filename] = "is a link"
        elif _points_outside(info.filename):
            flaws[info.filename] = "points outside the zip"
    return flaws


def _points_outside(name: str) -> bool:
    path = PureWindowsPath(name)  # recognizes drives and both kinds of slashes
    return bool(path.anchor) or ".." in path.parts


def _images_among(
    root: Path,
    found: list[tuple[str, int, int]],
    option: str,
    head: Head,
    skipped: LeftOut | None = None,
    *,
    is_zip: bool = False,
) -> list[tuple[str, int, int]]:
    names, left_out = select([name for name, *_ in found], head, is_zip=is_zip)
    if skipped is not None:
        left_out.system |= skipped.system
    chosen = set(names)
    images = sorted(entry for entry in found if entry[0] in chosen)
    if images:
        if left_out:
            level = logging.WARNING if left_out.has_pictures else logging.INFO
            logger.log(level, "%s images in %s; left out: %s.", f"{len(images):,}", root, left_out)
        return images
    if not left_out:
        raise DataError(f"{option}={root} is empty; put images there ({KINDS}).")
    if is_zip and all(name.endswith(".npy") for name, *_ in found):
        raise DataError(f"{root} holds arrays and no images; use dataset=npz.")
    raise DataError(
        f"{root} holds no {KINDS} images, only others: {left_out}; "
        f"put images there, or set {option} to the folder or zip that holds them."
    )


def _check_readable(num_bytes: int, flaw: str | None) -> None:
    if flaw is not None:
        raise BadImageError(flaw)
    if num_bytes > MAX_FILE_BYTES:
        raise BadImageError(f"takes {num_bytes:,} bytes, more than {MAX_FILE_BYTES:,}")
