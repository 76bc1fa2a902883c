"""Runs with held-out images."""

from pathlib import Path

from runs import csv_rows, run_json


def test_run_with_held_out_images(gantrain) -> None:
    small = (
        "model=dcgan",
        "model.generator.width=1",
        "model.discriminator.width=1",
        "batch_size=4",
        "dataset.holdout=0.02",
    )
    fid = ("metric=[fid]", "metric.fid.num_samples=60", "metric.fid.num_real=null", "statistics_dir=null")
    assert gantrain(*small, *fid, "steps=2", "run_dir=a").status == 0
    held_out = ("metric_split=held_out",)
    assert gantrain(*small, *fid, *held_out, "steps=2", "run_dir=b").status == 0
    a, b = (run_json(Path(folder)) for folder in "ab")
    assert a["dataset"]["num_images"] == b["dataset"]["num_images"] == 9_800
    expected = {"split": "held_out", "num_images": 200}
    assert {key: a["dataset"]["held_out"][key] for key in expected} == expected
    receipts = [record["metrics"]["receipts"]["metric/fid_digits"] for record in (a, b)]
    assert [receipt["split"] for receipt in receipts] == ["train", "held_out"]
    assert [receipt["num_real"] for receipt in receipts] == [9_800, 200]
    assert receipts[0]["fingerprint"] == a["dataset"]["fingerprint"] != receipts[1]["fingerprint"]
    assert receipts[1]["fingerprint"] == b["dataset"]["held_out"]["fingerprint"]
    assert csv_rows(Path("a"))[-1]["loss/generator"] == csv_rows(Path("b"))[-1]["loss/generator"]
    # Another part to train on is another dataset.
    other = gantrain("dataset.holdout=0.05", *small[:-1], "steps=4", "run_dir=a")
    assert other.status == 2
    assert "dataset" in other.stderr
    done = gantrain(*small[:-1], *fid, *held_out, "steps=2", "run_dir=c")
    assert done.status == 2
    assert "metric_split=held_out: no images are held out; set dataset.holdout" in done.stderr
