import gzip
import os
import resource
import struct
from io import BytesIO
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
        (idx(PIXELS)[:-1], "it ends after 23 of 2x3x4 bytes"),
        (idx(PIXELS) + b"x", "more than 2x3x4 bytes follow its header"),
        (gzip.compress(idx(PIXELS) + b"x"), "more than 2x3x4 bytes follow its header"),
        (gzip.compress(idx(PIXELS)) + b"x", "gzip stream"),
        (idx(PIXELS[:0]), "declares 0x3x4 bytes; expected 1 to 2,147,483,648"),
        (b"\x00\x00\x08\x03" + b"\xff" * 12 + bytes(100), "declares 4294967295x4294967295x4294967295 bytes"),
        (b"\x00\x00\x08\xff" + bytes(2000), r"expected 000008 and the number of dimensions \(1 to 8\)"),
        (gzip.compress(idx(PIXELS), mtime=0)[:-9], "gzip stream"),
        (b"<html>404</html>", "magic number"),
    ],
    ids=range(13),
)
def test_broken_files_are_named(content: bytes, message: str):
    with pytest.raises(DataError, match=message) as error:
        parse_idx(BytesIO(content), "data/some-file")
    assert "data/some-file" in str(error.value)


def test_missing_file_is_named(tmp_path: Path):
    with pytest.raises(DataError, match="nothing cannot be read: No such file"):
        read_idx(tmp_path / "nothing")


def test_a_gzip_bomb_is_not_decompressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "bomb").write_bytes(gzip.compress(idx(PIXELS) + bytes(10**8)))
    decompressed = 0

    class Counted(gzip.GzipFile):
        def read(self, size: int | None = -1) -> bytes:
            nonlocal decompressed
            decompressed += len(content := super().read(size))
            return content

    monkeypatch.setattr(gzip, "GzipFile", Counted)
    with pytest.raises(DataError, match="bomb is not an IDX file of unsigned bytes: more than 2x3x4 bytes follow"):
        read_idx(tmp_path / "bomb")
    assert decompressed == len(idx(PIXELS)) + 1


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_false_size_in_the_header_takes_no_memory(tmp_path: Path, pack):
    (tmp_path / "a").write_bytes(pack(struct.pack(">HBB3I", 0, 8, 3, 2**11, 2**10, 2**10) + bytes(100)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match="it ends after 100 of 2048x1024x1024 bytes"):
        read_idx(tmp_path / "a")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_large_files_are_not_read(tmp_path: Path):
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(2**31 + 1)
    with pytest.raises(
        DataError, match=r"holes cannot be read: it takes 2,147,483,649 bytes, more than 2,147,483,648\."
    ):
        read_idx(tmp_path / "holes")


def test_a_pipe_does_not_block(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe cannot be read: it is not a regular file"):
        read_idx(tmp_path / "pipe")
