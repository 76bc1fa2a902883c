"""Small encoded images for tests of formats: each has one color, so that it can be recognized after decoding."""

import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gantrain.datasets.base import ImageDataset
from gantrain.errors import DataError

SIZE = 8


def png(value: int, *, width: int = SIZE, height: int = SIZE) -> bytes:
    """Encode an image whose red is `value`, green 255 - value and blue 7."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[...] = value, 255 - value, 7
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def values(dataset: ImageDataset) -> list[int]:
    """Return the red of each image, after checking that the image has only the color of png(red)."""
    dataset.prepare(num_workers=1)
    images = dataset.images
    for channel, expected in enumerate((images[:, 0, 0, 0], 255 - images[:, 0, 0, 0].int(), 7)):
        assert bool((images[:, channel].int() == (expected if channel == 2 else expected[:, None, None])).all())
    return images[:, 0, 0, 0].tolist()


def pictures(cache: object, **changes: Any) -> dict[str, Any]:
    """Return the options that all datasets of encoded images have."""
    return {"image_size": SIZE, "channels": 3, "cache_dir": str(cache), "max_bad_fraction": 0.0} | changes


def damaged(content: bytes, num: int, *, flips: int = 1) -> Iterator[bytes]:
    """Cut the content, or change bits of it, at random positions that are the same in every run."""
    draw = np.random.default_rng(0)
    for i in range(num):
        changed = bytearray(content)
        if i % 2:
            del changed[draw.integers(len(changed)) :]
        for at in draw.integers(0, len(content), 0 if i % 2 else flips):
            changed[at] ^= 1 << draw.integers(8)
        yield bytes(changed)


def refusals(load: Callable[[], object], path: Path, contents: Iterable[bytes]) -> list[str]:
    """Write each content to the file and load it; return the messages for those that are refused."""
    found = []
    for content in contents:
        path.write_bytes(content)
        try:
            load()
        except DataError as error:
            found.append(str(error))
    return found
