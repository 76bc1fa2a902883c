"""Options of `runtime`, and horizontal flips, on the command line."""

import json
from pathlib import Path

import pytest
import torch

from gantrain.session import trials

SMALL = (
    *("model=dcgan", "model.generator.width=2", "model.discriminator.width=2", "batch_size=4"),
    *("metric=[]", "verdict=[]", "callback=[log,checkpoint]"),
)


def test_run_json_records_precision_acceleration_and_layout(tmp_path: Path, gantrain) -> None:
    small = (*SMALL, "steps=2")
    cases = {
        "plain": ((), ("float32", "eager", "contiguous")),
        "bf16": (("runtime.precision=bf16",), ("bf16", "eager", "contiguous")),
        "reference": (("runtime=reference",), ("float32", "eager", "contiguous")),
        "graph": (("runtime.acceleration=graph",), ("float32", "eager", "contiguous")),
    }
    for name, (typed, expected) in cases.items():
        done = gantrain(*small, *typed, f"run_dir={name}")
        assert done.status == 0, done.stderr
        record = json.loads((tmp_path / name / "run.json").read_text())
        assert (record["precision"], record["acceleration"], record["layout"]) == expected
        assert record["threads"] == torch.get_num_threads()
        assert ("CUDA graphs need a CUDA device" in done.stderr) == (name == "graph")
    refused = gantrain(*small, "runtime.precision=fp16")
    assert refused.status == 2
    assert "runtime.precision=fp16: must be one of auto, float32, tf32, bf16" in refused.stderr
    refused = gantrain(*small, "runtime.threads=0")
    assert refused.status == 2
    assert "runtime.threads=0: must be auto, or a whole number, at least 1" in refused.stderr
    refused = gantrain(*small, "runtime.data=gpu")
    assert refused.status == 2
    assert "runtime.data=gpu: must be one of auto, device, host" in refused.stderr


def test_horizontal_flip_changes_training_reproducibly(tmp_path: Path, gantrain) -> None:
    command = (*SMALL, "steps=4")
    for name, typed in {"plain": (), "mirrored": ("horizontal_flip=true",), "again": ("horizontal_flip=true",)}.items():
        assert gantrain(*command, *typed, f"run_dir={name}").status == 0
    plain, mirrored, again = (
        torch.load(tmp_path / name / "checkpoints/step_00000004.pt", weights_only=True)["D"]
        for name in ("plain", "mirrored", "again")
    )
    assert all(torch.equal(mirrored[key], again[key]) for key in mirrored)
    assert not all(torch.equal(mirrored[key], plain[key]) for key in mirrored)
    changed = gantrain(*command, "run_dir=mirrored", "steps=8")
    assert changed.status == 2
    assert "allow_change=[horizontal_flip]" in changed.stderr
    vectors = gantrain("experiment=gaussian", "horizontal_flip=true", "steps=2")
    assert vectors.status == 2
    assert "horizontal_flip=true: the samples of gaussian are vectors, not images" in vectors.stderr


def test_resume_with_another_memory_layout(tmp_path: Path, gantrain) -> None:
    command = (*SMALL, "model.generator.width=4", "model.discriminator.width=4", "batch_size=8", "run_dir=run")
    first = gantrain(*command, "steps=4", "runtime.layout=channels_last")
    assert first.status == 0, first.stderr
    assert gantrain(*command, "steps=8", "runtime.layout=contiguous").status == 0
    assert gantrain(*command, "steps=12", "runtime.layout=channels_last").status == 0
    assert gantrain(*command[:-1], "run_dir=plain", "steps=12").status == 0
    one, other = (
        torch.load(tmp_path / name / "checkpoints/step_00000012.pt", weights_only=True) for name in ("run", "plain")
    )
    for name, weight in one["D"].items():
        torch.testing.assert_close(weight, other["D"][name], atol=2e-3, rtol=0, msg=name)


def test_run_that_starts_on_a_busy_machine_keeps_its_number_of_threads_when_it_is_resumed_on_an_idle_one(
    tmp_path: Path, gantrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers: list[int] = []
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", numbers.append)
    monkeypatch.setattr(trials, "is_bitwise_equal", lambda *_: False)
    monkeypatch.setattr(trials, "fitting_threads", lambda most, others: 1)
    busy = gantrain(*SMALL, "steps=2", "run_dir=run")
    assert busy.status == 0, busy.stderr
    assert "this run has 1 thread to its end instead of 2" in busy.stderr
    assert "1 thread (other programs use cores)" in busy.stderr
    monkeypatch.setattr(trials, "fitting_threads", lambda most, others: 2)
    numbers.clear()
    resumed = gantrain("resume=run", "steps=4")
    assert resumed.status == 0, resumed.stderr
    assert "1 thread (other programs use cores)" in resumed.stderr
    assert numbers[0] == 1
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["threads"], record["threads_fixed_by_load"], record["steps"]) == (1, True, 4)
    numbers.clear()
    idle = gantrain(*SMALL, "steps=2", "run_dir=idle")
    assert "thread" not in idle.stderr
    assert 1 not in numbers
