"""What a user sees after `cp -r run/* elsewhere/`, a download, or with a checkpoint file alone: `.hydra` is missing."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import differences, run_json

from gantrain.session import checkpoint
from gantrain.session.loading import LoadedGenerator, arithmetic_of, load_generator

RUN = (
    *("model=dcgan", "model.generator.width=2", "model.discriminator.width=1", "batch_size=4", "metric=[]"),
    *("steps=2", "checkpoint.every=1", "++callback.samples.num=4", "log_every=1"),
)

LONGER = (*(typed for typed in RUN if typed != "steps=2"), "steps=3")

METRIC = (
    *("metric=[sliced_wasserstein]", "metric.sliced_wasserstein.num_samples=64"),
    *("metric.sliced_wasserstein.num_real=64", "metric.sliced_wasserstein.num_directions=8"),
)


@pytest.fixture(scope="module")
def whole(train) -> Path:
    """A run of two steps."""
    return train(*RUN)


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    """The run, copied by `cp -r run/* copied/`."""
    folder = tmp_path / "copied"
    folder.mkdir()
    for path in whole.iterdir():
        if not path.name.startswith("."):  # which * does not match
            (shutil.copytree if path.is_dir() else shutil.copy)(path, folder / path.name)
    return folder


@pytest.fixture
def lone(whole: Path, tmp_path: Path) -> Path:
    """The newest checkpoint, downloaded without anything else."""
    (tmp_path / "downloads").mkdir()
    return Path(shutil.copy(checkpoint.paths(whole)[-1], tmp_path / "downloads/cats.pt"))


def samples(gantrain, run: Path, output: Path) -> np.ndarray:
    result = gantrain("task=sample", f"run={run}", "num=8", f"output={output}")
    assert result.status == 0, result.stderr
    return np.load(output)["images"]


def test_samples_of_a_copied_run_and_of_a_lone_checkpoint_are_those_of_the_run(
    gantrain, whole: Path, copied: Path, lone: Path, tmp_path: Path
) -> None:
    expected = samples(gantrain, whole, tmp_path / "whole.npz")
    assert np.ptp(expected) > 0
    assert (samples(gantrain, copied, tmp_path / "copied.npz") == expected).all()
    assert (samples(gantrain, lone, tmp_path / "lone.npz") == expected).all()


def test_a_copied_run_and_a_lone_checkpoint_are_evaluated(gantrain, copied: Path, lone: Path) -> None:
    for run in (copied, lone):
        result = gantrain("task=evaluate", f"run={run}", *METRIC)
        assert result.status == 0, result.stderr
        assert "sliced_wasserstein" in result.stderr


@pytest.fixture(scope="module")
def other(train) -> Path:
    """A run of wider networks, in the memory layout channels_last."""
    wider = (typed.replace("generator.width=2", "generator.width=3") for typed in RUN)
    return train(*wider, *METRIC, "runtime.layout=channels_last")


@pytest.mark.parametrize("place", ["keep/cats.pt", "checkpoints/step_00000001.pt"])
def test_a_checkpoint_in_the_folder_of_another_run_is_used_with_its_own_config(
    gantrain, whole: Path, other: Path, tmp_path: Path, place: str
) -> None:
    mixed = Path(shutil.copytree(other, tmp_path / "mixed"))
    (mixed / "keep").mkdir()
    shutil.copy(checkpoint.paths(whole)[-1], mixed / place)
    expected = samples(gantrain, whole, tmp_path / "whole.npz")
    assert (samples(gantrain, mixed / place, tmp_path / "mixed.npz") == expected).all()
    result = gantrain("task=evaluate", f"run={mixed / place}")  # the metrics are those of its run, which has none
    assert result.status == 2
    assert "was trained without metrics" in result.stderr, result.stderr


def is_channels_last(loaded: LoadedGenerator) -> bool:
    with arithmetic_of(loaded):
        convolutions = [p for p in loaded.G.parameters() if p.ndim == 4 and min(p.shape[1:]) > 1]
        assert convolutions
        return all(p.is_contiguous(memory_format=torch.channels_last) for p in convolutions)


def test_a_lone_checkpoint_is_evaluated_with_the_arithmetic_of_its_run(
    whole: Path, other: Path, tmp_path: Path
) -> None:
    newest, cpu = checkpoint.paths(other)[-1], torch.device("cpu")
    assert is_channels_last(load_generator(Path(shutil.copy(newest, tmp_path / "lone.pt")), cpu))
    assert not is_channels_last(load_generator(checkpoint.paths(whole)[-1], cpu))
    content = checkpoint.read(newest)
    del content["layout"], content["precision"]  # as earlier versions wrote it, whose run.json tells
    of_run = Path(shutil.copytree(other, tmp_path / "of_run"))
    checkpoint.write(of_run / "checkpoints" / newest.name, content)
    assert is_channels_last(load_generator(of_run, cpu))
    assert is_channels_last(load_generator(of_run / "checkpoints" / newest.name, cpu))
    of_another = Path(shutil.copytree(whole, tmp_path / "of_another"))
    for folder in (of_run, of_another):
        (folder / "keep").mkdir()
        checkpoint.write(folder / "keep/cats.pt", content)
    assert is_channels_last(load_generator(of_run / "keep/cats.pt", cpu))
    assert not is_channels_last(load_generator(of_another / "keep/cats.pt", cpu))


@pytest.fixture(scope="module")
def longer(train) -> Path:
    """The same run with a third step, without an interruption."""
    return train(*LONGER)


@pytest.mark.parametrize("typed", [("resume=copied", "steps=3"), (*LONGER, "run_dir=copied")])
def test_a_copied_run_is_resumed(gantrain, longer: Path, copied: Path, typed: tuple[str, ...]) -> None:
    again = gantrain(*typed)
    assert again.status == 0, again.stderr
    assert run_json(copied)["steps"] == 3
    assert differences(longer, copied) == []


def test_a_lone_checkpoint_in_a_folder_named_checkpoints_is_resumed(gantrain, whole: Path, tmp_path: Path) -> None:
    (tmp_path / "new/checkpoints").mkdir(parents=True)
    newest = checkpoint.paths(whole)[-1]
    shutil.copy(newest, tmp_path / "new/checkpoints" / newest.name)
    again = gantrain("resume=new", "steps=3")
    assert again.status == 0, again.stderr
    assert run_json(tmp_path / "new")["steps"] == 3


def test_a_lone_checkpoint_starts_a_new_run(gantrain, lone: Path, tmp_path: Path) -> None:
    result = gantrain(*RUN, f"init_from={lone}", "run_dir=new", "callback=[log]")
    assert result.status == 0, result.stderr


def test_messages_say_what_is_missing(gantrain, copied: Path, lone: Path) -> None:
    cases = {
        ("task=sample", "run=downloads", "output=x.npz"): "neither .hydra/config.yaml nor checkpoints/step_*.pt. Name "
        "one of the checkpoints that are there: run=downloads/cats.pt",
        ("task=sample", "run=nowhere", "output=x.npz"): "run=nowhere is not the folder of a run: it does not exist",
        (f"resume={lone}",): f"To start a new run from its weights, set init_from={lone}",
    }
    for typed, message in cases.items():
        result = gantrain(*typed)
        assert result.status == 2
        assert message in result.stderr, result.stderr
    shutil.rmtree(copied / "checkpoints")
    result = gantrain("resume=copied")
    assert result.status == 2
    assert "overrides.yaml with the overrides of the run is missing, and there is no checkpoint" in result.stderr


def test_a_checkpoint_of_an_earlier_version_says_how_to_resume(gantrain, copied: Path) -> None:
    for path in checkpoint.paths(copied):
        content = checkpoint.read(path)
        del content["overrides"]
        checkpoint.write(path, content)
    result = gantrain("resume=copied", "steps=3")
    assert result.status == 2
    assert "of an earlier version, does not hold them. Repeat the run's command with run_dir=copied" in result.stderr
    again = gantrain(*LONGER, "run_dir=copied")
    assert again.status == 0, again.stderr
