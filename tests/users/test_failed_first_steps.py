"""What a user sees whose first step fails, and who then corrects the command."""

import json
from pathlib import Path

import pytest
from runs import csv_rows, run_json

MLP = (
    *("model=dcgan", "network=mlp", "model.generator.norm=batch", "model.generator.width=4", "log_every=1"),
    *("model.discriminator.width=4", "metric=[]", "steps=1", "++callback.samples.num=4", "run_dir=out"),
)


def test_batch_norm_with_a_batch_of_one_asks_for_a_larger_batch(gantrain) -> None:
    result = gantrain(*MLP, "batch_size=1")
    assert result.status == 2
    assert "BatchNorm needs at least 2 samples at a time, but batch_size=1 gives it 1; take a larger" in result.stderr
    assert "memory" not in result.stderr


def test_other_failures_are_named_without_advice_that_does_not_fit(gantrain, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("The size of tensor a (3) must match the size of tensor b (4)")

    monkeypatch.setattr("gantrain.game.Game.draw", fail)
    result = gantrain(*MLP, "batch_size=2")
    assert result.status == 2
    assert "(RuntimeError: The size of tensor a (3) must match the size of tensor b (4)). For a" in result.stderr
    assert "memory" not in result.stderr


@pytest.mark.parametrize("more", [(), ("on_divergence=rollback",)])  # which saves a checkpoint before the first step
def test_the_corrected_command_with_the_same_run_dir_begins_anew(
    gantrain, tmp_path: Path, more: tuple[str, ...]
) -> None:
    assert gantrain(*MLP, *more, "batch_size=1").status == 2
    assert run_json(tmp_path / "out")["steps"] == 0
    corrected = gantrain(*MLP, *more, "batch_size=2", "model.generator.width=8")
    assert corrected.status == 0, corrected.stderr
    assert (run_json(tmp_path / "out")["status"], run_json(tmp_path / "out")["steps"]) == ("finished", 1)
    assert [row["step"] for row in csv_rows(tmp_path / "out")] == ["1"]
    assert len(list((tmp_path / "out/tensorboard").iterdir())) == 1


def test_a_run_that_the_system_killed_in_its_first_step_begins_anew(gantrain, tmp_path: Path) -> None:
    """For lack of memory; the corrected command has a smaller batch."""
    assert gantrain(*MLP, "batch_size=1").status == 2
    record = run_json(tmp_path / "out") | {"status": "running", "error": None}
    (tmp_path / "out/run.json").write_text(json.dumps(record))
    assert gantrain(*MLP, "batch_size=2").status == 0


@pytest.mark.parametrize("status", ["running", "failed"])
def test_a_run_that_made_a_step_is_not_begun_anew_with_another_config(gantrain, tmp_path: Path, status: str) -> None:
    """It has no checkpoint yet, and run.json may be older than its last step."""
    command = (*(typed for typed in MLP if "samples" not in typed), "callback=[log,csv]")
    assert gantrain(*command, "batch_size=2").status == 0
    record = run_json(tmp_path / "out") | {"status": status, "steps": 0 if status == "running" else 1}
    (tmp_path / "out/run.json").write_text(json.dumps(record))
    refused = gantrain(*command, "batch_size=4")
    assert refused.status == 2
    assert "- batch_size: 2\n  + batch_size: 4" in refused.stderr


@pytest.mark.parametrize("content", ["", "{"])
def test_a_run_with_a_damaged_run_json_is_not_begun_anew_with_another_config(
    gantrain, tmp_path: Path, content: str
) -> None:
    """Its checkpoints were deleted too, so only metrics.csv tells that it made steps."""
    command = (*(typed for typed in MLP if "samples" not in typed), "callback=[log,csv]")
    assert gantrain(*command, "batch_size=2").status == 0
    (tmp_path / "out/run.json").write_text(content)
    before = (tmp_path / "out/metrics.csv").read_bytes()
    refused = gantrain(*command, "batch_size=4")
    assert refused.status == 2, refused.stderr
    assert (tmp_path / "out/metrics.csv").read_bytes() == before
