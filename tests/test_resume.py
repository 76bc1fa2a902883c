"""A run that is interrupted and resumed equals an uninterrupted one, bit by bit, in every file."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import adaptive
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from processes import ESTIMATE, OUTPUTS, SMALL, gantrain, on_call, server, start, work
from runs import assert_parts_acted, csv_rows, differences, file_bytes, run_contents, run_json

from gantrain.command.overrides import quote, value_of, with_saved_overrides
from gantrain.session import checkpoint

__all__ = ["gantrain", "server", "start", "work"]

EACH_STEP = "gantrain.callbacks.log:Log.__call__"
SIGTERM = "os.kill(os.getpid(), signal.SIGTERM)"
SIGKILL = "os.kill(os.getpid(), signal.SIGKILL)"

REGULARIZER = """
import torch
from gantrain.regularizers.base import Regularizer

class RunningMean(Regularizer):
    def __init__(self, *, decay: float):
        self.decay, self.mean = decay, torch.zeros(())

    def discriminator_penalty(self, critic, batch):
        self.mean.lerp_(batch.real_logits.mean().detach(), 1 - self.decay)
        return (batch.real_logits - self.mean.clone()).square().mean() + batch.real_logits.square().mean()

    def state_dict(self):
        return {"mean": self.mean}

    def load_state_dict(self, state):
        self.mean.copy_(state["mean"])
