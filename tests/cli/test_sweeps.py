"""`gantrain -m`: one folder per run, and all runs together in TensorBoard's HParams tab."""

import json
from pathlib import Path

from tensorboard.backend.event_processing import plugin_event_multiplexer
from tensorboard.plugins.hparams import metadata

SMALL = (
    *("model=dcgan", "model.generator.width=2", "model.discriminator.width=2"),
    "batch_size=4",
    "metric=[]",
    "steps=2",
)


def test_every_combination_gets_a_folder_and_an_hparams_session(gantrain, tmp_path: Path) -> None:
    result = gantrain(
        "-m", "model=dcgan,wgan_gp", "optimizer.lr=1e-4,2e-4", "seed=0", "callback=[log,tensorboard]", *SMALL
    )
    assert result.status == 0, result.stderr
    (sweep,) = (tmp_path / "outputs/multirun").glob("????-??-??/??-??-??")
    assert {path.name for path in sweep.iterdir() if path.is_dir()} == {"0", "1", "2", "3"}
    seen = set()
    multiplexer = plugin_event_multiplexer.EventMultiplexer().AddRunsFromDirectory(str(sweep))
    multiplexer.Reload()
    for run in sorted(path for path in sweep.iterdir() if path.is_dir()):
        record = json.loads((run / "run.json").read_text())
        assert record["status"] == "finished"
        contents = multiplexer.SummaryMetadata(f"{run.name}/tensorboard", "_hparams_/session_start_info")
        start = metadata.parse_session_start_info_plugin_data(contents.plugin_data.content)
        seen.add((start.hparams["model"].string_value, start.hparams["optimizer.lr"].number_value))
        assert start.hparams["seed"].number_value == 0
        typed = {
            "model",
            "optimizer.lr",
            "seed",
            "batch_size",
            "steps",
            "model.generator.width",
            "model.discriminator.width",
        }
        assert set(start.hparams) == typed | {"dataset"}
    assert seen == {("dcgan", 1e-4), ("dcgan", 2e-4), ("wgan_gp", 1e-4), ("wgan_gp", 2e-4)}


def test_refused_run_does_not_stop_the_others(gantrain, tmp_path: Path) -> None:
    result = gantrain("-m", "optimizer.lr=1e-4,-1,2e-4", *SMALL)
    assert result.status == 2
    assert "optimizer.lr=-1: a learning rate is a number above 0" in result.stderr
    assert "Traceback" not in result.stderr
    records = sorted((tmp_path / "outputs/multirun").glob("*/*/*/run.json"))
    assert [path.parent.name for path in records] == ["0", "2"]


def test_run_dir_sets_the_sweep_folder(gantrain, tmp_path: Path) -> None:
    assert gantrain("-m", "seed=0,1", *SMALL, "callback=[log]", "run_dir=mine").status == 0
    assert {path.parent.name for path in (tmp_path / "mine").glob("*/run.json")} == {"0", "1"}
    assert not (tmp_path / "outputs").exists()
