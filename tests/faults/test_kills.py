"""SIGKILL at any moment loses only the steps since the last checkpoint."""

import os
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import COMMAND, SMALL, Process, Result, on_call
from runs import differences, run_json

KILLS = int(os.environ.get("GANTRAIN_KILLS", "6"))
LONG = (
    *SMALL,
    "log_every=5",
    "sample_every=100",
    "ema_halflife_images=20",
    "callback.samples.num=16",
    f"steps={50 * KILLS}",
)

KILL_POINTS = {
    "gantrain.tasks.train:save_config": 1,
    "gantrain.files:_sync_folder": 2,
    "gantrain.callbacks.base:Callbacks.start": 1,
    "gantrain.callbacks.tensorboard:EventFile.flush": 2,
    "gantrain.callbacks.samples:Samples.begin": 1,
    "gantrain.session.checkpoint:_HashingFile.write": 9,
    "gantrain.session.checkpoint:paths": 2,
    "gantrain.callbacks.csv:append": 2,
    "gantrain.callbacks.tensorboard:TensorBoard.rewrite": 1,
    "gantrain.callbacks.csv:MetricsCSV.rewrite": 1,
    "gantrain.callbacks.checkpoint:Checkpoint.wait": 2,
    "gantrain.callbacks.tensorboard:append": 3,
    "gantrain.evaluation.grids:save_png": 1,
    "gantrain.callbacks.base:Callbacks.finish": 1,
    "gantrain.callbacks.samples:Samples.finish": 1,
    "gantrain.evaluation.curves:curves": 1,
    "gantrain.session.resuming:remove_temporaries": 1,
    "gantrain.callbacks.tensorboard:TensorBoard.finish": 1,
    "gantrain.tasks.train:closing": 1,
}
"""Functions in which a run is killed, one after the other, and at which call in its process."""


def test_run_killed_at_every_stage_equals_uninterrupted_run(
    start: Callable[..., Process], gantrain: Callable[..., Result], reference_run: Callable[..., Path], work: Path
) -> None:
    for function, call in KILL_POINTS.items():
        killed = gantrain(*COMMAND, "run_dir=out", before=on_call(function, "os.kill(os.getpid(), 9)", call=call))
        assert killed.status == -9, f"{function}: {killed}"
        assert "Traceback" not in killed.stderr
    assert gantrain(*COMMAND, "run_dir=out").status == 0
    assert run_json(work / "out")["status"] == "finished"
    assert differences(reference_run(*COMMAND), work / "out") == []


def is_writing(folder: Path, after: int) -> Callable[[], bool]:
    """Return a condition: a checkpoint is being written, after at least `after` others."""
    seen: set[str] = set()

    def look() -> bool:
        if folder.is_dir():
            now = {path.name for path in folder.glob(".step_*.tmp")}
            seen.update(now)
            return bool(now) and len(seen) > after
        return False

    return look


def phase(run: Path, num_rows: int) -> str:
    """Return what the run was doing when it was killed, as its folder shows."""
    temporaries = [path.name for path in run.rglob(".*.tmp")]
    if temporaries:
        return "writing a checkpoint" if temporaries[0].startswith(".step_") else "writing another file"
    return "steps" if num_lines(run) > num_rows else "start-up"


def num_lines(run: Path) -> int:
    path = run / "metrics.csv"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_run_killed_at_random_moments_equals_uninterrupted_run(
    start: Callable[..., Process], reference_run: Callable[..., Path], work: Path
) -> None:
    straight, run, draw, phases = reference_run(*LONG), work / "out", random.Random(0), Counter[str]()
    while phases.total() < KILLS:
        process, before = start(*LONG, "checkpoint.every=3", "run_dir=out"), num_lines(run)
        moment = draw.random()
        if moment < 0.4:
            process.until(is_writing(run / "checkpoints", after=draw.randrange(3)))
            time.sleep(draw.choice([0, 0, 0.0005, 0.001, 0.002]))
        elif moment < 0.8:
            process.until(lambda before=before: num_lines(run) > before)
            time.sleep(draw.uniform(0, 0.3))
        else:
            time.sleep(draw.uniform(0, 1.0))
        process.send(9)
        killed = process.wait()
        assert killed.status == -9, killed.stderr  # it has not finished yet
        assert "Traceback" not in killed.stderr
        phases[phase(run, before)] += 1
    done = start(*LONG, "run_dir=out").wait(600)
    assert done.status == 0, done.stderr
    assert run_json(run)["status"] == "finished"
    assert differences(straight, run) == []
    print(f"{KILLS} kills: {dict(phases)}")