"""

CASES = {
    "dcgan": (
        *("ema_halflife_images=10", "metric=[fid]", "metric.fid.num_samples=40", "metric.fid.num_real=100"),
        *("evaluate_every=4", "checkpoint.best=fid_digits"),
    ),
    "wgan_gp": ("model=wgan_gp", "n_critic=2", *ESTIMATE),
    "wgan": ("model=wgan", "n_critic=2", *ESTIMATE, "critic_warmup={n_critic: 3, steps: 2, every: 4}"),
    "vanilla": (
        *("model=vanilla", "model.discriminator.dropout=0.5", "optimizer=adamw"),
        "regularizer=[input_noise,label_noise]",
    ),
    "lsgan": ("model=lsgan", "optimizer=sgd", "discriminator_optimizer=rmsprop"),
    "gaussian": (
        *("experiment=gaussian", "metric=[moments]", "evaluate_every=4"),
        "checkpoint.best=mean_error",
    ),
    "toy": ("experiment=toy", "n_critic=2", "sample_every=9", "ema_halflife_images=8"),
    "packing": (
        *("packing=2", "dataset=gaussians_8", "network=mlp", "loss=relativistic", "accumulate=2", "regularizer=[r1]"),
    ),
    "lazy": (
        *("network=cdcgan", "loss=relativistic", "model.discriminator.norm=none", "regularizer=[r1,lecam]"),
        *("regularizer.r1.every=4", "augment=[diffaugment]", "first=generator", "accumulate=2"),
    ),
    "schedules": (
        *("loss=ralsgan", "model.discriminator.norm=spectral", "regularizer=[r1]", "regularizer.r1.every=3"),
        *("augment=[diffaugment]", "ema_halflife_images=10", "schedule=[lr,betas,penalty,ema_halflife,augment]"),
        "schedule.penalty.of=[regularizer.r1.gamma]",
    ),
    "sagan": ("model=sagan", "regularizer=[dequantization]", "fake_labels=uniform", "generator_batch_multiple=2"),
    "r3gan": (
        *("model=r3gan", "network=r3gan_cond", "model.generator.num_blocks=1", "model.discriminator.num_blocks=1"),
        *("augment=[ada_r3gan]", "schedule=[r3gan_augment]"),
    ),
    "sngan": ("model=sngan", "schedule=[lr]", "regularizer=[dequantization]", "n_critic=2"),
    "wgan_gp_resnet": ("model=wgan_gp_resnet", "n_critic=2"),
    "cgan_pd": ("model=cgan_pd", "n_critic=2", "fake_labels=uniform"),
    "biggan": ("model=biggan", "n_critic=2", "model.generator.shared_dim=4", "ema_halflife_images=20"),
    "digits": ("experiment=digits", "metric=[]", "ema_halflife_images=20"),
    "stylegan2": (
        *("model=stylegan2_ada", "network=stylegan2_cond", "dataset.image_size=8", "latent.z_dim=8"),
        *("model.generator.w_dim=8", "model.discriminator.num_mapping_layers=1", "augment.ada.strength=0.3"),
        *("regularizer.r1.every=3", "regularizer.path_length.every=2", "fake_labels=empirical"),
    ),
    # p rises or falls by 4 % after every second step, in the middle between checkpoints.
    "ada": (
        *("augment=[ada]", "augment.ada.strength=0.3", "augment.ada.interval=2", "augment.ada.images_to_one=200"),
        *("model.discriminator.norm=none", "regularizer=[r1]", "dataset.holdout=0.01", "callback.overfitting.every=4"),
        "augment.ada.operations.filter=1.0",
    ),
    "lightweight": (
        *("model=lightweight", "dataset.image_size=32", "latent.z_dim=4", "accumulate=2"),
        *(f"model.{network}.num_heads=1" for network in ("generator", "discriminator")),
        *(f"model.{network}.head_dim=4" for network in ("generator", "discriminator")),
        *("regularizer=[r1,reconstruction,bcr]", "regularizer.r1.every=3"),
    ),
    "own": ("--config-dir", "my", "regularizer=[running_mean]", "augment=[adaptive]", "trust=[own,adaptive]"),
}


@pytest.fixture
def own_parts(start, work: Path) -> None:
    (work / "own.py").write_text(REGULARIZER)
    shutil.copy(adaptive.__file__, work)
    for group in ("regularizer", "augment"):
        (work / "my" / group).mkdir(parents=True)
    (work / "my/augment/adaptive.yaml").write_text("adaptive: {_target_: adaptive.Adaptive, decay: 0.8}\n")
    (work / "my/regularizer/running_mean.yaml").write_text("running_mean: {_target_: own.RunningMean, decay: 0.9}\n")


FAILURE = on_call(EACH_STEP, "raise OSError(5, 'Input/output error')", call=3)


SEVERAL = ("dcgan", "toy", "vanilla", "own")
"""Cases that are resumed several times, from every kind of ending; the others once."""


@pytest.mark.parametrize("case", SEVERAL)
@pytest.mark.usefixtures("own_parts")
def test_run_resumed_three_times_equals_uninterrupted_run(gantrain, work: Path, case: str) -> None:
    """The run finishes at step 5, is stopped at 8, fails at 11 between two checkpoints, and is resumed to the end."""
    command = (*SMALL, *OUTPUTS, *CASES[case])
    assert gantrain(*command, "steps=13", "run_dir=straight").status == 0

    run = work / "parts"
    if case == "vanilla":  # its noise depends on step / steps, so that `steps` may not change
        done = gantrain(*command, "steps=13", "run_dir=parts", before=on_call(EACH_STEP, SIGTERM, call=5))
        assert done.status == 143, done.stderr
    else:
        done = gantrain(*command, "steps=5", "run_dir=parts")
        assert (done.status, run_json(run)["status"]) == (0, "finished"), done.stderr
    done = gantrain(*command, "steps=13", "run_dir=parts", before=on_call(EACH_STEP, SIGTERM, call=3))
    assert (done.status, run_json(run)["status"], run_json(run)["steps"]) == (143, "stopped", 8), done.stderr
    resume = [argument for argument in command if argument.startswith(("--", "my", "trust"))]
    done = gantrain(*resume, "resume=parts", "steps=13", before=FAILURE)
    assert (done.status, run_json(run)["status"], run_json(run)["steps"]) == (1, "failed", 11), done.stderr
    assert checkpoint.paths(run)[-1].name == "step_00000009.pt"
    done = gantrain(*resume, "resume=parts", "runtime.num_workers=2")
    assert done.status == 0, done.stderr
    assert differences(work / "straight", run) == []
    assert_parts_acted(run)
    assert [event["event"] for event in run_json(run)["history"]] == ["resumed"] * 3


@pytest.mark.parametrize("case", [case for case in CASES if case not in SEVERAL])
def test_run_resumed_between_two_checkpoints_equals_uninterrupted_run(gantrain, work: Path, case: str) -> None:
    """The run fails at step 5, and is resumed from the checkpoint of step 3."""
    outputs = (
        "log_every=2",
        "checkpoint.every=3",
        "steps=9",
        "callback=[evaluate,overfitting,log,csv,checkpoint,tensorboard]",
    )
    command = (*SMALL, *outputs, *CASES[case])
    assert gantrain(*command, "run_dir=straight").status == 0
    run = work / "parts"
    done = gantrain(*command, "run_dir=parts", before=FAILURE.replace("== 3", "== 5"))
    assert (done.status, run_json(run)["status"], run_json(run)["steps"]) == (1, "failed", 5), done.stderr
    assert checkpoint.paths(run)[-1].name == "step_00000003.pt"
    done = gantrain("resume=parts")
    assert done.status == 0, done.stderr
    assert differences(work / "straight", run) == []
    assert_parts_acted(run)
    assert [event["event"] for event in run_json(run)["history"]] == ["resumed"]


@pytest.mark.parametrize(
    ("options", "following"),
    [
        (("schedule=[lr]", "regularizer=[input_noise]"), "schedule.lr, regularizer.input_noise follow the fraction"),
        (("schedule=[lr]", "schedule.lr.unit=images", "schedule.lr.finish=100"), None),
        ((), None),
    ],
)
def test_resume_with_other_steps_warns_of_settings_that_follow_them(
    gantrain, work: Path, options: tuple[str, ...], following: str | None
) -> None:
    command = (*SMALL, "callback=[log,checkpoint]", *options, "run_dir=out")
    assert gantrain(*command, "steps=2").status == 0
    done = gantrain(*command, "steps=4")
    assert done.status == 0, done.stderr
    assert ("steps has changed from 2 to 4: " in done.stderr) == (following is not None)
    assert (following or "") in done.stderr


def test_resume_with_another_num_workers_is_exact(gantrain, work: Path) -> None:
    draw = np.random.default_rng(0)
    (work / "photos").mkdir()
    for i in range(30):
        Image.fromarray(draw.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(work / f"photos/{i}.png")
    command = (*SMALL, *OUTPUTS, "dataset=image_folder", "dataset.root=photos", "dataset.image_size=16", "steps=9")
    assert gantrain(*command, "run_dir=straight", "runtime.num_workers=1", "dataset.cache_dir=one").status == 0
    # At step 8 the checkpoint of step 6 may still be in writing; that of step 3 is on disk.
    killed = gantrain(*command, "run_dir=parts", "runtime.num_workers=1", before=on_call(EACH_STEP, SIGKILL, call=8))
    assert killed.status == -9
    photo = Image.open(work / "photos/0.png").convert("RGB")
    photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(work / "photos/0.png")
    refused = gantrain(*command, "run_dir=parts", "runtime.num_workers=3")
    assert refused.status == 2
    assert "dataset: parts was trained on different data" in refused.stderr
    assert "allow_change=[dataset]" in refused.stderr
    photo.save(work / "photos/0.png")
    done = gantrain(*command, "run_dir=parts", "runtime.num_workers=3", "dataset.cache_dir=three")
    assert done.status == 0, done.stderr
    assert differences(work / "straight", work / "parts") == []


def test_changed_intervals_apply_from_the_resumed_step(gantrain, work: Path) -> None:
    assert gantrain(*SMALL, "log_every=1", "sample_every=1", "steps=14", "run_dir=straight").status == 0
    assert gantrain(*SMALL, "log_every=2", "sample_every=5", "steps=7", "run_dir=out").status == 0
    again = gantrain(*SMALL, "log_every=3", "sample_every=4", "steps=14", "run_dir=out")
    assert again.status == 0, again.stderr
    run, straight = run_contents(work / "out"), run_contents(work / "straight")
    assert [row["step"] for row in run["metrics.csv"]] == ["1", "2", "4", "6", "9", "12", "14"]
    by_step = {row["step"]: row for row in straight["metrics.csv"]}
    assert all(row == by_step[row["step"]] for row in run["metrics.csv"])
    grids = [name for name in run if name.startswith("samples/step_")]
    assert sorted(int(name[-12:-4]) for name in grids) == [0, 5, 8, 12, 14]
    assert all(run[name] == straight[name] for name in grids)
    assert Image.open(work / "out/samples.gif").n_frames == 5
    assert run["events"].items() <= straight["events"].items()
    assert {step for tag, step in run["events"] if tag == "loss/generator"} == {1, 2, 4, 6, 9, 12, 14}
    # Verdicts remember what was logged since their last check.
    saved = {name: value for name, value in run.items() if name.startswith("checkpoint") and "verdicts" not in name}
    assert all(value == straight[name] for name, value in saved.items())


@pytest.fixture(scope="module")
def finished(server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 4 steps, which tests must not change."""
    folder = tmp_path_factory.mktemp("finished")
    command = (*SMALL, *OUTPUTS, "steps=4", "run_dir=out")
    assert server.start(folder, command).wait().status == 0
    return folder / "out"


