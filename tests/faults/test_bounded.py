"""Memory and the number of open files do not grow during a run."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import SMALL
from runs import csv_rows

FULL = os.environ.get("GANTRAIN_FULL") == "1"
PAGE = resource.getpagesize()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        pytest.param(("experiment=gaussian", "n_critic=1"), 20_000 if FULL else 2000, id="gaussian"),
        pytest.param((*SMALL, "dataset=digits"), 3000 if FULL else 300, id="digits"),
    ],
)
def test_memory_and_open_files_do_not_grow(tmp_path: Path, arguments: tuple[str, ...], steps: int) -> None:
    intervals = [f"{key}={steps // 40}" for key in ("sample_every", "evaluate_every", "checkpoint.every")]
    process = subprocess.Popen(
        [sys.executable, "-m", "gantrain", *arguments, *intervals, "log_every=10", f"steps={steps}", "run_dir=out"],
        cwd=tmp_path, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    table, proc = tmp_path / "out/metrics.csv", Path(f"/proc/{process.pid}")
    measured: list[tuple[int, int, int]] = []
    while process.poll() is None:
        step = (
            int(csv_rows(tmp_path / "out")[-1]["step"]) if table.exists() and table.read_bytes().count(b"\n") > 1 else 0
        )
        try:
            resident = int((proc / "statm").read_text().split()[1]) * PAGE
            measured.append((step, resident, len(list((proc / "fd").iterdir()))))
        except (OSError, IndexError):  # the process is ending
            break
        time.sleep(0.1 if steps < 5000 else 0.5)
    assert process.wait() == 0

    # Skip the warm-up of a quarter of the steps, and the plots that are made at the end.
    steady = [m for m in measured if steps / 4 <= m[0] < 0.99 * steps]
    memory, files = [m[1] for m in steady], [m[2] for m in steady]
    third = len(steady) // 3
    early, late = max(memory[:third]), max(memory[-third:])
    print(f"{steps} steps: {early / 1e6:.1f} MB, {late / 1e6:.1f} MB ({late / early - 1:+.2%}); {max(files)} files")
    assert third >= 5
    assert late <= 1.02 * early
    assert max(files[-third:]) <= max(files[:third]) + 1  # one more while a file is being written
