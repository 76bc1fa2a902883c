"""Files, output and exit status of a run, on which people and scripts rely."""

import csv
import json
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SMALL = ("model=dcgan", "model.generator.width=2", "model.discriminator.width=2", "batch_size=4", "metric=[]")
SCALARS = {
    "loss/discriminator",
    "loss/generator",
    "wasserstein/estimate",
    "logits/real",
    "logits/fake",
    "gradient_norm/generator",
    "gradient_norm/discriminator",
    "learning_rate/generator",
    "learning_rate/discriminator",
    "throughput/images_per_second",
}

ESTIMATE = {f"wasserstein/{name}" for name in ("train", "more_trained", "lipschitz", "normalized", "reliable")}
"""With a Wasserstein loss, every 500 steps and at the last step."""


def csv_rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def events(run: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    return accumulator.Reload()


def run_json(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())


def test_contents_of_a_run_folder(gantrain, tmp_path: Path) -> None:
    result = gantrain(
        "model=wgan_gp",
        *SMALL,
        "n_critic=2",
        "steps=6",
        "log_every=2",
        "sample_every=3",
        "checkpoint.every=2",
        "checkpoint.keep=2",
        "ema_halflife_images=10",
    )
    assert result.status == 0, result.stderr
    (run,) = (tmp_path / "outputs").glob("????-??-??/??-??-??")

    assert {path.name for path in run.iterdir()} == {
        ".hydra", "run.json", "metrics.csv", "tensorboard", "samples", "samples.gif", "curves.png", "checkpoints",
    }  # fmt: skip
    names = {path.name for path in (run / "samples").glob("step_*.png")}
    assert names == {"step_00000000.png", "step_00000003.png", "step_00000006.png"}
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"step_00000004.pt", "step_00000006.pt"}
    assert Image.open(run / "samples.gif").n_frames == 3
    assert Image.open(run / "curves.png").size[0] > 300

    config = OmegaConf.load(run / ".hydra/config.yaml")
    assert (config.n_critic, config.steps, config.epochs, config.model.generator.width) == (2, 6, None, 2)
    assert config.run_dir == str(run.relative_to(tmp_path))

    logged = csv_rows(run)
    assert [row["step"] for row in logged] == ["1", "2", "4", "6"]
    assert [row["images"] for row in logged] == ["8", "16", "32", "48"]
    assert set(logged[0]) == {"step", "images", "seconds", "penalty/gradient_penalty", *SCALARS, *ESTIMATE}
    assert [[bool(row[tag]) for tag in ESTIMATE] for row in logged] == [[False] * 5] * 3 + [[True] * 5]
    for row in logged:
        gap = float(row["logits/real"]) - float(row["logits/fake"])
        assert float(row["wasserstein/estimate"]) == pytest.approx(gap, abs=1e-6)
        assert float(row["loss/discriminator"]) == pytest.approx(-gap, abs=1e-6)  # without the penalty
        assert float(row["penalty/gradient_penalty"]) > 0

    board = events(run)
    assert set(board.Tags()["scalars"]) >= SCALARS | {"penalty/gradient_penalty"}
    assert set(board.Tags()["images"]) == {"samples/fixed", "samples/real"}
    assert [event.step for event in board.Images("samples/fixed")] == [0, 3, 6]
    for tag in SCALARS:
        points = {event.step: event.value for event in board.Scalars(tag)}
        assert points == pytest.approx({int(row["step"]): float(row[tag]) for row in logged}, rel=1e-5)

    saved = run_json(run)
    assert (saved["name"], saved["status"], saved["device"], saved["precision"]) == (
        "wgan_gp-digits",
        "finished",
        "cpu",
        "float32",
    )
    assert (saved["seed"], saved["steps"], saved["images_seen"]) == (0, 6, 48)
    assert saved["dataset"]["num_images"] == 10_000
    assert saved["dataset"]["image_shape"] == [1, 28, 28]
    assert len(saved["dataset"]["fingerprint"]) == 64
    assert set(saved["versions"]) == {"gantrain", "python", "torch", "torchvision", "cuda", "driver"}
    assert saved["versions"]["torch"] == torch.__version__
    assert saved["command"][1] == "model=wgan_gp"
    assert saved["images_per_second"] == pytest.approx(48 / saved["wall_seconds"])
    assert 0 < saved["wall_seconds"] < 120
    assert saved["metrics"]["last"]["loss/generator"] == pytest.approx(float(logged[-1]["loss/generator"]))
    assert datetime.fromisoformat(saved["started"]).utcoffset().total_seconds() == 0
    assert saved["started"] <= saved["ended"]

    content = torch.load(run / "checkpoints/step_00000006.pt", weights_only=True)
    assert content["step"] == 6
    assert content["batches_seen"] == 12
    counted = sum(content["G"][name].numel() for name in content["G"] if "running" not in name and "num_" not in name)
    assert saved["parameters"]["generator"] == counted
    assert not torch.equal(content["G"]["layers.0.weight"], content["G_ema"]["layers.0.weight"])


def test_summary_is_printed_at_the_start_and_paths_at_the_end(gantrain, tmp_path: Path) -> None:
    result = gantrain("model=wgan_gp", *SMALL, "steps=2")
    text = result.stderr
    assert text.index("10,000 images, 1x28x28, 10 classes (labels are not used)") < text.index("step 2/2")
    for stated in (
        "parameters",
        "wasserstein",
        "gradient_penalty (weight 10)",
        "Adam lr 0.0001 betas (0.0, 0.9)",
        "cpu",
        "batch 4",
    ):
        assert stated in text
    (run,) = (tmp_path / "outputs").glob("*/*")
    assert f"tensorboard --logdir {run.relative_to(tmp_path)}" in text
    assert f"gantrain task=sample run={run.relative_to(tmp_path)}" in text
    assert result.stdout == ""


