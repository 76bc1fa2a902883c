"""What a user sees of the progress: in a terminal, in a dumb one (Emacs), and in a log file with forced colours."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

# Progress of a run and of decoding, without a training: the callback is called as the training does.
PROGRESS = """
import sys, time
from types import SimpleNamespace
from unittest.mock import patch
from gantrain.console import console, draws_bars
from gantrain.datasets import progress

clock = [0.0]
def work():
    for i in range(30):
        clock[0] += 1.0
        yield i
with patch.object(progress.time, "monotonic", lambda: clock[0]):
    assert len(list(progress.track(work(), total=30, what="Decoding"))) == 30
console.print("draws bars:", draws_bars(console))
"""


def show(environment: dict[str, str], *, terminal: bool) -> str:
    """Return what the program writes to stderr, a terminal or a file."""
    names = ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "TERM")
    plain = {name: value for name, value in os.environ.items() if name not in names}
    main, other = pty.openpty() if terminal else os.pipe()
    process = subprocess.Popen([sys.executable, "-c", PROGRESS], env=plain | environment, stderr=other)
    os.close(other)
    parts = []
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:  # the terminal was closed
            break
        if not part:
            break
        parts.append(part)
    os.close(main)
    assert process.wait(60) == 0
    return b"".join(parts).decode().replace("\r\n", "\n")


LINES = ["2 of 30", "13 of 30", "24 of 30", "30 of 30"]


@pytest.mark.parametrize(
    ("environment", "terminal", "has_bar"),
    [
        ({"TERM": "xterm"}, True, True),
        ({"TERM": "dumb"}, True, False),
        ({"TERM": "xterm", "TTY_INTERACTIVE": "0"}, True, False),
        ({"TERM": "xterm"}, False, False),
        ({"TERM": "xterm", "FORCE_COLOR": "1"}, False, False),
        ({"TERM": "xterm", "TTY_COMPATIBLE": "1"}, False, False),
    ],
)
def test_a_bar_is_drawn_only_where_it_can_be_redrawn_and_lines_elsewhere(
    environment: dict[str, str], terminal: bool, has_bar: bool
) -> None:
    shown = show(environment, terminal=terminal)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
    assert f"draws bars: {has_bar}" in plain
    found = re.findall(r"Decoding: (\d+ of \d+)", plain)
    assert found == ([] if has_bar else LINES)
    assert ("\x1b[2K" in shown) == has_bar  # erases a line
    assert ("━" in shown) == has_bar


def test_a_run_in_a_dumb_terminal_prints_its_first_and_its_last_step(
    gantrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import Console

    from gantrain.callbacks import progress
    from gantrain.console import console

    dumb = Console(file=console.file, force_terminal=True, force_interactive=False, no_color=True, width=200)
    monkeypatch.setattr(progress, "console", dumb)
    small = ("model=dcgan", "model.generator.width=1", "model.discriminator.width=1", "batch_size=4", "metric=[]")
    result = gantrain(*small, "steps=3", "callback=[log,progress]", "run_dir=out")
    assert result.status == 0, result.stderr
    steps = re.findall(r"^step (\d+/\d+)  loss D", result.stderr, re.M)
    assert (steps[0], steps[-1]) == ("1/3", "3/3")
