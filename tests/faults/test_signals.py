"""A signal in any phase ends a run without a traceback, with its exit status and a correct run.json, and it resumes."""

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import COMMAND, SMALL, Process, Result, on_call
from runs import differences, run_json

BEFORE_STEP_1 = {
    "composing": "gantrain.command.cli:run_job",
    "building": "gantrain.assemble:build_state",
    "decoding": "gantrain.datasets.base:ImageDataset.prepare",
}
WHILE_TRAINING = {
    "start": "gantrain.callbacks.samples:Samples.start",
    "step": "gantrain.game:Game.draw",
    "checkpoint": "gantrain.session.checkpoint:_HashingFile.write",  # in the thread
    "grid": "gantrain.evaluation.grids:save_png",
}
AFTER_LAST_STEP = {"animation": "gantrain.evaluation.grids:animation", "curves": "gantrain.evaluation.curves:curves"}


def send(signum: signal.Signals, times: int = 1) -> str:
    # Two signals that arrive before the main thread handles the first are delivered as one.
    pause = 0.01 if times == 1 else 0.3
    return f"[os.kill(os.getpid(), {int(signum)}) or time.sleep({pause}) for _ in range({times})]"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("phase", BEFORE_STEP_1)
def test_signal_before_step_1_leaves_no_run_folder(
    gantrain: Callable[..., Result], work: Path, phase: str, signum: signal.Signals
) -> None:
    done = gantrain(*COMMAND, "run_dir=out", before=on_call(BEFORE_STEP_1[phase], send(signum)))
    assert done.status == 128 + signum
    assert "Traceback" not in done.stderr
    assert not (work / "out").exists()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signal_during_decoding_removes_the_incomplete_cache(
    gantrain: Callable[..., Result], work: Path, signum: signal.Signals
) -> None:
    draw = np.random.default_rng(0)
    (work / "photos").mkdir()
    for i in range(40):
        Image.fromarray(draw.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(work / f"photos/{i}.png")
    command = (*SMALL, "dataset=image_folder", "dataset.root=photos", "dataset.image_size=16", "steps=1", "run_dir=out")
    before = on_call("gantrain.datasets.decoding:_results", send(signum))
    done = gantrain(*command, "runtime.num_workers=2", before=before)
    assert done.status == 128 + signum, done.stderr
    assert "Traceback" not in done.stderr
    assert re.search(r"Stopped while decoding into .*npy; the incomplete cache was removed", done.stderr)
    assert not list((work / "data").rglob("*.npy"))
    assert gantrain(*command).status == 0


@pytest.mark.parametrize(
    ("phase", "signum"),
    [
        *zip(WHILE_TRAINING, [signal.SIGINT, signal.SIGTERM] * 2, strict=True),
        ("step", signal.SIGINT),
        ("step", signal.SIGHUP),
    ],
)
def test_signal_saves_a_checkpoint_and_the_run_resumes(
    gantrain: Callable[..., Result],
    reference_run: Callable[..., Path],
    work: Path,
    phase: str,
    signum: signal.Signals,
) -> None:
    run = work / "out"
    done = gantrain(
        *COMMAND, "run_dir=out", before=on_call(WHILE_TRAINING[phase], send(signum), call=3 if phase != "start" else 1)
    )
    assert done.status == 128 + signum, done.stderr
    assert "Traceback" not in done.stderr
    assert f"Stopped by {signum.name} after step" in done.stderr
    assert "Resume with: gantrain resume=out" in done.stderr
    found = run_json(run)
    assert (found["status"], found["error"]) == ("stopped", None)
    assert found["steps"] < 12
    assert f"checkpoints/step_{found['steps']:08d}.pt" in {str(path.relative_to(run)) for path in run.rglob("*.pt")}
    again = gantrain("resume=out")
    assert again.status == 0, again.stderr
    assert differences(reference_run(*COMMAND), run) == []


@pytest.mark.parametrize(
    ("phase", "signum"), [*zip([*WHILE_TRAINING, *AFTER_LAST_STEP], [signal.SIGINT, signal.SIGTERM] * 3, strict=True)]
)
def test_second_signal_ends_the_process_at_once(
    gantrain: Callable[..., Result],
    reference_run: Callable[..., Path],
    work: Path,
    phase: str,
    signum: signal.Signals,
) -> None:
    call = 1 if phase in ("start", *AFTER_LAST_STEP) else 4
    done = gantrain(
        *COMMAND, "run_dir=out", before=on_call((WHILE_TRAINING | AFTER_LAST_STEP)[phase], send(signum, 2), call=call)
    )
    assert done.status == 128 + signum, done.stderr
    assert "Traceback" not in done.stderr
    assert "Stopped at once" in done.stderr
    assert run_json(work / "out")["status"] == "stopped"
    again = gantrain(*COMMAND, "run_dir=out")
    assert again.status == 0, again.stderr
    assert differences(reference_run(*COMMAND), work / "out") == []


def test_run_that_ends_while_the_second_checkpoint_waits_for_the_first_starts_over(
    gantrain: Callable[..., Result], reference_run: Callable[..., Path], work: Path
) -> None:
    """A checkpoint is due at steps 3 and 6; the disk is slow, and two signals arrive in step 6."""
    slow_disk = on_call("gantrain.session.checkpoint:write", "time.sleep(60)")
    signals = on_call("gantrain.callbacks.checkpoint:Checkpoint.wait", send(signal.SIGTERM, 2), call=2)
    done = gantrain(*COMMAND, "run_dir=out", before=slow_disk + signals)
    assert done.status == 143, done.stderr
    assert run_json(work / "out")["steps"] == 6
    assert not list((work / "out/checkpoints").glob("step_*.pt"))
    again = gantrain(*COMMAND, "run_dir=out")
    assert again.status == 0, again.stderr
    assert differences(reference_run(*COMMAND), work / "out") == []


@pytest.mark.parametrize("phase", AFTER_LAST_STEP)
def test_signal_after_the_last_step_lets_the_run_finish(
    gantrain: Callable[..., Result], reference_run: Callable[..., Path], work: Path, phase: str
) -> None:
    done = gantrain(*COMMAND, "run_dir=out", before=on_call(AFTER_LAST_STEP[phase], send(signal.SIGINT)))
    assert done.status == 130
    assert "Finished at step 12; SIGINT was received meanwhile." in done.stderr
    assert differences(reference_run(*COMMAND), work / "out") == []
    assert gantrain("resume=out").status == 0


def test_signal_during_evaluation_saves_a_checkpoint(
    gantrain: Callable[..., Result], reference_run, work: Path
) -> None:
    command = (*COMMAND[len(SMALL) :], "experiment=gaussian", "evaluate_every=4")
    function = "gantrain.callbacks.evaluate:Evaluate.measure"
    done = gantrain(*command, "run_dir=out", before=on_call(function, send(signal.SIGINT)))
    assert (done.status, run_json(work / "out")["steps"]) == (130, 4), done.stderr
    assert gantrain("resume=out").status == 0
    assert differences(reference_run(*command), work / "out") == []


@pytest.mark.parametrize(("signum", "seconds"), [(signal.SIGINT, 0.15), (signal.SIGTERM, 0.6), (signal.SIGINT, 2.0)])
def test_signal_during_imports_ends_without_traceback(
    work: Path, start: object, signum: signal.Signals, seconds: float
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "gantrain", *SMALL, "steps=1000000", "run_dir=out"],
        cwd=work, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while b"gantrain" not in Path(f"/proc/{process.pid}/cmdline").read_bytes():
        time.sleep(0.01)
    time.sleep(seconds)
    process.send_signal(signum)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + signum or (process.returncode == -signum and seconds < 0.5)
    assert "Traceback" not in stderr


def test_closed_output_pipe_does_not_end_the_run(
    start: Callable[..., Process], reference_run: Callable[..., Path], work: Path
) -> None:
    """As in `gantrain ... 2>&1 | head -1`."""
    pipe = work / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    process = start(*COMMAND, "run_dir=out", log=pipe)
    process.until((work / "out/run.json").exists)
    select.select([reader], [], [], 60)
    assert os.read(reader, 1000).startswith(b"gantrain 0.1.0: dcgan-digits\n")
    os.close(reader)
    process.log = work / "none"
    assert process.wait().status == 0
    assert differences(reference_run(*COMMAND), work / "out") == []


def write_photos(folder: Path) -> None:
    folder.mkdir(parents=True)
    for i in range(100):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / f"{i}.png")


def test_run_under_nohup_whose_output_is_closed_decodes_and_finishes(work: Path, start: object) -> None:
    write_photos(work / "photos")
    typed = f"dataset=image_folder dataset.root=photos dataset.image_size=16 {' '.join(SMALL)} steps=1 run_dir=out"
    shell = f"""
        set -o pipefail
        nohup {sys.executable} -m gantrain {typed} 2>&1 | head -2
        echo status $?
    """
    done = subprocess.run(["bash", "-c", shell], cwd=work, capture_output=True, text=True, timeout=120, check=False)
    *_, decoding, status = done.stdout.splitlines()
    assert decoding.startswith("Decoding 100 images of photos into"), done
    assert status == "status 0", done
    assert "Traceback" not in done.stdout + done.stderr
    assert run_json(work / "out")["status"] == "finished"
