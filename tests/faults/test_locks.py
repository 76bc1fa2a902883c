"""Two processes never write to the same run folder, and a lock is released when its process dies."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

from processes import COMMAND, Process, Result, on_call
from runs import csv_rows, differences, file_bytes

SLOW = on_call("gantrain.callbacks.log:Log.__call__", "while not os.path.exists('go'): time.sleep(0.01)", call=2)


def test_second_process_is_refused_without_disturbing_the_first(
    start: Callable[..., Process], gantrain: Callable[..., Result], reference_run: Callable[..., Path], work: Path
) -> None:
    first = start(*COMMAND, "run_dir=out", before=SLOW)
    assert first.until((work / "out/run.json").exists)
    assert first.until(lambda: (work / "out/metrics.csv").exists() and len(csv_rows(work / "out")) == 1)
    before = file_bytes(work / "out")
    for command in ((*COMMAND, "run_dir=out"), ("resume=out", "steps=99", "seed=4")):
        refused = gantrain(*command)
        assert (refused.status, refused.stderr.count("\n")) == (2, 1), refused.stderr
        assert "out is in use: another process is training there" in refused.stderr
    assert not first.server.ended(first.pid)
    assert file_bytes(work / "out").items() >= before.items()
    (work / "go").touch()
    assert first.wait().status == 0
    assert differences(reference_run(*COMMAND), work / "out") == []


def test_lock_is_released_when_its_process_dies(
    start: Callable[..., Process], gantrain: Callable[..., Result], reference_run: Callable[..., Path], work: Path
) -> None:
    first = start(*COMMAND, "run_dir=out", before=SLOW)
    assert first.until((work / "out/run.json").exists)
    first.send(signal.SIGKILL)
    assert first.wait().status == -9
    assert (work / "out/.hydra/lock").exists()
    (work / "go").touch()
    assert gantrain(*COMMAND, "run_dir=out").status == 0
    assert differences(reference_run(*COMMAND), work / "out") == []


def test_one_of_three_concurrent_processes_trains(
    start: Callable[..., Process], reference_run: Callable[..., Path], work: Path
) -> None:
    for name in "ab":
        together = [start(*COMMAND, f"run_dir={name}", before=SLOW) for _ in range(3)]
        while sum(process.server.ended(process.pid) for process in together) < 2:
            time.sleep(0.01)
        (work / "go").touch()
        results = [process.wait() for process in together]
        (work / "go").unlink()
        assert sorted(result.status for result in results) == [0, 2, 2], results
        for result in results:
            assert "Traceback" not in result.stderr
            assert result.status == 0 or "is in use" in result.stderr
        assert differences(reference_run(*COMMAND), work / name) == []
