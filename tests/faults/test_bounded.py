"""Memory and the number of open files do not grow during a run."""

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import SMALL, Process, server, start, work
from runs import csv_rows

__all__ = ["server", "start", "work"]

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
def test_memory_and_open_files_do_not_grow(
    start: Callable[..., Process], work: Path, arguments: tuple[str, ...], steps: int
) -> None:
    intervals = [f"{key}={steps // 40}" for key in ("sample_every", "evaluate_every", "checkpoint.every")]
    process = start(*arguments, *intervals, "log_every=10", f"steps={steps}", "run_dir=out")
    table, proc = work / "out/metrics.csv", Path(f"/proc/{process.pid}")
    measured: list[tuple[int, int, int]] = []
    while not process.server.ended(process.pid):
        has_rows = table.exists() and table.read_bytes().count(b"\n") > 1
        step = int(csv_rows(work / "out")[-1]["step"]) if has_rows else 0
        try:
            resident = int((proc / "statm").read_text().split()[1]) * PAGE
            measured.append((step, resident, len(list((proc / "fd").iterdir()))))
        except (OSError, IndexError):  # the process is ending
            break
        time.sleep(0.02 if steps < 5000 else 0.5)  # a short run takes only some seconds
    assert process.wait(3600).status == 0, process.stderr

    # Skip the warm-up of a quarter of the steps, and the plots that are made at the end.
    steady = [m for m in measured if steps / 4 <= m[0] < 0.99 * steps]
    memory, files = [m[1] for m in steady], [m[2] for m in steady]
    third = len(steady) // 3
    early, late = max(memory[:third]), max(memory[-third:])
    print(f"{steps} steps: {early / 1e6:.1f} MB, {late / 1e6:.1f} MB ({late / early - 1:+.2%}); {max(files)} files")
    assert third >= 5
    assert late <= 1.02 * early
    assert max(files[-third:]) <= max(files[:third]) + 1  # one more while a file is being written
