"""Decode, resize and crop single images."""

from io import BytesIO

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from gantrain.datasets.untrusted import printable

# At this size Pillow only warns; it raises an error at twice this size.
MAX_PIXELS = 89_478_485
MAX_SIDE = 65_535  # the limit of JPEG; Pillow needs many bytes per row, so a tall image of one column is expensive
# Progressive JPEGs have about ten scans. Decoding each takes a pass over the whole image, however few bytes it has.
MAX_SCANS = 100
_ORIENTATION = 0x0112  # the EXIF tag; its value for upright images is 1
_START_OF_SCAN = b"\xff\xda"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_FORMATS = ("PNG", "JPEG", "WEBP")
_MODES = {1: "L", 3: "RGB"}

# Without this call Pillow imports its decoders at first use, which is not thread-safe.
Image.init()


class BadImageError(Exception):
    """An image that cannot be used; the message says why."""


def load_image(content: bytes, *, channels: int) -> Image.Image:
    """Decode a PNG, JPEG or WebP to an upright 8-bit image on white, with 1 (gray) or 3 (RGB) channels.

    Raises:
        BadImageError: the content is broken, too large or of another format.
    """
    try:
        with Image.open(BytesIO(content), formats=_FORMATS) as image:
            _check_size(image.width, image.height, "has")
            if image.format in ("JPEG", "MPO") and content.count(_START_OF_SCAN) > MAX_SCANS:
                raise BadImageError(f"has more than {MAX_SCANS} scans")
            upright = image if image.getexif().get(_ORIENTATION, 1) == 1 else ImageOps.exif_transpose(image)
            return _convert(upright, _MODES[channels])
    except BadImageError:
        raise
    except UnidentifiedImageError as error:
        raise BadImageError("is not a PNG, JPEG or WebP image") from error
    except Exception as error:  # a broken image can raise any exception
        raise BadImageError(f"cannot be decoded ({printable(error)})") from error


def size_and_color(content: bytes) -> tuple[int, int, bool]:
    """Return width and height of the upright image, and whether it has colors, from the header of a PNG, JPEG or WebP.

    Raises:
        BadImageError: the content is broken or of another format.
    """
    try:
        with Image.open(BytesIO(content), formats=_FORMATS) as image:
            is_turned = image.getexif().get(_ORIENTATION, 1) >= 5
            width, height = reversed(image.size) if is_turned else image.size
            return width, height, not image.mode.startswith(("1", "L", "I", "F"))
    except UnidentifiedImageError as error:
        raise BadImageError("is not a PNG, JPEG or WebP image") from error
    except Exception as error:  # a broken image can raise any exception
        raise BadImageError(f"cannot be decoded ({printable(error)})") from error


def color_mode(content: bytes) -> str:
    """Return Pillow's name of the colors of an image that size_and_color accepts: RGB, L (gray), RGBA, P, CMYK, ..."""
    with Image.open(BytesIO(content), formats=_FORMATS) as image:
        return image.mode


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