@pytest.fixture
def run(finished: Path, work: Path) -> Path:
    """A copy of a finished run of 4 steps."""
    return Path(shutil.copytree(finished, work / "out"))


@pytest.mark.parametrize(
    ("change", "lines", "allowance"),
    [
        ("optimizer.lr=1e-3", ["- optimizer.lr: 0.0002", "+ optimizer.lr: 0.001"], "optimizer.lr"),
        ("loss=minimax", ["NonSaturating", "Minimax"], "loss"),
        ("seed=3", ["- seed: 0", "+ seed: 3"], "seed"),
        ("batch_size=2", ["- batch_size: 4", "+ batch_size: 2"], "batch_size"),
    ],
)
def test_changed_training_config_is_refused_unless_allowed(
    gantrain, run: Path, change: str, lines: list[str], allowance: str
) -> None:
    before = file_bytes(run)
    command = (*SMALL, *OUTPUTS, "run_dir=out", "steps=6", change)
    refused = gantrain(*command)
    assert refused.status == 2
    assert all(line in refused.stderr for line in lines), refused.stderr
    assert f"'allow_change=[{allowance}]'" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert file_bytes(run) == before
    done = gantrain(*command, f"allow_change=[{allowance}]")
    assert done.status == 0, done.stderr
    assert run_json(run)["steps"] == 6
    changes = run_json(run)["history"][-1]["changes"]
    assert all(name.startswith(allowance) for name in changes)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("model.generator.width=3", "steps=6"), r"\+ model\.generator\.width: 3"),
        (("model.generator.width=3", "steps=6", "allow_change=[model]"), r"step_00000004\.pt does not fit"),
        (("dataset=image_folder", "dataset.root=nowhere", "steps=6"), r"\+ dataset\._target_[^']*'allow_change"),
        (("steps=3",), r"steps=3: the run in out has already done 4 steps; set steps to at least 4"),
        (("steps=6", "allow_change=[optimiser.lr]"), r"no such key.*optimizer\.lr"),
        (("steps=6", "resume=null"), r"runs are never overwritten"),
        (("steps=6", "resume=nowhere"), r"resume=nowhere: must be auto, null or the folder of a run"),
    ],
)  # fmt: skip
def test_impossible_resume_is_refused_with_a_message(
    gantrain, run: Path, arguments: tuple[str, ...], named: str
) -> None:
    before = file_bytes(run)
    folder = () if "resume=nowhere" in arguments else ("run_dir=out",)
    refused = gantrain(*SMALL, *OUTPUTS, *folder, *arguments)
    assert refused.status == 2
    assert re.search(named, refused.stderr), refused.stderr
    assert "Traceback" not in refused.stderr
    assert file_bytes(run) == before


