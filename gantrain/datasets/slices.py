"""Encoded images that lie one after the other in larger files, each at its own offset."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gantrain.datasets.image_files import MAX_FILE_BYTES
from gantrain.datasets.images import BadImageError
from gantrain.datasets.untrusted import read_slice


@dataclass(frozen=True)
class Slices:
    """Where each image lies.

    Attributes:
        paths: the files.
        places: for each image the index of its file, its offset and its number of bytes.
    """

    paths: Sequence[Path]
    places: list[tuple[int, int, int]] = field(default_factory=list)

    def read(self, i: int) -> bytes:
        """Return the i-th image; may be called from several threads and processes.

        Raises:
            BadImageError: it cannot be read.
        """
        which, offset, num_bytes = self.places[i]
        if num_bytes > MAX_FILE_BYTES:
            raise BadImageError(f"takes {num_bytes:,} bytes, more than {MAX_FILE_BYTES:,}")
        try:
            return read_slice(os.fspath(self.paths[which]), offset, num_bytes)
        except OSError as error:
            raise BadImageError(f"cannot be read ({error.strerror})") from error
