import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from gantrain.errors import ConfigError
from gantrain.files import atomic_write, format_bytes, free_bytes, require_space

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10_000, 9_000, 1_000))


def test_atomic_write_leaves_only_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    with atomic_write(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, SystemExit])
def test_failed_atomic_write_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def fail() -> None:
        with atomic_write(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_old_file_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_data_is_synced_before_the_file_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, events = tmp_path / "file.bin", []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (events.append("fsync"), fsync(handle)))
    monkeypatch.setattr(Path, "replace", lambda self, target: (events.append("replace"), replace(self, target)))
    with atomic_write(path) as file:
        file.write(b"new")
    assert events == ["fsync", "replace", "fsync"]  # first the data, then the name in the folder


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_a_plain_open(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with atomic_write(tmp_path / "atomic") as file:
            file.write(b"")
        (tmp_path / "plain").touch()
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_missing_folder_is_an_error_and_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "missing" / "file"):
        pass
    assert not (tmp_path / "missing").exists()


def test_free_bytes_of_a_missing_path_are_those_of_its_disk(tmp_path: Path) -> None:
    free = free_bytes(tmp_path / "not" / "yet" / "there")
    assert abs(free - shutil.disk_usage(tmp_path).free) < 1e9
    assert not (tmp_path / "not").exists()


def test_free_bytes_of_a_relative_path_are_those_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: (paths.append(path), Usage(3, 2, 1))[1])
    monkeypatch.chdir(tmp_path)
    assert free_bytes(Path("outputs/run")) == 1
    assert paths == [tmp_path]


@pytest.mark.usefixtures("disk")
def test_enough_space_passes(tmp_path: Path) -> None:
    require_space(tmp_path, 1_000, "checkpoints")


@pytest.mark.usefixtures("disk")
def test_too_little_space_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"checkpoints needs 1.5 kB, but {tmp_path} has only 1 kB free; free some"):
        require_space(tmp_path, 1_500, "checkpoints")


@pytest.mark.parametrize(
    ("num_bytes", "expected"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1234, "1.23 kB"),
        (999_499, "999 kB"),
        (999_700, "1 MB"),
        (1_000_000, "1 MB"),
        (43_500_000, "43.5 MB"),
        (5_060_000_000, "5.06 GB"),
        (999_600_000_000, "1 TB"),
        (12_000_000_000_000, "12 TB"),
    ],
)
def test_sizes_are_formatted_with_three_digits(num_bytes: int, expected: str) -> None:
    assert format_bytes(num_bytes) == expected