def test_settings_that_do_not_affect_training_may_change_on_resume(gantrain, run: Path) -> None:
    changed = (
        "callback=[log,csv,checkpoint,samples]",
        "log_every=1",
        "checkpoint.keep=1",
        "runtime.device=cpu",
        "steps=6",
    )
    done = gantrain("resume=out", *changed)
    assert done.status == 0, done.stderr
    assert [row["step"] for row in csv_rows(run)] == ["1", "2", "4", "5", "6"]


def test_finished_run_is_left_unchanged(gantrain, run: Path) -> None:
    before = {path: (path.stat().st_mtime_ns, content) for path, content in read_all(run)}
    for command in (("resume=out",), (*SMALL, *OUTPUTS, "steps=4", "run_dir=out")):
        done = gantrain(*command)
        assert done.status == 0
        assert "out is finished (4 steps)" in done.stderr
    assert {path: (path.stat().st_mtime_ns, content) for path, content in read_all(run)} == before


def read_all(run: Path) -> list[tuple[Path, bytes]]:
    return [(path, path.read_bytes()) for path in run.rglob("*") if path.is_file() and path.name != "lock"]


def test_init_from_loads_only_the_weights(gantrain, run: Path, work: Path) -> None:
    # on_divergence=rollback saves the initial state, so that it can be compared.
    command = (*SMALL, *OUTPUTS, "steps=4", "on_divergence=rollback", "checkpoint.every=1", "checkpoint.keep=9")
    done = gantrain(*command, "init_from=out", "run_dir=new", "seed=8", "optimizer=rmsprop")
    assert done.status == 0, done.stderr
    source = checkpoint.find(run)[1]
    initial = checkpoint.read(work / "new/checkpoints/step_00000000.pt")
    for network in "GD":
        assert source[network].keys() == initial[network].keys()
        assert all(torch.equal(source[network][name], initial[network][name]) for name in source[network])
        assert initial[f"{network}_optimizer"]["state"] == {}
    assert (initial["step"], initial["batches_seen"]) == (0, 0)
    assert [row["step"] for row in csv_rows(work / "new")] == ["1", "2", "4"]
    # The new run resumes from its own checkpoints, even if the source has been deleted.
    shutil.rmtree(run)
    again = gantrain(*command, "init_from=out", "run_dir=new", "seed=8", "optimizer=rmsprop", "steps=5")
    assert again.status == 0, again.stderr
    refused = gantrain(*SMALL, "init_from=out", "run_dir=other", "steps=1")
    assert refused.status == 2
    assert "out" in refused.stderr


