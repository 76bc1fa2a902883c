"""One image file becomes one uint8 array."""

from io import BytesIO

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from gantrain.datasets.untrusted import printable

# Twice this is where Pillow itself refuses; at once it would only warn.
MAX_PIXELS = 89_478_485
MAX_SIDE = 65_535  # a JPEG's limit; Pillow's memory for a row of one pixel is many times that of the pixel
# Progressive JPEGs have about ten. Each goes over the whole image, however few bytes it takes.
MAX_SCANS = 100
_ORIENTATION = 0x0112  # EXIF's number of it; 1 is upright
_START_OF_SCAN = b"\xff\xda"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_FORMATS = ("PNG", "JPEG", "WEBP")
_MODES = {1: "L", 3: "RGB"}

# Pillow imports its decoders at first use, which is not safe from several threads at once.
Image.init()


class BadImageError(Exception):
    """This image cannot be used; the message says why."""


def load_image(content: bytes, *, channels: int) -> Image.Image:
    """Decode a PNG, JPEG or WebP to 8 bits, upright, over white, with 1 (grey) or 3 (RGB) channels.

    Raises:
        BadImageError: the content is broken, too large or of another format.
    """
    try:
        with Image.open(BytesIO(content), formats=_FORMATS) as image:
            _check_size(image.width, image.height)
            if image.format in ("JPEG", "MPO") and content.count(_START_OF_SCAN) > MAX_SCANS:
                raise BadImageError(f"has more than {MAX_SCANS} scans")
            turned = image if image.getexif().get(_ORIENTATION, 1) == 1 else ImageOps.exif_transpose(image)
            return _convert(turned, _MODES[channels])
    except BadImageError:
        raise
    except UnidentifiedImageError as error:
        raise BadImageError("is not a PNG, JPEG or WebP image") from error
    except Exception as error:  # broken bytes lead decoders into exceptions of every kind
        raise BadImageError(f"cannot be decoded ({printable(error)})") from error


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow would clip 16 bits at 255 instead of scaling them: 65535 / 257 is 255.
        grey = np.rint(np.asarray(image, np.float64) / 257).clip(0, 255)
        image = Image.fromarray(grey.astype(np.uint8))
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
        BadImageError: the result would be absurdly large.
    """
    _check_size(width, height)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def resize_shorter_side(image: Image.Image, size: int) -> Image.Image:
    """Resize so that the shorter side has `size` pixels; the longer is rounded down, as torchvision does."""
    shorter = min(image.size)
    return resize(image, image.width * size // shorter, image.height * size // shorter)


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """Cut the square of `size` pixels out of the middle.

    Raises:
        BadImageError: the image is smaller than that.
    """
    if min(image.size) < size:
        raise BadImageError(f"is {image.width}x{image.height}, too small for a crop of {size}x{size}")
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def to_array(image: Image.Image) -> UInt8[np.ndarray, "c h w"]:
    """The pixels, channels first."""
    pixels = np.asarray(image)
    return np.ascontiguousarray(np.atleast_3d(pixels).transpose(2, 0, 1))


def from_array(pixels: UInt8[np.ndarray, "c h w"]) -> Image.Image:
    """Undo to_array."""
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise BadImageError(f"would take {width}x{height} pixels, more than {MAX_PIXELS:,} or {MAX_SIDE:,} a side")
