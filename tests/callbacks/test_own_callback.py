"""A user's own callback outside of the package resumes as exactly as the shipped ones."""

from collections.abc import Callable
from pathlib import Path

import pytest
from processes import SMALL, Process, Result, Server, gantrain, on_call, server, start, work
from runs import csv_rows, differences, run_json, tensorboard_events

__all__ = ["gantrain", "server", "start", "work"]

MODULE = """
import torch
from gantrain.callbacks.base import Callback

class Drift(Callback):
    '''Logs the distance by which G's weights have moved since the last call, and an image of some of them.'''

    order = -1
    tags = ("mine/",)

    def __init__(self, *, every: int, as_float: bool):
        self.every, self.as_float, self.last = every, as_float, None

    def start(self, run):
        if self.last is None:
            self.last = weights(run.state.G)

    def __call__(self, state, logs):
        if self.is_due(state.step):
            now = weights(state.G)
            drift = (now - self.last).norm()
            logs["mine/drift"] = float(drift) if self.as_float else drift
            self.last = now
            pixels = (255 * torch.sigmoid(20 * now[:768])).byte()
            self.run.publish_image("mine/picture", pixels.view(16, 16, 3).numpy())

    def state_dict(self):
        return {"last": self.last}

    def load_state_dict(self, state):
        self.last = state.get("last")

def weights(module):
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
"""
CONFIG = """
# distance by which G's weights move
mine:
  _target_: mine.Drift
  every: 3
  as_float: true
"""
# Only the own callback is due at steps 3, 6 and 9, so that they are logged because of it alone.
COMMAND = (
    *SMALL,
    *("--config-dir", "my", "trust=[mine]", "callback=[default,mine]"),
    *("log_every=4", "sample_every=5", "checkpoint.every=5", "callback.samples.num=16"),
)
STEPS = "steps=13"
EACH_STEP = "gantrain.callbacks.log:Log.__call__"


def write(folder: Path) -> None:
    """Write the callback: a Python file and a YAML file."""
    (folder / "mine.py").write_text(MODULE)
    (folder / "my/callback").mkdir(parents=True)
    (folder / "my/callback/mine.yaml").write_text(CONFIG)


@pytest.fixture(scope="module")
def uninterrupted(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    write(folder)
    done = server.start(folder, (*COMMAND, STEPS, "run_dir=out")).wait()
    assert done.status == 0, done.stderr
    return folder / "out"


def test_own_callback_publishes_at_its_own_interval(uninterrupted: Path) -> None:
    drifts = {int(row["step"]): row["mine/drift"] for row in csv_rows(uninterrupted)}
    assert list(drifts) == [1, 3, 4, 6, 8, 9, 12, 13]
    assert {step for step, drift in drifts.items() if drift and float(drift) > 0} == {3, 6, 9, 12}
    for tag in ("mine/drift", "mine/picture"):
        assert [step for name, step in tensorboard_events(uninterrupted) if name == tag] == [3, 6, 9, 12]


@pytest.mark.parametrize("number", ["float", "tensor"])
@pytest.mark.parametrize(
    ("how", "step"), [("finished", 7), ("finished", 9), ("signal", 7), ("signal", 9), ("killed", 8), ("killed", 11)]
)
def test_run_with_own_callback_resumes_exactly(
    start: Callable[..., Process],
    gantrain: Callable[..., Result],
    uninterrupted: Path,
    work: Path,
    how: str,
    step: int,
    number: str,
) -> None:
    write(work)
    command = (*COMMAND, f"callback.mine.as_float={str(number == 'float').lower()}", "run_dir=out")
    if how == "finished":
        stopped = gantrain(*command, f"steps={step}")
        assert stopped.status == 0, stopped.stderr
    else:
        signum, status = ("SIGTERM", 143) if how == "signal" else ("SIGKILL", -9)
        action = f"os.kill(os.getpid(), signal.{signum})"
        stopped = gantrain(*command, STEPS, before=on_call(EACH_STEP, action, call=step))
        assert stopped.status == status, stopped.stderr
    if how != "killed":  # a killed run may leave the run.json of its start
        assert run_json(work / "out")["steps"] == step
    done = gantrain(*command, STEPS)
    assert done.status == 0, done.stderr
    assert differences(uninterrupted, work / "out") == []


def test_values_published_at_an_earlier_interval_are_kept_on_resume(
    gantrain: Callable[..., Result], work: Path, start
) -> None:
    write(work)
    assert gantrain(*COMMAND, "steps=9", "run_dir=out").status == 0
    done = gantrain(*COMMAND, "callback.mine.every=2", STEPS, "run_dir=out")
    assert done.status == 0, done.stderr
    for tag in ("mine/drift", "mine/picture"):
        assert [step for name, step in tensorboard_events(work / "out") if name == tag] == [3, 6, 9, 10, 12]
    assert [row["step"] for row in csv_rows(work / "out") if row["mine/drift"]] == ["3", "6", "9", "10", "12"]
