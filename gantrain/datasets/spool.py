"""Encoded images, copied one after the other into a temporary file from which every worker can read each of them."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from jaxtyping import Int64
from numpy import ndarray

from gantrain.datasets.image_files import MAX_FILE_BYTES
from gantrain.datasets.images import BadImageError
from gantrain.files import writing


class Spool:
    """A temporary file of encoded images, for formats that can only be read from the start to the end.

    The file has no name, so nothing remains of it, also if the process is killed.

    Args:
        folder: of the temporary file.
        fill: writes the images to the file; called once per block of `opened`.
    """

    def __init__(self, folder: Path, fill: "Callable[[Spool], None]"):
        self.folder, self.fill = folder, fill
        self.ends: list[int] = []
        self.flaws: dict[int, str] = {}
        self.file: IO[bytes] | None = None

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Fill the file, and keep it while the block runs."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.ends, self.flaws = [0], {}
        with tempfile.TemporaryFile(dir=self.folder, prefix=".images-", suffix=".tmp") as self.file:
            self.fill(self)
            self.file.flush()
            try:
                yield
            finally:
                self.file = None

    def write(self, content: memoryview, sizes: Int64[ndarray, " n"]) -> None:
        """Append images with these sizes in bytes, of which the content is the concatenation."""
        assert self.file is not None
        with writing():
            self.file.write(content)
        self.ends += (self.ends[-1] + sizes.cumsum()).tolist()

    def read(self, i: int) -> bytes:
        """Return the i-th image; may be called from several threads and processes.

        Raises:
            BadImageError: it cannot be used.
        """
        assert self.file is not None, "the spool is not open"
        if i in self.flaws:
            raise BadImageError(self.flaws[i])
        num_bytes = self.ends[i + 1] - self.ends[i]
        if num_bytes > MAX_FILE_BYTES:
            raise BadImageError(f"takes {num_bytes:,} bytes, more than {MAX_FILE_BYTES:,}")
        return os.pread(self.file.fileno(), num_bytes, self.ends[i])
