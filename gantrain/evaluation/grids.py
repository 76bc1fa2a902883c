"""Arrange images in grids, and write pictures, uint8 arrays [h, w, 3], as PNG files and animated GIFs."""

import logging
from collections.abc import Iterator, Sequence
from io import BytesIO
from math import ceil, isqrt
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from gantrain.datasets.batches import to_bytes
from gantrain.datasets.metadata import MADE_BY_GANTRAIN
from gantrain.files import atomic_write

logger = logging.getLogger(__name__)

Picture = UInt8[ndarray, "height width 3"]


def grid(images: Float[Tensor, "n c h w"], columns: int | None = None) -> Picture:
    """Arrange images with values in [-1, 1] in a grid, with white lines between them.

    The brightness is not normalized, so grids can be compared. Small images are enlarged by a whole factor, so that the
    grid is at least 256 pixels wide.

    Args:
        columns: number of columns; None: chosen so that the grid is about square.
    """
    n, _, _, w = images.shape
    columns = columns or num_columns(n)
    factor = max(1, ceil(256 / (columns * w)))
    pixels = to_bytes(images.detach().float().cpu())
    pixels = pixels.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
    return tile(pixels.numpy(), columns)


def tile(images: UInt8[ndarray, "n c h w"], columns: int, *, padding: int = 2) -> Picture:
    """Arrange images row by row, with `padding` white pixels around each, or none if there is a single image.

    It does the same as torchvision.utils.make_grid, whose import takes more than two seconds.
    """
    n, c, h, w = images.shape
    padding = padding if n > 1 else 0
    columns = min(columns, n)
    rows = ceil(n / columns)
    cells = np.full((rows * columns, c, h + padding, w + padding), 255, np.uint8)
    cells[:n, :, padding:, padding:] = images
    joined = cells.reshape(rows, columns, c, h + padding, w + padding).transpose(0, 3, 1, 4, 2)
    joined = joined.reshape(rows * (h + padding), columns * (w + padding), c)
    framed = np.pad(joined, ((0, padding), (0, padding), (0, 0)), constant_values=255)
    return np.ascontiguousarray(np.broadcast_to(framed, (*framed.shape[:2], 3)))


def num_columns(n: int) -> int:
    """Choose the number of columns for n images: the smallest divisor of n in [r, 2r), or else r = ceil(sqrt(n))."""
    root = 1 + isqrt(n - 1)
    return next((columns for columns in range(root, 2 * root) if n % columns == 0), root)


def save_png(path: Path, picture: Picture) -> None:
    """Write a picture to a PNG file atomically, with a mark: as a part of the data it would be left out."""
    mark = PngInfo()
    mark.add_text(*MADE_BY_GANTRAIN)
    with atomic_write(path) as file:
        file.write(png(picture, mark))


def png(picture: Picture, info: PngInfo | None = None) -> bytes:
    """Encode a picture as PNG at the lowest compression level: twice as fast as the default, and 5 % larger."""
    file = BytesIO()
    Image.fromarray(picture).save(file, format="png", compress_level=1, pnginfo=info)
    return file.getvalue()


def animation(
    path: Path,
    frames: Sequence[Path],
    *,
    max_frames: int = 200,
    max_width: int = 512,
    frame_ms: int = 100,
    last_ms: int = 2000,
) -> None:
    """Write picture files as a looping GIF; damaged files are skipped with a warning.

    Args:
        frames: the files, in order.
        max_frames: maximum number of frames; of more files, evenly spaced ones are used.
        max_width: maximum width in pixels; wider pictures are scaled down.
        frame_ms, last_ms: duration of a frame and of the last frame, in milliseconds.
    """
    chosen = [frame for frame in (frames[i] for i in evenly(len(frames), max_frames)) if _is_intact(frame)]
    if not chosen:
        return
    pictures = _open_frames(chosen, max_width)
    first = next(pictures)
    with atomic_write(path) as file:
        first.save(
            file,
            format="gif",
            save_all=True,
            append_images=pictures,
            duration=[frame_ms] * (len(chosen) - 1) + [last_ms],
            loop=0,
        )


def evenly(num: int, max_num: int) -> list[int]:
    """Choose at most `max_num` evenly spaced indices below `num`, including the first and the last."""
    return sorted(set(np.linspace(0, num - 1, min(num, max_num)).round().astype(int).tolist()))


def _is_intact(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            image.verify()
    except Exception as error:  # damaged bytes can raise any exception
        logger.warning("%s is damaged (%s); the animation skips it.", path, error)
        return False
    return True


def _open_frames(paths: Sequence[Path], max_width: int) -> Iterator[Image.Image]:
    size = None
    for path in paths:
        with Image.open(path) as image:
            if size is None:
                size = min(max_width, image.width), round(image.height * min(1, max_width / image.width))
            resized = image.convert("RGB").resize(size, Image.Resampling.BOX)
        yield resized.quantize()
