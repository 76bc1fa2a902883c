"""Write samples to a file or a folder, block after block, so that memory does not grow with their number."""

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from gantrain.datasets.batches import to_bytes
from gantrain.datasets.metadata import MADE_BY_GANTRAIN, SAMPLE_BY_GANTRAIN
from gantrain.errors import ConfigError
from gantrain.evaluation.grids import grid, save_png
from gantrain.evaluation.sampling import LabelFunction
from gantrain.files import atomic_folder, atomic_write, require_space

DISK_BLOCK = 4096
"""Usual unit of a file's size on the disk, in bytes."""

PNG_BYTES = 200
"""Bytes that a PNG has beside its pixels, at most, if those cannot be compressed at all."""


def is_folder(output: str) -> bool:
    """Return whether an output names a folder: it ends with a slash, has no dot, or is a folder."""
    path = Path(output)
    return output.endswith("/") or "." not in path.name or path.is_dir()


def write_grid(
    output: Path, blocks: Iterable[Float[Tensor, "n *shape"]], image_shape: tuple[int, ...], columns: int | None
) -> None:
    """Write images as the cells of one PNG.

    Raises:
        ConfigError: the samples are vectors.
    """
    require_images(output, image_shape)
    save_png(output, grid(torch.cat(list(blocks)), columns))


def require_images(output: Path, image_shape: tuple[int, ...]) -> None:
    """Check that samples can be drawn.

    Raises:
        ConfigError: they are vectors.
    """
    if len(image_shape) != 3:
        raise ConfigError(f"output={output}: vectors cannot be drawn; write an array with output={output.stem}.npz.")


def write_npz(
    output: Path,
    blocks: Iterable[Float[Tensor, "n *shape"]],
    image_shape: tuple[int, ...],
    num: int,
    *,
    array: str | None = None,
) -> None:
    """Write one array: images as uint8 [n, h, w, c], vectors as float32 [n, d].

    Args:
        array: its name; None: images or samples.
    """
    is_image = len(image_shape) == 3
    shape = (image_shape[1], image_shape[2], image_shape[0]) if is_image else image_shape
    dtype, name = (np.dtype(np.uint8), "images") if is_image else (np.dtype(np.float32), "samples")
    require_space(output, num * int(np.prod(shape)) * dtype.itemsize, f"output={output}")
    # An .npz is a zip archive of .npy files: write the header first, then block after block.
    with (
        atomic_write(output) as file,
        zipfile.ZipFile(file, "w") as archive,
        archive.open(f"{array or name}.npy", "w", force_zip64=True) as member,
    ):
        archive.comment = SAMPLE_BY_GANTRAIN.encode()  # below a folder of data, the file is left out
        header = {"shape": (num, *shape), "fortran_order": False, "descr": np.lib.format.dtype_to_descr(dtype)}
        np.lib.format.write_array_header_1_0(member, header)
        for block in blocks:
            rows: ndarray[Any, Any] = to_pixels(block) if is_image else block.numpy()
            member.write(rows.tobytes())


def write_folder(
    output: Path,
    blocks: Iterable[Float[Tensor, "n *shape"]],
    image_shape: tuple[int, ...],
    num: int,
    labels: LabelFunction | None,
) -> None:
    """Write a PNG for each image: 000000.png, 000001.png, ..., or with labels 000000_class3.png, ...

    Each has a mark: below a folder of images, the folder would be left out.

    Raises:
        ConfigError: the samples are vectors, or the disk is too small.
    """
    require_images(output, image_shape)
    blocks_each = -(-(int(np.prod(image_shape)) + PNG_BYTES) // DISK_BLOCK)
    require_space(output, num * blocks_each * DISK_BLOCK, f"output={output}/")
    digits, i, mark = max(6, len(str(num - 1))), 0, PngInfo()
    mark.add_text(MADE_BY_GANTRAIN[0], SAMPLE_BY_GANTRAIN)
    with atomic_folder(output) as folder:
        for block in blocks:
            classes = None if labels is None else labels(i, len(block)).tolist()
            for j, pixels in enumerate(to_pixels(block)):
                suffix = "" if classes is None else f"_class{classes[j]}"
                image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
                image.save(folder / f"{i + j:0{digits}d}{suffix}.png", compress_level=1, pnginfo=mark)
            i += len(block)


def to_pixels(images: Float[Tensor, "n c h w"]) -> UInt8[ndarray, "n h w c"]:
    """Convert floats in [-1, 1] to bytes 0 to 255, channels last."""
    pixels: ndarray[Any, Any] = to_bytes(images).permute(0, 2, 3, 1).numpy()
    return pixels
