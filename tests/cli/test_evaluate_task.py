"""task=evaluate: scores of the checkpoints of a run."""

import json
from pathlib import Path

import pytest
from runs import csv_rows

SMALL = ("model.generator.width=2", "model.discriminator.width=2", "batch_size=4")
FID = ("metric=[fid]", "metric.fid.num_samples=60", "metric.fid.num_real=100")


@pytest.fixture
def run(gantrain) -> Path:
    every = ("evaluate_every=2", "checkpoint.every=2", "checkpoint.best=fid_digits", "log_every=1")
    assert gantrain(*SMALL, *FID, *every, "steps=6", "run_dir=out").status == 0
    return Path("out")


def scores(path: str) -> dict[str, float]:
    content = json.loads(Path(path).read_text())
    return {str(row["step"]): row["metrics"]["fid_digits"]["value"] for row in content["checkpoints"]}


def test_scores_equal_those_of_the_training(gantrain, run: Path) -> None:
    in_training = {row["step"]: float(row["metric/fid_digits"]) for row in csv_rows(run) if row["metric/fid_digits"]}
    done = gantrain("task=evaluate", f"run={run}", "checkpoints=all", "output=all.json")
    assert done.status == 0, done.stderr
    assert scores("all.json") == pytest.approx(in_training, rel=1e-12)
    assert Path("all.png").is_file()
    assert gantrain("task=evaluate", f"run={run}", "output=last.json").status == 0
    last = json.loads(Path("last.json").read_text())["metrics"]["fid_digits"]
    assert last["value"] == pytest.approx(in_training["6"], rel=1e-12)
    receipts = json.loads((run / "run.json").read_text())["metrics"]["receipts"]
    assert last["receipt"] == receipts["metric/fid_digits"]
    best = min(in_training, key=lambda step: in_training[step])
    assert gantrain("task=evaluate", f"run={run}", "checkpoints=best", "output=best.json").status == 0
    assert scores("best.json") == pytest.approx({best: in_training[best]}, rel=1e-12)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ((), "run is not set: task=evaluate needs it"),
        (("run=nowhere",), "run=nowhere is not the folder of a run"),
        (("run=out", "checkpoints=first"), "checkpoints=first: must be one of last, best, all"),
        (("run=out", "output=x.txt"), "output=x.txt: the name must end in .json"),
        (("run=out", "metric=[]"), "was trained without metrics; choose some, for example metric=[fid]"),
        (("run=out", "metric=[modes]"), "metric modes: dataset=digits has images"),
    ],
)
def test_mistakes_are_named(gantrain, run: Path, typed: tuple[str, ...], message: str) -> None:
    done = gantrain("task=evaluate", *typed)
    assert done.status == 2
    assert message in done.stderr