@pytest.mark.parametrize(("found", "age"), [(0, "an older"), (2, "a newer")])
def test_checkpoint_in_another_format_is_refused(gantrain, run: Path, found: int, age: str) -> None:
    for path in checkpoint.paths(run):
        checkpoint.write(path, checkpoint.read(path) | {"format": found, "version": "9.9"})
    refused = gantrain("resume=out", "steps=6")
    assert refused.status == 2
    assert f"was written by gantrain 9.9 in {age} format" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("case", ["dcgan", "wgan_gp"])
def test_run_saved_before_newer_options_existed_resumes_exactly(gantrain, work: Path, case: str) -> None:
    """Its config and checkpoints lack what conditional GANs, schedules and augmentations have added."""
    added = ("augment", "schedule", "accumulate", "first", "generator_batch_multiple", "fake_labels", "packing")
    added += ("ema_rampup", "labels")

    def earlier(config: dict[str, Any]) -> dict[str, Any]:
        config = {key: value for key, value in config.items() if key not in added}
        config["callback"] = {
            name: {key: value for key, value in part.items() if key not in ("every", "keep", "keep_every", "best")}
            for name, part in config["callback"].items()
        }
        del config["runtime"]["spin"]
        return config

    command = (*SMALL, *OUTPUTS, *CASES[case])
    assert gantrain(*command, "steps=6", "run_dir=straight").status == 0
    assert gantrain(*command, "steps=3", "run_dir=parts").status == 0
    path = work / "parts/.hydra/config.yaml"
    config = yaml.safe_load(path.read_text())
    assert config.keys() >= {*added}
    path.write_text(yaml.safe_dump(earlier(config)))
    for path in checkpoint.paths(work / "parts"):
        content = checkpoint.read(path)
        content["config"] = earlier(content["config"])
        for key in ("augment", "lazy_logs", "intervals", "class_counts"):
            del content[key]
        checkpoint.write(path, content)
    resumed = gantrain("resume=parts", "steps=6")
    assert resumed.status == 0, resumed.stderr
    assert differences(work / "straight", work / "parts") == []


