"""On a full disk or a missing folder, the run ends with one line and exit status 1, and existing files stay intact."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from processes import COMMAND, Process, Result, on_call
from runs import csv_rows, differences, run_json

from gantrain.session import checkpoint

# Limit the size of files to 50 bytes: the kernel then refuses writes as it does on a full disk.
FULL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50, resource.RLIM_INFINITY))"
KINDS = {
    "config": ("gantrain.tasks.train:save_config", 1),
    "run.json": ("gantrain.session.record:Record.write", 1),
    "run.json at the end": ("gantrain.session.record:Record.write", 2),
    "event file": ("gantrain.callbacks.tensorboard:EventFile.flush", 3),
    "metrics.csv": ("gantrain.callbacks.csv:append", 3),
    "header of metrics.csv": ("gantrain.callbacks.csv:MetricsCSV.rewrite", 2),
    "grid": ("gantrain.evaluation.grids:save_png", 3),
    "checkpoint": ("gantrain.session.checkpoint:write", 3),
    "half a checkpoint": ("gantrain.session.checkpoint:_HashingFile.write", 150),
    "animation": ("gantrain.evaluation.grids:animation", 1),
    "curves": ("gantrain.evaluation.curves:curves", 1),
}


@pytest.fixture
def gantrain_with_piped_stderr(start: Callable[..., Process], work: Path) -> Iterator[Callable[..., Result]]:
    """Run the command with stderr in a pipe, to which the limit on file sizes does not apply."""
    pipe = work / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)

    def run(*arguments: str, before: str) -> Result:
        process = start(*arguments, before=before, log=pipe)
        process.log = work / "none"
        status = process.wait().status
        return Result(status, os.read(reader, 1 << 16).decode())

    yield run
    os.close(reader)


def check_files_readable(run: Path) -> None:
    """Check that every file of the run can be read, and that no temporary files are left."""
    assert not list(run.rglob("*.tmp"))
    for path in checkpoint.paths(run):
        assert checkpoint.read(path)["step"] == checkpoint.step_of(path)
    for path in [*run.rglob("*.png"), *run.rglob("*.gif")]:
        Image.open(path).load()
    if (run / "metrics.csv").exists():
        assert all(None not in row.values() for row in csv_rows(run))
    if (run / "run.json").exists():
        assert run_json(run)["steps"] >= 0


@pytest.mark.parametrize("kind", KINDS)
def test_full_disk_while_writing_each_kind_of_file(
    gantrain_with_piped_stderr: Callable[..., Result],
    gantrain: Callable[..., Result],
    reference_run: Callable[..., Path],
    work: Path,
    kind: str,
) -> None:
    function, call = KINDS[kind]
    done = gantrain_with_piped_stderr(*COMMAND, "run_dir=out", before=on_call(function, FULL, call=call))
    assert done.status == 1, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("gantrain: ")]
    assert "The disk is full" in line
    check_files_readable(work / "out")
    again = gantrain(*COMMAND, "run_dir=out")
    assert again.status == 0, again.stderr
    assert differences(reference_run(*COMMAND), work / "out") == []


@pytest.fixture
def small_disk(work: Path, start: object) -> Iterator[Path]:
    """A tmpfs of 60 MB."""
    folder = work / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=60m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_disk_that_fills_up_ends_the_run_with_one_line(
    gantrain: Callable[..., Result], reference_run: Callable[..., Path], small_disk: Path
) -> None:
    fill = "import subprocess; subprocess.run('cat /dev/zero > disk/filler', shell=True, stderr=-3)"
    each_step = "gantrain.callbacks.log:Log.__call__"
    done = gantrain(*COMMAND, "run_dir=disk/out", before=on_call(each_step, fill, call=8))
    assert done.status == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "gantrain: The disk is full" in done.stderr
    check_files_readable(small_disk / "out")
    refused = gantrain(*COMMAND, "run_dir=disk/out")
    assert refused.status in (1, 2)
    assert "Traceback" not in refused.stderr
    check_files_readable(small_disk / "out")
    (small_disk / "filler").unlink()
    assert gantrain(*COMMAND, "run_dir=disk/out").status == 0
    assert differences(reference_run(*COMMAND), small_disk / "out") == []


@pytest.mark.parametrize("name", ["", "samples", "checkpoints", "tensorboard", "metrics.csv", ".hydra"])
def test_vanished_folder_or_file_is_named_in_one_line(gantrain: Callable[..., Result], work: Path, name: str) -> None:
    gone = work / "out" / name
    # Again until it is gone: the thread that writes checkpoints may add or rename a file in between.
    vanish = f"[shutil.rmtree({str(gone)!r}, ignore_errors=True) for _ in range(100) if os.path.exists({str(gone)!r})]"
    if name == "metrics.csv":
        vanish = f"os.unlink({str(gone)!r})"
    done = gantrain(*COMMAND, "run_dir=out", before=on_call("gantrain.callbacks.log:Log.__call__", vanish, call=4))
    assert "Traceback" not in done.stderr
    if name == ".hydra":  # nothing is written there after the start
        assert done.status == 0
        return
    assert done.status == 1, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("gantrain: ")]
    assert str(gone.relative_to(work)) in line
    if name:
        assert run_json(work / "out")["status"] == "failed"
    else:
        assert "has vanished" in line
