"""What a user sees on a drive of WSL, a FUSE mount, NFS or Lustre that lacks chmod, fsync or locks."""

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gantrain import locks
from gantrain.errors import ConfigError
from gantrain.session import checkpoint

SMALL = (
    *("model=dcgan", "model.generator.width=1", "model.discriminator.width=1", "batch_size=4", "metric=[]"),
    *("log_every=1", "checkpoint.every=1", "++callback.samples.num=4"),
)

CODES = ("EPERM", "ENOSYS", "ENOTSUP", "EINVAL", "ENOLCK")

SHIM = """
#include <errno.h>
#include <stdlib.h>
#include <sys/types.h>
static int refuse(void) { errno = atoi(getenv("REFUSED_WITH")); return -1; }
int chmod(const char *path, mode_t mode) { return refuse(); }
int fchmod(int handle, mode_t mode) { return refuse(); }
int fchmodat(int folder, const char *path, mode_t mode, int flags) { return refuse(); }
int fsync(int handle) { return refuse(); }
int fdatasync(int handle) { return refuse(); }
int flock(int handle, int operation) { return refuse(); }
"""

OPERATIONS = """
import os, sys
from pathlib import Path
from gantrain.files import atomic_folder, atomic_write, sync
from gantrain.locks import exclusive

try:
    os.chmod(".", 0o700)
    sys.exit("the shim has no effect")
except OSError as error:
    assert error.errno == int(os.environ["REFUSED_WITH"])
with atomic_write(Path("file")) as file:
    file.write(b"content")
sync(Path("file"))
with atomic_folder(Path("folder")) as folder:
    (folder / "inside").touch()
assert Path("file").read_bytes() == b"content" and Path("folder/inside").exists()
for _ in range(2):
    with exclusive(Path("folder")):
        pass
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that refuses chmod, fsync and flock."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("there is no C compiler")
    folder = tmp_path_factory.mktemp("shim")
    (folder / "shim.c").write_text(SHIM)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "shim.so", folder / "shim.c"], check=True)
    return folder / "shim.so"


@pytest.fixture
def refuse(shim: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let processes that are started from now on have chmod, fsync and flock refused with an error code."""

    def start(code: str) -> None:
        monkeypatch.setenv("LD_PRELOAD", str(shim))
        monkeypatch.setenv("REFUSED_WITH", str(getattr(errno, code)))

    return start


@pytest.mark.parametrize("code", CODES)
def test_files_are_written_without_what_the_drive_does_not_offer(refuse, tmp_path: Path, code: str) -> None:
    refuse(code)
    done = subprocess.run(
        [sys.executable, "-c", OPERATIONS], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("offers no locks") == 1  # said once


def test_a_run_on_such_a_drive_trains_and_says_once_that_there_is_no_lock(refuse, command, tmp_path: Path) -> None:
    refuse("EPERM")
    first = command(*SMALL, "steps=1", "run_dir=out")
    assert first.status == 0, first.stderr
    assert first.stderr.count("The file system of out offers no locks") == 1
    assert "cannot be written" not in first.stderr
    assert checkpoint.read(checkpoint.paths(tmp_path / "out")[-1])["step"] == 1


def test_a_lock_that_another_machine_left_is_named_with_its_owner_and_age(
    gantrain, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    locks.warn_of_no_locks.cache_clear()
    monkeypatch.setattr(locks.fcntl, "flock", refuse_with(errno.ENOLCK))
    leave_lock(tmp_path / "out", host="node7", process=4242, hours_ago=3)
    result = gantrain(*SMALL, "steps=1", "run_dir=out")
    assert result.status == 0, result.stderr
    assert "out was locked by process 4242 on node7, which started 3 h 0 min ago, and not released" in result.stderr
    assert (tmp_path / "out/.hydra/lock").read_bytes() == b""  # released


def test_a_run_that_another_machine_is_training_is_named_with_its_owner_and_age(
    gantrain, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(locks.fcntl, "flock", refuse_with(errno.EAGAIN))
    leave_lock(tmp_path / "out", host="node7", process=4242, hours_ago=3)
    result = gantrain(*SMALL, "steps=1", "run_dir=out")
    assert result.status == 2
    assert "another process is training there (process 4242 on node7, which started 3 h 0 min ago)" in result.stderr
    assert "If node7 is no longer running, delete out/.hydra/lock" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_without_locks_a_process_of_this_machine_that_still_trains_is_respected(
    gantrain, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(locks.fcntl, "flock", refuse_with(errno.ENOSYS))
    with subprocess.Popen(["sleep", "60"]) as process:
        leave_lock(tmp_path / "out", host=socket.gethostname(), process=process.pid, hours_ago=0)
        result = gantrain(*SMALL, "steps=1", "run_dir=out")
        process.kill()
    assert result.status == 2
    assert f"out is in use: another process is training there (process {process.pid} on " in result.stderr
    assert gantrain(*SMALL, "steps=1", "run_dir=out").status == 0  # it has ended


def test_a_disk_that_reports_no_size_is_not_a_full_one(gantrain, monkeypatch: pytest.MonkeyPatch) -> None:
    """As object stores do that are mounted as a disk."""
    monkeypatch.setattr("gantrain.files.shutil.disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 0))
    result = gantrain(*SMALL, "steps=1", "run_dir=out")
    assert result.status == 0, result.stderr


def refuse_with(code: int) -> Callable[..., None]:
    def refused(*_: object) -> None:
        raise OSError(code, os.strerror(code))  # Python picks the class BlockingIOError for EAGAIN

    return refused


@pytest.mark.parametrize("born", [None, 1])
def test_a_lock_of_a_process_that_died_and_whose_number_another_one_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, born: int | None
) -> None:
    """The message names the file to delete; where the lock says when its process began, the run just goes on."""
    monkeypatch.setattr(locks.fcntl, "flock", refuse_with(errno.ENOSYS))
    with subprocess.Popen(["sleep", "60"]) as process:
        leave_lock(tmp_path, host=socket.gethostname(), process=process.pid, hours_ago=0, born=born)
        if born is None:  # written by an earlier version, or on a system without /proc
            with pytest.raises(ConfigError, match=rf"the number of one that has died, delete {tmp_path}/.hydra/lock"):
                locks.exclusive(tmp_path).__enter__()
        else:
            with locks.exclusive(tmp_path):
                owner = locks.read_owner(tmp_path / ".hydra/lock")
            assert owner is not None
            assert owner.process == os.getpid()
        process.kill()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_the_birth_of_a_process_is_that_of_the_system() -> None:
    with subprocess.Popen(["sleep", "9"]) as process:
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        assert locks.birth_of(process.pid) == pytest.approx(uptime * os.sysconf("SC_CLK_TCK"), abs=500)
        assert locks.Owner(socket.gethostname(), process.pid, 0, locks.birth_of(process.pid)).lives_here
        process.kill()
    assert locks.birth_of(process.pid) is None


def leave_lock(run: Path, *, host: str, process: int, hours_ago: float, born: int | None = None) -> None:
    (run / ".hydra").mkdir(parents=True)
    started = locks.time.time() - 3600 * hours_ago
    owner = {"host": host, "process": process, "started": started} | ({} if born is None else {"born": born})
    (run / ".hydra/lock").write_text(json.dumps(owner))
