"""A run that reaches NaN or Inf stops with a message, or rolls back and draws different random numbers."""

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import OUTPUTS, SMALL, Result, on_call
from runs import csv_rows, differences, run_json, tensorboard_events

from gantrain.session import checkpoint
from gantrain.session.checkpoint import tensors

# A penalty that is Inf at step `at` with probability `chance`.
BOMB = """
import torch
from gantrain.regularizers.base import Regularizer

class Bomb(Regularizer):
    def __init__(self, *, at: int, chance: float):
        self.at, self.chance, self.count = at, chance, 0

    def discriminator_penalty(self, critic, batch):
        self.count += 1
        drawn = torch.rand(())
        factor = float("inf") if self.count == self.at and drawn < self.chance else 0.0
        return batch.real_logits.square().mean() * (1 + factor)

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]
"""
STEPS = 16


@pytest.fixture
def command(work: Path, start: object) -> Callable[..., tuple[str, ...]]:
    (work / "bomb.py").write_text(BOMB)
    (work / "my/regularizer").mkdir(parents=True)
    (work / "my/regularizer/bomb.yaml").write_text("bomb: {_target_: bomb.Bomb, at: 8, chance: 1.0}\n")

    def make(chance: float, *more: str) -> tuple[str, ...]:
        given = ("--config-dir", "my", "regularizer=[bomb]", f"regularizer.bomb.chance={chance}", "trust=[bomb]")
        return (*given, *SMALL, *OUTPUTS, f"steps={STEPS}", *more)

    return make


def test_divergence_is_named_and_the_last_finite_checkpoint_is_kept(
    gantrain: Callable[..., Result], command: Callable[..., tuple[str, ...]], work: Path
) -> None:
    done = gantrain(*command(1.0, "run_dir=out"))
    assert done.status == 3
    assert "Traceback" not in done.stderr
    run = work / "out"
    assert re.search(r"gantrain: penalty/bomb is (inf|nan) at step 8: the training has diverged", done.stderr)
    assert run_json(run)["status"] == "diverged"
    assert "penalty/bomb" in run_json(run)["error"]
    newest = checkpoint.paths(run)[-1]
    assert newest.name == "step_00000006.pt"
    assert all(tensor.isfinite().all() for _, tensor in tensors(checkpoint.read(newest)) if tensor.is_floating_point())
    assert [row["step"] for row in csv_rows(run)] == ["1", "2", "4", "6"]
    # Resume from there with another setting.
    resume = ("--config-dir", "my", "resume=out", "trust=[bomb]")
    again = gantrain(*resume, "regularizer.bomb.chance=0", "allow_change=[regularizer.bomb.chance]")
    assert again.status == 0, again.stderr
    assert [row["step"] for row in csv_rows(run)] == ["1", "2", "4", "6", "8", "10", "12", "14", "16"]


def test_run_rolls_back_at_most_max_rollbacks_times(
    gantrain: Callable[..., Result], command: Callable[..., tuple[str, ...]], work: Path
) -> None:
    done = gantrain(*command(1.0, "run_dir=out", "on_divergence=rollback", "max_rollbacks=2"))
    assert done.status == 3
    assert "Traceback" not in done.stderr
    history = run_json(work / "out")["history"]
    assert [(event["event"], event["step"], event["diverged_at"]) for event in history] == [("rolled back", 6, 8)] * 2
    assert all("penalty/bomb" in event["reason"] for event in history)
    tensorboard_events(work / "out")  # raises if an event occurs twice
    assert [row["step"] for row in csv_rows(work / "out")] == ["1", "2", "4", "6"]


def test_rollback_draws_other_random_numbers_and_resumes_exactly(
    gantrain: Callable[..., Result], command: Callable[..., tuple[str, ...]], work: Path
) -> None:
    # Find a seed for which step 8 diverges, but not after every rollback.
    for seed in range(20):
        straight = command(0.5, "on_divergence=rollback", f"seed={seed}", "max_rollbacks=5")
        done = gantrain(*straight, f"run_dir=straight{seed}")
        if run_json(work / f"straight{seed}")["history"]:
            break
    run = work / f"straight{seed}"
    assert done.status == 0, done.stderr
    assert "Rolled back to step 6, with different random numbers (1 of at most 5 times)" in done.stderr
    num_rollbacks = len(run_json(run)["history"])
    assert num_rollbacks >= 1
    assert [row["step"] for row in csv_rows(run)] == ["1", "2", "4", "6", "8", "10", "12", "14", "16"]
    assert all(math.isfinite(float(cell)) for row in csv_rows(run) for cell in row.values())
    assert checkpoint.read(checkpoint.paths(run)[-1])["rollbacks"] == num_rollbacks

    # The random numbers are the same up to the last checkpoint, and others after it.
    calm = gantrain(*command(0.0, f"seed={seed}", f"run_dir=calm{seed}"))
    assert calm.status == 0
    for row, other in zip(csv_rows(run), csv_rows(work / f"calm{seed}"), strict=True):
        assert (row["loss/discriminator"] == other["loss/discriminator"]) == (int(row["step"]) <= 6)

    # Kill the run during the rollback, and before and after its next checkpoint.
    kill = "os.kill(os.getpid(), 9)"
    for function, call in (
        ("gantrain.tasks.train:roll_back", 1),
        ("gantrain.callbacks.base:Callbacks.rewind", 1),
        ("gantrain.callbacks.csv:MetricsCSV.rewind", 1),
        ("gantrain.callbacks.log:Log.__call__", 5),
        ("gantrain.callbacks.log:Log.__call__", 9),
    ):
        killed = gantrain(*straight, "run_dir=parts", before=on_call(function, kill, call=call))
        assert killed.status == -9, (function, killed.stderr)
    done = gantrain(*straight, "run_dir=parts")
    assert done.status == 0, done.stderr
    assert differences(run, work / "parts") == []