def test_repeated_sweep_command_resumes_each_run(gantrain, work: Path) -> None:
    command = ("-m", *SMALL, *OUTPUTS, "callback=[log,samples,checkpoint,csv,tensorboard]", "seed=1,2", "run_dir=sweep")
    assert gantrain(*command, "steps=4").status == 0
    done = gantrain(*command, "steps=7")
    assert done.status == 0, done.stderr
    for number, seed in enumerate((1, 2)):
        straight = (*command[1:-2], f"seed={seed}", "steps=7", f"run_dir=straight{seed}")
        assert gantrain(*straight).status == 0
        assert differences(work / f"straight{seed}", work / f"sweep/{number}") == []
    refused = gantrain("-m", "resume=sweep/0", "steps=9")
    assert refused.status == 2
    assert "resume= names a single run" in refused.stderr


def test_saved_options_of_a_replaced_part_are_dropped(gantrain, work: Path) -> None:
    first = gantrain(*SMALL, "steps=3", "callback.samples.num=4", "optimizer.betas=[0.1,0.9]", "run_dir=run")
    assert first.status == 0, first.stderr
    other = gantrain(
        "resume=run", "steps=5", "callback=[log,csv,checkpoint]", "optimizer=sgd", "allow_change=[optimizer]"
    )
    assert other.status == 0, other.stderr
    assert "The type of G's optimizer has changed: it starts without moments." in other.stderr
    assert csv_rows(work / "run")[-1]["step"] == "5"


@pytest.mark.parametrize(
    "name",
    ["metrics.csv", "run.json", "gantrain.log", "samples/step_00000000.png", ".hydra/config.yaml", "checkpoints"],
)
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("elsewhere")], ids=["pipe", "link"])
def test_run_folder_with_pipes_or_links_is_refused(
    gantrain, run: Path, name: str, make: Callable[[Path], None]
) -> None:
    path = run / name
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    make(path)
    result = gantrain(f"resume={run}", "steps=20")
    assert result.status == 2
    assert f"{name} is a link" in result.stderr or f"{name} cannot be read" in result.stderr, result.stderr
    assert not (run.parent / "elsewhere").exists()


@pytest.mark.parametrize(
    "name", ["run", "my run", "it's", "back\\slash", "ends\\", "a\\'b", "ünï", "a=b,c", "$x {y}", "~", "1e5"]
)
def test_quoted_values_are_parsed_back_unchanged(name: str) -> None:
    assert value_of(f"resume={quote(name)}") == name


