"""Wrong input: exit status 2, a message that names value, rule and remedy, no traceback, no files left."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hydra.errors import InstantiationException, MissingConfigException
from hydra.utils import get_object
from PIL import Image

from gantrain import files
from gantrain.command.explain import explain
from gantrain.errors import ConfigError, DataError

QUICK = ("callback=[log]", "steps=1", "batch_size=2")

MISTAKES = {
    "stpes=5": "stpes: there is no such key or group. Did you mean steps?",
    "modl=dcgan": "modl: there is no such key or group. Did you mean model?",
    "optimizer.lrr=1": "optimizer.lrr: there is no such key or group. Did you mean optimizer.lr?",
    "model.generator.widht=3": "Did you mean model.generator.width?",
    "lr=1e-3": "lr: there is no such key or group. Did you mean optimizer.lr?",
    "model=dcgann": "model=dcgann: no such option. Did you mean dcgan? The options are biggan, cgan_pd, dcgan, ",
    "dataset=cifar": "dataset=cifar: no such option. Did you mean cifar10?",
    "regularizer=[gradient_penality]": "Did you mean gradient_penalty?",
    "experiment=gausian": "Did you mean gaussian?",
    "steps=abc": "steps=abc: must be a whole number",
    "batch_size=1.5": "batch_size=1.5: must be a whole number",
    "epochs=ten": "epochs=ten: must be a number",
    "steps=0": "steps=0: must be at least 1",
    "n_critic=0": "n_critic=0: must be at least 1",
    "batch_size=0": "batch_size=0: must be at least 1",
    "epochs=-1": "epochs=-1.0: must be a number above 0",
    "epochs=nan": "epochs=nan: must be a number above 0",
    "log_every=0": "log_every=0: must be at least 1",
    "sample_every=0": "sample_every=0: must be at least 1",
    "checkpoint.keep=0": "checkpoint.keep=0: must be at least 1",
    "hydra.run.dir=mine": "run_dir=... chooses the folder, and never overwrites a run",
    "optimizer.lr=-1": "optimizer.lr=-1: a learning rate is a number above 0",
    "optimizer.lr=abc": "optimizer.lr=abc: a learning rate is a number above 0",
    "optimizer.lr=nan": "optimizer.lr=nan: a learning rate is a number above 0",
    "optimizer.betas=[0.5,1.5]": "optimizer.betas=[0.5, 1.5]: Adam's betas are two numbers in [0, 1)",
    "optimizer.betas=[0.5]": "optimizer.betas=[0.5]: Adam's betas are two numbers",
    "discriminator_optimizer.lr=0": "discriminator_optimizer.lr=0: a learning rate is a number above 0",
    "model.generator.width=0": "width=0: a layer needs at least one channel",
    "model.generator.width=true": "model.generator.width=True has the wrong type; Generator takes int",
    "model.generator.norm=bacth": "Generator takes one of batch, instance, layer, spectral, none",
    "latent.z_dim=0": "z_dim=0: the latent needs at least one dimension",
    "runtime.device=cuda:99": "use runtime.device=cpu or runtime.device=auto",
    "runtime.device=gpu": "use runtime.device=cpu or runtime.device=auto",
    "dataset.image_size=30": "DCGAN needs images with a side of 16 to 256 pixels, a multiple of 4, but it is 30; try",
    "runtime.num_workers=0": "runtime.num_workers=0: must be at least 1",
    "runtime.num_workers=1.5": "runtime.num_workers=1.5: must be a whole number",
    "run=somewhere": "run=somewhere has an effect only with task=sample",
    "model=dcgan allow=[everything]": "allow=[everything]: this config has no such combination; leave it out",
    "foo=[1": "An override is key=value",
    "run_dir=/dev/null/x": "run_dir=/dev/null/x cannot be created",
    "dataset=image_folder": "dataset.root is not set",
    "dataset=gaussian epochs=3": "sampled afresh for every batch, so it has no epochs; set steps instead",
    "dataset=gaussian network=mlp augment=[diffaugment]": "augment=[diffaugment] is for images, but the samples of",
    "dataset=gaussian network=mlp horizontal_flip=true": "horizontal_flip=true: the samples of gaussian are vectors",
    "dataset=gaussian network=dcgan": "DCGAN needs square images, but the data has shape (1,)",
    "steps=3 epochs=3": "steps=3 and epochs=3.0 exclude each other; leave one out",
    "model=wgan_gp network=dcgan": "allow=[gradient_penalty_with_batch_norm]",
    "optimizer=rmsprop +optimizer.betas=[0,0.9]": "optimizer.betas is not an option of RMSprop, which takes",
    "task=sample": "run is not set: task=sample needs run and output",
    "task=sample run=nowhere output=x.npz": "run=nowhere is not the folder of a run",
    "task=sample run=nowhere output=x.txt": "must end in .npz (an array), .png (a grid) or / (a folder",
    "+foo=1": "foo: there is no such key; leave it out.",
    "++sede=1": "sede: there is no such key; leave it out. Did you mean seed?",
    "+runtime.devise=cpu": "there is no such key; leave it out. Did you mean runtime.device?",
    "+checkpoint.evry=1": "there is no such key; leave it out. Did you mean checkpoint.every?",
    "+critic_warmup.foo=1": "critic_warmup.foo: there is no such key",
    "+model.genrator.width=1": "there is no such key; leave it out. Did you mean model.generator?",
    "+regularizer.gradient_penalti.weight=1": "regularizer=[r1,r2] has no gradient_penalti; add it to the list",
    "+seed=1": "+seed: the key already exists; leave out the +",
    "model=dcgan ~epochs": "~epochs: every run needs this key",
    "~epochs": "~epochs: it is null already; leave this out.",
    "~model.generator": "~model.generator: every run needs this key",
    "~regularizer": "~regularizer: a list cannot be removed; empty it with regularizer=[]",
    "regularizer=null": "regularizer=null: must be a list; for an empty one, write regularizer=[]",
    "optimizer=null": "optimizer=null: must be one option; leave it out, or choose one of adam, ",
    "dataset=null": "dataset=null: must be one option",
    "model=null": "model=null: must be one option",
    "loss=[lsgan]": "loss=[lsgan]: must be one option",
    "-m loss=lsgan,null": "loss=lsgan,null: must be one option",
    "seed=null": "seed=null: must have a value",
    "seed=0,1": "seed=0,1: values separated by commas are a sweep: add -m; a list is 'seed=[0,1]'",
    "model=dcgan,wgan": "values separated by commas are a sweep: add -m",
    "seed=~/x": "/x: must be a whole number, and ",
    "run_dir=~nobody_here/x": "the home folder of ~nobody_here is not known; write the whole path",
    "näm=x": "näm=x cannot be read. An override is key=value",
    "run_dir=": "run_dir=: every run needs a folder; name one",
    "run_dir=null": "run_dir=null: every run needs a folder; name one",
    "optimizer.weight_decay=0.1": "If the class has such an option, add it with +: +optimizer.weight_decay=0.1",
    "optimzer.lr=1": "optimzer.lr: there is no such key or group. Did you mean optimizer.lr?",
    "-m task=sample run=a output=x.npz,y.npz": "-m: only task=train can be swept; run the command once",
    "task=sample run=nowhere output=x.npz model=wgan": "model=wgan: task=sample loads the networks of the run",
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_is_named_with_its_remedy(gantrain, tmp_path: Path, typed: str) -> None:
    given = typed.split()
    keys = {override.split("=")[0] for override in given}
    quick = [q for q in QUICK if q.split("=")[0] not in keys and not ("epochs" in keys and "steps" in q)]
    result = gantrain(*given, *(quick if "task=sample" not in given else ()))
    assert result.status == 2
    assert MISTAKES[typed] in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert left == []


@pytest.mark.parametrize(
    ("typed", "error"), [("stpes=5", "ConfigCompositionException"), ("batch_size=0", "gantrain.errors.ConfigError")]
)
def test_the_traceback_is_shown_on_request(
    command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, typed: str, error: str
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    result = command(typed)
    assert result.status == 2
    assert "Traceback" in result.stderr
    assert error in result.stderr
    assert re.search(rf"^gantrain: {typed[:5]}", result.stderr, re.M)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_double_plus_sets_an_option_of_an_absent_part(gantrain) -> None:
    assert gantrain("++regularizer.gradient_penalty.weight=1", "steps=1", "batch_size=2", "callback=[log]").status == 0


def test_a_config_that_is_not_yaml_is_named_with_its_line(gantrain, tmp_path: Path) -> None:
    (tmp_path / "my/loss").mkdir(parents=True)
    (tmp_path / "my/loss/mine.yaml").write_text("_target_: mine.Loss\nmargin: [1\nother: {\n")
    result = gantrain("--config-dir", "my", "loss=mine", *QUICK)
    assert result.status == 2
    assert "my/loss/mine.yaml, line 3" in result.stderr
    assert "Traceback" not in result.stderr
    misspelt = gantrain("--config-dir", "my", "loss=mien", *QUICK)
    assert "Did you mean mine?" in misspelt.stderr


def test_unexpected_errors_are_not_reported_as_config_errors() -> None:
    failure = InstantiationException("Error in call to target")
    failure.__cause__ = OSError("disk")
    assert explain(failure, []) is None
    failure.__cause__ = DataError("broken")
    assert explain(failure, []) is failure.__cause__


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit(143), ConfigError("wrong")])
@pytest.mark.parametrize("sweep", [(), ("-m",)])
def test_exit_before_step_1_leaves_no_files(
    gantrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: BaseException, sweep: tuple[str, ...]
) -> None:
    def end(*_: object) -> None:
        raise ending

    monkeypatch.setattr("gantrain.assemble.build_dataset", end)
    assert gantrain(*sweep, *QUICK).status in (2, 130, 143)
    assert [path.name for path in tmp_path.rglob("*")] == ["outputs"]

    (tmp_path / "job/.hydra").mkdir(parents=True)  # an existing folder is never removed
    (tmp_path / "slurm").mkdir()
    for folder in ("job", "slurm"):
        gantrain(f"run_dir={folder}", *QUICK)
        assert (tmp_path / folder).is_dir()
    gantrain("task=sample")
    assert tmp_path.is_dir()


def test_sigterm_at_startup_leaves_no_files(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n")
    done = subprocess.run(
        [sys.executable, "-m", "gantrain", "loss={_target_: slow.Loss}", "trust=[slow]"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 143, done.stderr
    assert "Traceback" not in done.stderr
    assert not any(path.is_file() for path in (tmp_path / "outputs").rglob("*"))


def test_failed_download_names_the_missing_files(gantrain, monkeypatch: pytest.MonkeyPatch) -> None:
    import urllib.error

    def unreachable(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    for dataset, wanted in (
        ("mnist", "train-images-idx3-ubyte"),
        ("fashion_mnist", "train-images-idx3-ubyte"),
        ("cifar10", "data_batch_1"),
        ("celeba", "img_align_celeba"),
    ):
        result = gantrain(f"dataset={dataset}", "dataset.root=nowhere", *QUICK)
        assert result.status == 2
        assert wanted in result.stderr
        assert "nowhere" in result.stderr
        assert "Traceback" not in result.stderr


def test_unusable_image_folders_are_named(gantrain, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    arguments = ("dataset=image_folder", f"dataset.root={folder}", "dataset.image_size=16", *QUICK)
    missing = gantrain(*arguments)
    assert missing.status == 2
    assert str(folder) in missing.stderr

    folder.mkdir()
    empty = gantrain(*arguments)
    assert empty.status == 2
    assert "empty" in empty.stderr

    (folder / "notes.txt").write_text("no picture")
    without = gantrain(*arguments)
    assert without.status == 2
    assert ".txt" in without.stderr

    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(folder / "good.jpg")
    (folder / "broken.jpg").write_bytes((folder / "good.jpg").read_bytes()[:200])
    broken = gantrain(*arguments)
    assert broken.status == 2
    assert "broken.jpg" in broken.stderr
    assert "max_bad_fraction" in broken.stderr
    allowed = gantrain(*arguments, "dataset.max_bad_fraction=0.5")
    assert allowed.status == 0
    assert "broken.jpg" in allowed.stderr


def test_too_little_disk_space_is_refused_before_step_1(gantrain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "free_bytes", lambda _: 1_000_000)
    result = gantrain("callback=[checkpoint,log]", "steps=1", "batch_size=2")
    assert result.status == 2
    assert "has only 1 MB free" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_run_is_never_overwritten(gantrain, tmp_path: Path) -> None:
    first = gantrain("run_dir=mine", *QUICK)
    assert first.status == 0
    before = {path: path.read_bytes() for path in (tmp_path / "mine").rglob("*") if path.is_file()}
    second = gantrain("run_dir=mine", "seed=1", *QUICK)
    assert second.status == 2
    assert "- seed: 0\n  + seed: 1" in second.stderr
    assert {path: path.read_bytes() for path in (tmp_path / "mine").rglob("*") if path.is_file()} == before


def test_runs_started_in_the_same_second_get_different_folders(gantrain, tmp_path: Path) -> None:
    now = datetime.now()
    for seconds in range(60):
        (tmp_path / f"{now + timedelta(seconds=seconds):outputs/%Y-%m-%d/%H-%M-%S}").mkdir(parents=True)
    assert gantrain(*QUICK).status == 0
    (run,) = tmp_path.glob("outputs/*/*-2/run.json")
    assert not any(run.parent.with_name(run.parent.name.removesuffix("-2")).iterdir())


def test_existing_folder_without_a_run_is_used(gantrain, tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    (tmp_path / "job/slurm.log").write_text("started")
    assert gantrain("run_dir=job", *QUICK).status == 0
    assert (tmp_path / "job/run.json").is_file()
    assert (tmp_path / "job/slurm.log").read_text() == "started"


def test_missing_config_dir_is_named(gantrain) -> None:
    result = gantrain("--config-dir", "nowhere", *QUICK)
    assert result.status == 2
    assert "nowhere" in result.stderr


def test_missing_slurm_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gantrain.command.explain.find_spec", lambda _: None)
    for name in ("submitit_slurm", "submitit_local"):
        error = MissingConfigException(f"Could not find 'hydra/launcher/{name}'", f"hydra/launcher/{name}")
        message = str(explain(error, []))
        assert f"hydra/launcher={name}: the launcher for clusters is not installed" in message
        assert "pip install 'gantrain[slurm]'" in message
    error = RuntimeError('Could not detect "srun", are you indeed on a slurm cluster?')
    assert "SLURM is not available (srun is not found)" in str(explain(error, []))
    assert explain(RuntimeError("failed reading tsrun_7/x.pt"), []) is None
    monkeypatch.undo()
    error = MissingConfigException("Could not find 'hydra/launcher/submitit_slrm'", "hydra/launcher/submitit_slrm")
    assert "no such option" in str(explain(error, []))


def test_unwritable_output_is_refused_before_the_task_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    files.require_new_file(tmp_path / "new", "output")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(files.tempfile, "NamedTemporaryFile", refuse)
    with pytest.raises(ConfigError, match=r"output=.*new cannot be written \(Read-only file system\)"):
        files.require_new_file(tmp_path / "new", "output")


def test_batch_larger_than_the_dataset_warns(gantrain, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for i in range(3):
        Image.new("RGB", (16, 16), (i, 0, 0)).save(tmp_path / f"photos/{i}.png")
    typed = ("dataset=image_folder", "dataset.root=photos", "dataset.image_size=16", "callback=[log]", "steps=1")
    small = ("model.generator.width=1", "model.discriminator.width=1")
    result = gantrain(*typed, *small, "batch_size=4")
    assert result.status == 0, result.stderr
    assert "batch_size=4: there are only 3 images, so a batch contains some of them twice" in result.stderr
    assert "twice" not in gantrain(*typed, *small, "batch_size=3").stderr


@pytest.mark.parametrize("consequence", [None, ImportError("initialization failed")])
@pytest.mark.parametrize(
    ("function", "typed"),
    [
        ("gantrain.command.cli.check_overrides", QUICK),
        ("gantrain.command.trust.resolve", QUICK),
        ("gantrain.command.trust.resolve", ("task=benchmark", "callback=[]", "steps=3", "batch_size=2")),
        ("gantrain.assemble.build_optimizer", QUICK),
    ],
)
def test_signal_that_an_import_swallows_still_ends_the_command(
    gantrain,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    typed: tuple[str, ...],
    consequence: Exception | None,
) -> None:
    """The task imports torch, and the first optimizer imports torch's compiler, which takes seconds."""
    original = get_object(function)

    def interrupted(*arguments: object) -> object:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        except SystemExit:
            if consequence:
                raise consequence from None
        return original(*arguments)

    monkeypatch.setattr(function, interrupted)
    result = gantrain(*typed, "run_dir=out")
    assert result.status == 143
    assert not result.stderr
    assert not (tmp_path / "out").exists()
