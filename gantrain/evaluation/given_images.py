"""Images that gantrain did not make: in a folder, a zip or an .npz, at their native size."""

import hashlib
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from gantrain.datasets.base import ImageDataset
from gantrain.datasets.cache import finish_fingerprint
from gantrain.datasets.decoding import decoding
from gantrain.datasets.image_files import ImageFiles, open_image_files
from gantrain.datasets.images import MAX_PIXELS, BadImageError, load_image, size_and_color, to_array
from gantrain.datasets.mapped import MappedImages
from gantrain.datasets.progress import track
from gantrain.datasets.untrusted import open_regular, printable
from gantrain.errors import DataError
from gantrain.files import DISK_FULL, require_space

ARRAYS = ("images", "arr_0")
"""Names of the array of images in an .npz: gantrain's, and that of numpy and of other tools."""

Pixels = UInt8[np.ndarray, "c h w"]


@contextmanager
def given_images(option: str, given: str, *, num_workers: int | None) -> Iterator[ImageDataset]:
    """Decode all images of a folder, a zip or an .npz to a temporary file, which exists while the block runs.

    Images of files are ordered by their names. They are gray if all of them are, otherwise RGB.

    Args:
        option: name of the option that holds the path, for messages.
        given: the path.
        num_workers: number of parallel decoders; None: one per core.

    Raises:
        DataError: there are no images, or one is damaged or of another size.
        ConfigError: the disk is too small.
    """
    path = Path(given).expanduser()
    is_array = path.suffix.lower() == ".npz" and not path.is_dir()
    opened = read_array(option, path) if is_array else read_files(option, path, num_workers)
    with ExitStack() as stack:
        with opened as (shape, images):
            folder = tempfile.TemporaryDirectory(prefix="gantrain-", ignore_cleanup_errors=True)
            file = Path(stack.enter_context(folder)) / "images.npy"
            stored = store(images, shape, file, option, path)
        yield stored


def store(images: Iterable[Pixels], shape: tuple[int, ...], file: Path, option: str, origin: Path) -> MappedImages:
    """Write images to a file, one after the other, and memory-map it.

    Args:
        shape: of all images, (n, c, h, w).
        option, origin: the option and the path that name the images.
    """
    require_space(file.parent, int(np.prod(shape)), f"{option}={origin}, decoded,")
    digest = hashlib.sha256()
    with file.open("wb") as target:
        header: Any = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(target, header)
        for image in track(images, total=shape[0], what=f"Reading {printable(origin.name)}"):
            target.write(image.data)
            digest.update(image.data)
    return MappedImages(
        *(file, np.lib.format.open_memmap(file, mode="r")),
        name=printable(origin.name),
        labels=None,
        num_classes=None,
        fingerprint=finish_fingerprint(digest, shape, None),
    )


@contextmanager
def read_files(option: str, path: Path, num_workers: int | None) -> Iterator[tuple[tuple[int, ...], Iterator[Pixels]]]:
    """Yield the shape (n, c, h, w) of the images of a folder or a zip, and an iterator over them."""
    files = open_image_files(path, option)
    shape = common_shape(files, option)

    def decode(i: int) -> Pixels:
        return to_array(load_image(files.read(i), channels=shape[0]))

    with decoding(decode, files.names, shape, num_workers) as images:
        yield (len(files.names), *shape), without_bad(images, files, option)


def without_bad(images: Iterable[Pixels | BadImageError], files: ImageFiles, option: str) -> Iterator[Pixels]:
    """Yield the images.

    Raises:
        DataError: one is bad.
    """
    for i, image in enumerate(images):
        if isinstance(image, BadImageError):
            raise bad_image(option, files, i, image)
        yield image