def test_the_same_seed_gives_the_same_weights_in_two_processes(command, gantrain, tmp_path: Path) -> None:
    typed = ("model=wgan_gp", *SMALL, "callback=[checkpoint]", "n_critic=2", "steps=5")
    for run, name, seed in ((gantrain, "a", 5), (command, "b", 5), (gantrain, "c", 6)):
        done = run(*typed, f"seed={seed}", f"run_dir={name}")
        assert done.status == 0, done.stderr
    states = {n: torch.load(tmp_path / n / "checkpoints/step_00000005.pt", weights_only=True) for n in "abc"}
    for player in "GD":
        for tensor in states["a"][player]:
            torch.testing.assert_close(states["a"][player][tensor], states["b"][player][tensor], rtol=0, atol=0)
    assert not torch.equal(states["a"]["G"]["layers.0.weight"], states["c"]["G"]["layers.0.weight"])


def test_one_dimensional_data_log_mean_std_histogram_and_density(gantrain, tmp_path: Path) -> None:
    result = gantrain("experiment=gaussian", "steps=20", "evaluate_every=10", "sample_every=10", "run_dir=out")
    assert result.status == 0, result.stderr
    run = tmp_path / "out"
    logged = {int(row["step"]): row for row in csv_rows(run)}
    assert {1, 10, 20} == set(logged)
    assert -10 < float(logged[20]["metric/mean"]) < 10
    assert 0 < float(logged[20]["metric/std"]) < 10
    assert logged[1]["metric/mean"] == ""
    assert "samples/distribution" in events(run).Tags()["histograms"]
    assert run_json(run)["parameters"] == {"generator": 1121, "discriminator": 449}
    assert run_json(run)["dataset"]["num_images"] is None
    assert run_json(run)["name"] == "gaussian"
    assert Image.open(run / "samples/step_00000020.png").size[0] > 300


def test_two_dimensional_data_log_a_scatter_plot(gantrain, tmp_path: Path) -> None:
    for dataset in ("gaussians_8", "gaussians_25", "swiss_roll"):
        result = gantrain("experiment=toy", f"dataset={dataset}", *SMALL, "steps=2", "n_critic=1", f"run_dir={dataset}")
        assert result.status == 0, result.stderr
        assert Image.open(tmp_path / dataset / "samples/step_00000002.png").size[0] > 300
        assert {"samples/distribution_0", "samples/distribution_1"} <= set(
            events(tmp_path / dataset).Tags()["histograms"]
        )


def test_epochs_are_passes_over_the_data(gantrain, tmp_path: Path) -> None:
    arguments = ("model=dcgan", "callback=[log]", "model.generator.width=1", "model.discriminator.width=1")
    assert gantrain(*arguments, "epochs=2", "batch_size=1000", "run_dir=a").status == 0
    assert run_json(tmp_path / "a")["steps"] == 20
    assert gantrain(*arguments, "epochs=1", "batch_size=1000", "n_critic=3", "run_dir=b").status == 0
    assert run_json(tmp_path / "b")["steps"] == 4  # ten batches, three per step
    assert gantrain(*arguments, "experiment=gaussian", "steps=3", "run_dir=c").status == 0
    assert run_json(tmp_path / "c")["steps"] == 3


@pytest.mark.parametrize("signum", [signal.SIGINT])  # others: tests/faults/test_signals.py
def test_signal_saves_a_checkpoint_and_sets_the_exit_status(tmp_path: Path, signum: signal.Signals) -> None:
    run = tmp_path / "out"
    arguments = [*SMALL, "steps=1000000", "log_every=1", f"run_dir={run}"]
    process = subprocess.Popen([sys.executable, "-m", "gantrain", *arguments], cwd=tmp_path, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not (run / "metrics.csv").is_file() or len(csv_rows(run)) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signum)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + signum
    assert b"Traceback" not in stderr
    assert run_json(run)["status"] == "stopped"
    step = run_json(run)["steps"]
    assert step >= 3
    assert torch.load(run / f"checkpoints/step_{step:08d}.pt", weights_only=True)["step"] == step


def test_divergence_is_named_and_exits_with_3(gantrain, tmp_path: Path) -> None:
    result = gantrain(
        "model=wgan",
        "optimizer=sgd",
        "optimizer.lr=1e30",
        "regularizer=[]",
        *SMALL,
        "steps=50",
        "log_every=1",
        "run_dir=out",
    )
    assert result.status == 3
    assert "the training has diverged" in result.stderr
    assert "Traceback" not in result.stderr
    assert run_json(tmp_path / "out")["status"] == "diverged"
    assert list((tmp_path / "out/checkpoints").iterdir()) == []


def test_an_error_during_the_run_is_recorded(gantrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gantrain.callbacks.samples import Samples

    def break_down(self: Samples, state: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Samples, "show", break_down)
    result = gantrain(*SMALL, "steps=2", "run_dir=out")
    assert result.status == 1
    assert "gantrain: The disk is full" in result.stderr
    assert run_json(tmp_path / "out")["status"] == "failed"
    assert "The disk is full" in run_json(tmp_path / "out")["error"]


def test_critic_warmup_can_be_set_on_the_command_line(gantrain, tmp_path: Path) -> None:
    arguments = (*SMALL, "steps=3", "callback=[log]")
    for name, warmup, batches in (
        ("none", "critic_warmup=null", 3),
        ("key", "critic_warmup.steps=1", 102),
        ("mapping", "critic_warmup={n_critic: 4, steps: 0, every: 2}", 9),
    ):
        result = gantrain(*arguments, warmup, f"run_dir={name}")
        assert result.status == 0, result.stderr
        assert run_json(tmp_path / name)["images_seen"] == 4 * batches
