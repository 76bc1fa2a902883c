"""Decode, resize and crop single images."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from io import BytesIO
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError, features

from gantrain.datasets.metadata import UPRIGHT, separate, until_end_of_jpeg
from gantrain.datasets.untrusted import printable

# At this size Pillow only warns; it raises an error at twice this size.
MAX_PIXELS = 89_478_485
MAX_SIDE = 65_535  # the limit of JPEG; Pillow needs many bytes per row, so a tall image of one column is expensive
# Progressive JPEGs have about ten scans. Decoding each takes a pass over the whole image, however few bytes it has.
MAX_SCANS = 100
_START_OF_SCAN = b"\xff\xda"
_MODES = {1: "L", 3: "RGB"}

# Without this call Pillow imports its decoders at first use, which is not thread-safe.
Image.init()


def _register_heic() -> bool:
    if find_spec("pillow_heif") is None:
        return False
    try:
        from pillow_heif import register_heif_opener

        register_heif_opener()
    except Exception:  # a broken installation of an extra does not end commands that do not need it
        return False
    return True


_READS_AVIF, READS_HEIC = bool(features.check("avif")), _register_heic()
HEIC_SUFFIXES = (".heic", ".heif", ".hif")
HEIC_REMEDY = "pip install 'gantrain[heic]' reads HEIC"
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jif", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
    *((".avif",) if _READS_AVIF else ()),
    *(HEIC_SUFFIXES if READS_HEIC else ()),
)
"""Suffixes, in lower case, of the files that are read as images."""

_FORMATS = (
    *("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"),
    *(("AVIF",) if _READS_AVIF else ()),
    *(("HEIF",) if READS_HEIC else ()),
)
_NAMES = ["PNG", "JPEG", "WebP", "GIF", "BMP", "TIFF", "PPM", *["AVIF"] * _READS_AVIF, *["HEIC"] * READS_HEIC]
KINDS = f"{', '.join(_NAMES[:-1])} or {_NAMES[-1]}"
"""The formats that can be read, for messages."""

OWN = "was made by gantrain"
"""The reason why a grid of samples is left out."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by its orientation in EXIF."""

_TILE_WIDTH, _TILE_LENGTH = 322, 323  # tags of TIFF


class BadImageError(Exception):
    """An image that cannot be used; the message says why."""


def load_image(content: bytes, *, channels: int) -> Image.Image:
    """Decode an image, or its first frame, to an upright 8-bit image on white, with 1 (gray) or 3 (RGB) channels.

    Raises:
        BadImageError: the content is broken, too large or of a format that is not in KINDS.
    """
    with _opened(content) as (image, orientation):
        _check_size(image.width, image.height, "has")
        turn = _TURNS.get(orientation)
        return _convert(image if turn is None else image.transpose(turn), _MODES[channels])


def size_and_color(content: bytes) -> tuple[int, int, bool]:
    """Return width and height of the upright image, and whether it has colors, from its header.

    Raises:
        BadImageError: the content is broken or of a format that is not in KINDS.
    """
    with _opened(content) as (image, orientation):
        width, height = reversed(image.size) if orientation >= 5 else image.size
        return width, height, not image.mode.startswith(("1", "L", "I", "F"))


def color_mode(content: bytes) -> str:
    """Return Pillow's name of the colors of an image that size_and_color accepts: RGB, L (gray), RGBA, P, CMYK, ..."""
    with _opened(content) as (image, _):
        return image.mode


@contextmanager
def _opened(content: bytes) -> Iterator[tuple[Image.Image, int]]:
    # Yields the image with its orientation. Any error in the block is one of the image.
    try:
        found = separate(content)
        if found.is_own:
            raise BadImageError(OWN)
        with Image.open(BytesIO(_limited(found.pixels)), formats=_FORMATS) as image:
            if image.format == "TIFF":
                _check_tiff(image)
            yield image, _orientation(image) if found.orientation is None else found.orientation
    except BadImageError:
        raise
    except UnidentifiedImageError as error:
        is_heic = content[4:8] == b"ftyp" and not READS_HEIC
        raise BadImageError(f"is not a {KINDS} image" + f"; {HEIC_REMEDY}" * is_heic) from error
    except Exception as error:  # a broken image can raise any exception
        raise BadImageError(f"cannot be decoded ({printable(error)})") from error


def _limited(content: bytes) -> bytes:
    # What follows the end of a JPEG may look like scans, so the end is looked for if there are too many.
    if content.startswith(b"\xff\xd8") and content.count(_START_OF_SCAN) > MAX_SCANS:
        content = until_end_of_jpeg(content)
        if content.count(_START_OF_SCAN) > MAX_SCANS:
            raise BadImageError(f"has more than {MAX_SCANS} scans")
    return content


def _orientation(image: Image.Image) -> int:
    if image.format not in ("AVIF", "HEIF"):  # Pillow turns TIFF itself, the others have none
        return UPRIGHT
    try:
        return int(image.getexif().get(0x0112, UPRIGHT))
    except Exception:  # broken metadata can raise any exception
        return UPRIGHT


def _check_tiff(image: Image.Image) -> None:
    tags: Any = getattr(image, "tag_v2", {})
    _check_size(tags.get(_TILE_WIDTH, 1), tags.get(_TILE_LENGTH, 1), "has tiles of")
    if image.mode in ("I", "F", "I;16S"):
        raise BadImageError("has integers of 32 bits, negative numbers or fractions, whose range is not known")


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow would clip 16-bit values at 255; dividing by 257 scales 65535 to 255.
        gray = np.rint(np.asarray(image, np.float64) / 257).clip(0, 255)
        image = Image.fromarray(gray.astype(np.uint8))
    elif image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.new("RGBA", layer.size, "white")
        image.alpha_composite(layer)
    if image.mode != mode:
        return image.convert(mode)
    image.load()
    return image


def resize(image: Image.Image, width: int, height: int) -> Image.Image:
    """Resize bilinearly, with antialiasing.

    Raises:
        BadImageError: the result would exceed MAX_PIXELS or MAX_SIDE.
    """
    _check_size(width, height, "would be resized to")
    return image.resize((width, height), Image.Resampling.BILINEAR)


def resize_shorter_side(image: Image.Image, size: int) -> Image.Image:
    """Resize the shorter side to `size` pixels and round the longer side down, as torchvision does."""
    shorter = min(image.size)
    return resize(image, image.width * size // shorter, image.height * size // shorter)


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """Cut out the central square of `size` pixels.

    Raises:
        BadImageError: the image is smaller than the square.
    """
    if min(image.size) < size:
        raise BadImageError(f"is {image.width}x{image.height}, too small for a crop of {size}x{size}")
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def to_array(image: Image.Image) -> UInt8[np.ndarray, "c h w"]:
    """Return the pixels with the channels first."""
    pixels = np.asarray(image)
    return np.ascontiguousarray(np.atleast_3d(pixels).transpose(2, 0, 1))


def from_array(pixels: UInt8[np.ndarray, "c h w"]) -> Image.Image:
    """Invert to_array."""
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def _check_size(width: int, height: int, verb: str) -> None:
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise BadImageError(f"{verb} {width}x{height} pixels, more than {MAX_PIXELS:,} or {MAX_SIDE:,} per side")