def common_shape(files: ImageFiles, option: str) -> tuple[int, int, int]:
    """Return the shape (c, h, w) that all images have, from their headers.

    Raises:
        DataError: a file is damaged, or an image has another size than most.
    """
    found: list[tuple[int, int, bool]] = []
    for i in range(len(files.names)):
        try:
            found.append(size_and_color(files.read(i)))
        except BadImageError as error:
            raise bad_image(option, files, i, error) from error
    sizes = [(width, height) for width, height, _ in found]
    (width, height), num = Counter(sizes).most_common(1)[0]
    if num < len(sizes):
        i = next(i for i, size in enumerate(sizes) if size != (width, height))
        resizing = "resize them all, or remove those"
        if option == "real":
            resizing += ", or let dataset=image_folder dataset.root=... resize them"
        raise DataError(
            f"{option}={files.origin}: {printable(files.names[i])} has {sizes[i][0]}x{sizes[i][1]} pixels, but {num:,} "
            f"of {len(sizes):,} images have {width}x{height}, and all must have one size; {resizing}."
        )
    return (3 if any(has_color for *_, has_color in found) else 1), height, width


def bad_image(option: str, files: ImageFiles, i: int, reason: BadImageError) -> DataError:
    """Return the error for an image that cannot be used."""
    return DataError(f"{option}={files.origin}: {printable(files.names[i])} {reason}; replace or remove it.")


@contextmanager
def read_array(option: str, path: Path) -> Iterator[tuple[tuple[int, ...], Iterator[Pixels]]]:
    """Yield the shape (n, c, h, w) of the images of an .npz, and an iterator over them."""
    source = f"{option}={path}"
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            name = member_name(source, archive.namelist())
            if archive.getinfo(name).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DataError(f"{source}: {name} is neither stored nor deflated; write it with np.savez.")
            with archive.open(name) as member:
                shape = read_header(f"{source}: {name}", member)
                n, h, w, c = shape
                yield (n, c, h, w), (rows(member, h, w, c) for _ in range(n))
    except FileNotFoundError as error:
        raise DataError(f"{source}: there is no such file; name a folder, a zip or an .npz of images.") from error
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else printable(error)
        raise DataError(f"{source} cannot be read ({reason}); replace it.") from error


def member_name(source: str, names: Sequence[str]) -> str:
    """Return the name of the file in an .npz that holds the images.

    Raises:
        DataError: there is none.
    """
    for array in ARRAYS:
        if f"{array}.npy" in names:
            return f"{array}.npy"
    known = ", ".join(printable(name.removesuffix(".npy")) for name in names[:8])
    raise DataError(
        f"{source} has the arrays {known or '(none)'}, but must have one named {' or '.join(ARRAYS)}: uint8 "
        "[n, h, w, c] or [n, h, w]; write it with np.savez(file, images=...)."
    )


def read_header(source: str, member: Any) -> tuple[int, int, int, int]:
    """Read the header of an array of images, and return its shape as (n, h, w, c).

    Raises:
        DataError: these are no images.
        ValueError: there is no header.
    """
    version = np.lib.format.read_magic(member)
    read: Any = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(member)
    full = (*shape, 1) if len(shape) == 3 else shape
    is_image = dtype == np.uint8 and len(full) == 4 and min(full) >= 1 and full[3] in (1, 3)
    if not is_image or fortran or full[1] * full[2] > MAX_PIXELS:
        order = " in Fortran order" if fortran else ""
        raise DataError(
            f"{source} is {dtype} {list(shape)}{order}, but images are uint8 [n, h, w, c] with 1 or 3 channels, or "
            "[n, h, w], in C order, with values from 0 to 255; convert it."
        )
    n, h, w, c = full
    return n, h, w, c


def rows(member: Any, h: int, w: int, c: int) -> Pixels:
    """Read the next image of an array.

    Raises:
        EOFError: the array ends before it.
    """
    content = b""
    while len(content) < h * w * c:
        if not (more := member.read(h * w * c - len(content))):
            raise EOFError("the array is shorter than its header says")
        content += more
    return np.ascontiguousarray(np.frombuffer(content, np.uint8).reshape(h, w, c).transpose(2, 0, 1))
