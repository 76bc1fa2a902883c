"""Memory-mapped images whose batches are read from the file."""

import math
import os
import warnings
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from typing_extensions import override

from gantrain.datasets.base import ImageDataset
from gantrain.errors import GantrainError


class MappedImages(ImageDataset):
    """Images in a file: memory-mapped as `images`, but read with pread by `gather`.

    Pages read through the map count as memory of this process, and the first access to a small image brings up to
    1.3 MB of the file into memory. pread avoids both and takes half the time.
    """

    def __init__(self, path: Path, images: np.memmap[Any, Any], **attributes: Any):
        super().__init__(images=_as_tensor(images), **attributes)
        self._path, self._offset, self._num_bytes = path, images.offset, math.prod(self.image_shape)
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    @override
    def gather(self, indices: Int64[torch.Tensor, " k"]) -> UInt8[torch.Tensor, "k c h w"]:
        images = np.empty((len(indices), self._num_bytes), np.uint8)
        for row, i in zip(images, indices.tolist(), strict=True):
            row[...] = np.frombuffer(self._read(i), np.uint8)
        return torch.from_numpy(images).view(-1, *self.image_shape)

    def _read(self, i: int) -> bytes:
        if not 0 <= i < self.num_images:
            raise IndexError(f"image {i} of {self.num_images}")
        try:
            content, reason = os.pread(self._file, self._num_bytes, self._offset + i * self._num_bytes), ""
        except OSError as error:
            content, reason = b"", error.strerror or ""
        if len(content) != self._num_bytes:
            raise GantrainError(f"The cache {self._path} can no longer be read ({reason or 'it is too short now'}).")
        return content


def _as_tensor(images: UInt8[np.ndarray, "n c h w"]) -> UInt8[torch.Tensor, "n c h w"]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(images)
