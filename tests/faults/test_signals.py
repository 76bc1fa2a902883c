"""A signal in any phase of a run ends it with its status, a true record and no traceback; the run can be resumed."""

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
from processes import COMMAND, SMALL, Process, Result, during
from runs import differences, record

BEFORE = {
    "composing": "gantrain.command.cli:run_job",
    "building": "gantrain.assemble:build_state",
    "decoding": "gantrain.datasets.base:ImageDataset.prepare",
}
WHILE = {
    "start": "gantrain.callbacks.samples:Samples.start",
    "step": "gantrain.game:Game.draw",
    "checkpoint": "gantrain.session.checkpoint:_Hashing.write",  # in the thread
    "grid": "gantrain.evaluation.grids:save_png",
}
AFTER = {"animation": "gantrain.evaluation.grids:animation", "curves": "gantrain.evaluation.plots:curves"}


def send(signum: signal.Signals, times: int = 1) -> str:
    # The main thread has to see each, or two are one.
    pause = 0.01 if times == 1 else 0.3
    return f"[os.kill(os.getpid(), {int(signum)}) or time.sleep({pause}) for _ in range({times})]"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("phase", BEFORE)
def test_a_signal_before_the_run_begins_leaves_no_folder(
    gantrain: Callable[..., Result], work: Path, phase: str, signum: signal.Signals
) -> None:
    done = gantrain(*COMMAND, "run_dir=out", before=during(BEFORE[phase], send(signum)))
    assert done.status == 128 + signum
    assert "Traceback" not in done.stderr
    assert not (work / "out").exists()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_images_are_decoded(gantrain: Callable[..., Result], work: Path, signum: signal.Signals) -> None:
    draw = np.random.default_rng(0)
    (work / "photos").mkdir()
    for i in range(40):
        Image.fromarray(draw.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(work / f"photos/{i}.png")
    command = (*SMALL, "dataset=image_folder", "dataset.root=photos", "dataset.image_size=16", "steps=1", "run_dir=out")
    before = during("gantrain.datasets.decoding:_results", send(signum))
    done = gantrain(*command, "runtime.num_workers=2", before=before)
    assert done.status == 128 + signum, done.stderr
    assert "Traceback" not in done.stderr
    assert re.search(r"Stopped while decoding into .*npy; the incomplete cache was removed", done.stderr)
    assert not list((work / "data").rglob("*.npy"))
    assert gantrain(*command).status == 0


@pytest.mark.parametrize(
    ("phase", "signum"),
    [*zip(WHILE, [signal.SIGINT, signal.SIGTERM] * 2, strict=True), ("step", signal.SIGINT), ("step", signal.SIGHUP)],
)
def test_a_signal_saves_a_checkpoint_from_which_the_run_resumes(
    gantrain: Callable[..., Result],
    undisturbed: Callable[..., Path],
    work: Path,
    phase: str,
    signum: signal.Signals,
) -> None:
    run = work / "out"
    done = gantrain(
        *COMMAND, "run_dir=out", before=during(WHILE[phase], send(signum), call=3 if phase != "start" else 1)
    )
    assert done.status == 128 + signum, done.stderr
    assert "Traceback" not in done.stderr
    assert f"Stopped by {signum.name} after step" in done.stderr
    assert "Resume with: gantrain resume=out" in done.stderr
    found = record(run)
    assert (found["status"], found["error"]) == ("stopped", None)
    assert found["steps"] < 12
    assert f"checkpoints/step_{found['steps']:08d}.pt" in {str(path.relative_to(run)) for path in run.rglob("*.pt")}
    again = gantrain("resume=out")
    assert again.status == 0, again.stderr
    assert differences(undisturbed(*COMMAND), run) == []


@pytest.mark.parametrize(
    ("phase", "signum"), [*zip([*WHILE, *AFTER], [signal.SIGINT, signal.SIGTERM] * 3, strict=True)]
)
def test_a_second_signal_ends_the_process_at_once(
    gantrain: Callable[..., Result],
    undisturbed: Callable[..., Path],
    work: Path,
    phase: str,
    signum: signal.Signals,
) -> None:
    call = 1 if phase in ("start", *AFTER) else 4
    done = gantrain(*COMMAND, "run_dir=out", before=during((WHILE | AFTER)[phase], send(signum, 2), call=call))
    assert done.status == 128 + signum, done.stderr
    assert "Traceback" not in done.stderr
    assert "Stopped at once" in done.stderr
    assert record(work / "out")["status"] == "stopped"
    again = gantrain(*COMMAND, "run_dir=out")
    assert again.status == 0, again.stderr
    assert differences(undisturbed(*COMMAND), work / "out") == []


@pytest.mark.parametrize("phase", AFTER)
def test_a_signal_after_the_last_step_lets_the_run_finish(
    gantrain: Callable[..., Result], undisturbed: Callable[..., Path], work: Path, phase: str
) -> None:
    done = gantrain(*COMMAND, "run_dir=out", before=during(AFTER[phase], send(signal.SIGINT)))
    assert done.status == 130
    assert "Finished, and SIGINT received, at step 12" in done.stderr
    assert differences(undisturbed(*COMMAND), work / "out") == []
    assert gantrain("resume=out").status == 0


def test_a_signal_during_an_evaluation(gantrain: Callable[..., Result], undisturbed, work: Path) -> None:
    command = (*COMMAND[3:], "experiment=gaussian", "evaluate_every=4")
    place = "gantrain.callbacks.evaluate:Evaluate.measure"
    done = gantrain(*command, "run_dir=out", before=during(place, send(signal.SIGINT)))
    assert (done.status, record(work / "out")["steps"]) == (130, 4), done.stderr
    assert gantrain("resume=out").status == 0
    assert differences(undisturbed(*command), work / "out") == []


@pytest.mark.parametrize(("signum", "seconds"), [(signal.SIGINT, 0.15), (signal.SIGTERM, 0.6), (signal.SIGINT, 2.0)])
def test_a_signal_while_the_command_is_being_imported(
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


def test_a_closed_output_pipe_does_not_end_the_run(
    start: Callable[..., Process], undisturbed: Callable[..., Path], work: Path
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
    assert differences(undisturbed(*COMMAND), work / "out") == []


def write_photos(folder: Path) -> None:
    folder.mkdir(parents=True)
    for i in range(100):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / f"{i}.png")


def test_a_closed_output_pipe_does_not_end_the_decoding(work: Path) -> None:
    write_photos(work / "photos")
    typed = f"dataset=image_folder dataset.root=photos dataset.image_size=16 {' '.join(SMALL)} steps=1 run_dir=out"
    shell = f"set -o pipefail; {sys.executable} -m gantrain {typed} 2>&1 | head -2"
    done = subprocess.run(["bash", "-c", shell], cwd=work, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.splitlines()[1].startswith("Decoding 100 images of photos into")
    assert done.returncode == 0
    assert record(work / "out")["status"] == "finished"


def test_a_run_in_a_pipeline_with_head_and_under_nohup(work: Path, start: object) -> None:
    shell = f"""
        set -o pipefail
        nohup {sys.executable} -m gantrain {" ".join(SMALL)} steps=3 run_dir=out 2>&1 | head -1
        echo status $?
    """
    done = subprocess.run(["bash", "-c", shell], cwd=work, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.splitlines()[-1] == "status 0", done
    assert "Traceback" not in done.stdout + done.stderr
    assert record(work / "out")["status"] == "finished"