def test_flags_saved_in_a_run_folder_are_ignored(tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra/config.yaml").write_text("seed: 0\n")
    saved = [
        "--config-dir=evil",
        "-m",
        "hydra.run.dir=/",
        "hydra/launcher=x",
        "trust=[os]",
        "task=sample",
        "seed=3",
        "run_dir=/x",
    ]
    (tmp_path / ".hydra/overrides.yaml").write_text("\n".join(f"- '{override}'" for override in saved))
    assert with_saved_overrides([f"resume={tmp_path}"]) == ["seed=3", f"resume={tmp_path}", f"run_dir={tmp_path}"]


def test_finished_run_without_checkpoints_is_refused(gantrain, run: Path, work: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    before = file_bytes(run)
    again = gantrain(f"resume={run}")
    assert again.status == 2
    assert "holds a run (run.json: finished, step" in again.stderr
    assert file_bytes(run) == before
    quiet = (*SMALL, "callback=[log,csv]", "steps=4", "run_dir=quiet")
    assert gantrain(*quiet).status == 0
    before = file_bytes(work / "quiet")
    assert gantrain(*quiet).status == 2
    assert file_bytes(work / "quiet") == before


def test_attempts_killed_before_their_first_checkpoint_have_no_effect(gantrain, work: Path) -> None:
    command = (*SMALL, "log_every=2", "sample_every=2", "checkpoint.every=4", "steps=12", "run_dir=run")
    assert gantrain(*command, before=on_call(EACH_STEP, SIGTERM, call=4)).status == 143
    # Change intervals and batch size, and kill the run before its first checkpoint, twice.
    changed = ("resume=run", "log_every=3", "sample_every=3", "batch_size=2", "allow_change=[batch_size]")
    for _ in range(2):
        assert gantrain(*changed, before=on_call(EACH_STEP, SIGKILL, call=2)).status == -9
        rows = [row["step"] for row in csv_rows(work / "run") if int(row["step"]) <= 4]
        assert rows == ["1", "2", "4"]
        assert (work / "run/samples/step_00000004.png").exists()
    assert gantrain(*changed).status == 0
    assert [int(row["images"]) for row in csv_rows(work / "run")] == [4, 8, 16, 20, 26, 32]
    assert [row["step"] for row in csv_rows(work / "run")] == ["1", "2", "4", "6", "9", "12"]


OWN_CALLBACK = """
import numpy as np
import torch
from gantrain.callbacks.base import Callback

class Counter(Callback):
    order = -1

    def __init__(self, *, by: int):
        self.by, self.count = by, 0

    def __call__(self, state, observations):
        self.count += self.by
        if state.step % 5 == 0:
            observations[f"count/{self.name}"] = np.float64(self.count)

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]

class Unsaveable(Counter):
    def state_dict(self):
        return {"count": np.float64(self.count)}
"""


@pytest.fixture
def own_callbacks(start, work: Path) -> None:
    (work / "own.py").write_text(OWN_CALLBACK)
    (work / "my/callback").mkdir(parents=True)
    for name, kind, by in (("one", "Counter", 1), ("ten", "Counter", 10), ("unsaveable", "Unsaveable", 1)):
        (work / f"my/callback/{name}.yaml").write_text(f"{name}: {{_target_: own.{kind}, by: {by}}}\n")


def test_state_of_own_callbacks_is_restored(own_callbacks, gantrain, work: Path) -> None:
    command = (*SMALL, "--config-dir", "my", "trust=[own]", "callback=[log,csv,checkpoint,one,ten]", "run_dir=run")
    command = (*command, "steps=12", "checkpoint.every=5", "log_every=50")
    assert gantrain(*command, before=on_call(EACH_STEP, SIGKILL, call=8)).status == -9
    assert gantrain(*command).status == 0
    counts = {row["step"]: (row["count/one"], row["count/ten"]) for row in csv_rows(work / "run")}
    assert counts == {"1": ("", ""), "5": ("5.0", "50.0"), "10": ("10.0", "100.0"), "12": ("", "")}


def test_state_that_cannot_be_saved_is_refused_before_step_1(own_callbacks, gantrain, work: Path) -> None:
    result = gantrain(*SMALL, "--config-dir", "my", "trust=[own]", "callback=[log,checkpoint,unsaveable]", "steps=4")
    assert result.status == 2
    assert "callbacks.unsaveable.count is a numpy.float64, which a checkpoint cannot hold" in result.stderr


def test_adafactor_run_resumes(gantrain, work: Path) -> None:
    adafactor = (
        *SMALL,
        "optimizer._target_=torch.optim.Adafactor",
        "~optimizer.betas",
        "~optimizer.fused",
        "run_dir=run",
    )
    assert gantrain(*adafactor, "steps=3").status == 0
    assert gantrain(*adafactor, "steps=5").status == 0
    assert csv_rows(work / "run")[-1]["step"] == "5"


def test_damaged_image_is_left_out_of_the_animation(gantrain, work: Path) -> None:
    command = (*SMALL, "sample_every=2", "run_dir=run")
    assert gantrain(*command, "steps=4").status == 0
    picture = work / "run/samples/step_00000002.png"
    picture.write_bytes(picture.read_bytes()[:100])
    result = gantrain(*command, "steps=6")
    assert result.status == 0, result.stderr
    assert "step_00000002.png is damaged" in result.stderr
    assert Image.open(work / "run/samples.gif").n_frames == 3


def test_divergence_is_detected_at_the_end_without_callbacks(gantrain, work: Path) -> None:
    result = gantrain(*SMALL, "callback=[]", "optimizer=sgd", "optimizer.lr=1e30", "steps=4", "run_dir=run")
    assert result.status == 3
    assert run_json(work / "run")["status"] == "diverged"
    assert "Resume from the last checkpoint" not in result.stderr
