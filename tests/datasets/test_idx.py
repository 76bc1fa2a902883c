import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from gantrain.datasets.idx import parse_idx, read_idx
from gantrain.errors import DataError


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


PIXELS = np.arange(2 * 3 * 4).reshape(2, 3, 4)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_reads_plain_and_gzipped(tmp_path: Path, pack):
    (tmp_path / "a").write_bytes(pack(idx(PIXELS)))
    found = read_idx(tmp_path / "a")
    np.testing.assert_array_equal(found, PIXELS)
    assert found.dtype == np.uint8
    assert found.flags.writeable


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "only 0 bytes"),
        (b"\x00\x00\x0d\x01" + bytes(8), "magic number is 00000d01"),
        (b"\x00\x00\x08\x00", "magic number"),
        (b"\x00\x00\x08\x03\x00\x00", "ends within its header"),
        (idx(PIXELS)[:-1], "2x3x4 bytes and the header are 40, not 39"),
        (idx(PIXELS) + b"x", "are 40, not 41"),
        (gzip.compress(idx(PIXELS), mtime=0)[:-9], "gzip stream"),
        (b"<html>404</html>", "magic number"),
    ],
    ids=range(8),
)
def test_broken_files_are_named(content: bytes, message: str):
    with pytest.raises(DataError, match=message) as error:
        parse_idx(content, "data/some-file")
    assert "data/some-file" in str(error.value)


def test_missing_file_is_named(tmp_path: Path):
    with pytest.raises(DataError, match="nothing cannot be read: No such file"):
        read_idx(tmp_path / "nothing")
