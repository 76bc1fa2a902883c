"""What a user sees who writes ~ in a path: the shell expands it only at the start of a word."""

import pwd
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image
from runs import run_json

from gantrain.command.paths import expand_in, is_path, with_expanded_paths
from gantrain.config import CONF, settings
from gantrain.errors import ConfigError

SMALL = ("model.generator.width=1", "model.discriminator.width=1", "batch_size=4", "metric=[]", "steps=1")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder of the user, and that of ann."""
    for name in ("home", "ann"):
        (tmp_path / name).mkdir()
    known = {"ann": SimpleNamespace(pw_dir=str(tmp_path / "ann"))}
    monkeypatch.setattr(pwd, "getpwnam", known.__getitem__)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize("typed", ["run_dir=~/runs/a", 'run_dir="~/runs/a"', "run_dir='~/runs/a'"])
def test_a_run_goes_to_the_home_folder_and_the_printed_command_resumes_it(
    gantrain, home: Path, tmp_path: Path, typed: str
) -> None:
    result = gantrain("model=dcgan", *SMALL, typed, "callback=[log,checkpoint]")
    assert result.status == 0, result.stderr
    assert run_json(home / "runs/a")["status"] == "finished"
    assert "run=home/runs/a" in result.stderr  # relative to the working directory
    assert gantrain("resume=~/runs/a", "steps=2").status == 0
    assert run_json(home / "runs/a")["steps"] == 2
    assert not list(tmp_path.rglob("~*"))


def test_every_path_of_a_run_may_be_in_the_home_folder(gantrain, home: Path, tmp_path: Path) -> None:
    (tmp_path / "ann/photos").mkdir()
    draw = np.random.default_rng(0)
    for i in range(4):
        Image.fromarray(draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / f"ann/photos/{i}.png")
    data = ("dataset=image_folder", "dataset.root=~ann/photos", "dataset.image_size=16", "dataset.cache_dir=~/cache")
    result = gantrain("model=dcgan", *data, *SMALL, "run_dir=~/a", "callback=[log,checkpoint]")
    assert result.status == 0, result.stderr
    assert list((home / "cache").glob("*.npy"))
    assert gantrain("model=dcgan", *data, *SMALL, "run_dir=~/b", "init_from=~/a", "callback=[log]").status == 0
    assert gantrain("task=sample", "run=~/a", "num=4", "output=~/samples/").status == 0
    assert len(list((home / "samples").glob("*.png"))) == 4
    assert not list(tmp_path.rglob("~*"))


def test_paths_in_yaml_are_expanded_too(gantrain, home: Path, tmp_path: Path) -> None:
    config = {"run_dir": "~/from_yaml", "statistics_dir": "~ann/statistics"}
    (tmp_path / "my/experiment").mkdir(parents=True)
    text = "# @package _global_\n" + yaml.safe_dump(config)
    (tmp_path / "my/experiment/mine.yaml").write_text(text)
    result = gantrain("--config-dir", "my", "experiment=mine", *SMALL, "callback=[log]")
    assert result.status == 0, result.stderr
    assert run_json(home / "from_yaml")["status"] == "finished"
    assert not list(tmp_path.rglob("~*"))


def test_options_of_own_parts_may_be_in_the_home_folder(gantrain, home: Path, tmp_path: Path) -> None:
    (home / "photos").mkdir()
    Image.new("L", (16, 16)).save(home / "photos/0.png")
    (home / "names.txt").touch()
    shipped = yaml.safe_load((CONF / "dataset/image_folder.yaml").read_text())
    options = {name: value for name, value in shipped.items() if name not in ("_target_", "root", "holdout")}
    (tmp_path / "my_data.py").write_text(
        "from pathlib import Path\n"
        "from gantrain.datasets.image_folder import image_folder\n"
        "def photos(*, folder, weights, lists):\n"
        "    assert all(map(Path.exists, map(Path, [weights, *lists])))\n"
        f"    return image_folder(root=folder, **{options})\n"
    )
    mine = {"_target_": "my_data.photos", "folder": "~/photos", "weights": "~/names.txt", "lists": ["~/names.txt"]}
    (tmp_path / "my/dataset").mkdir(parents=True)
    (tmp_path / "my/dataset/mine.yaml").write_text(yaml.safe_dump(mine))
    run = ("task=data", "--config-dir", "my", "dataset=mine", "trust=[my_data]")
    for typed in (
        (),
        ("dataset.weights=~/names.txt", "dataset.lists=[~/names.txt,~/photos]", "dataset.folder=~/photos"),
    ):
        result = gantrain(*run, *typed)
        assert result.status == 0, result.stderr


def test_a_sweep_goes_to_the_home_folder(gantrain, home: Path) -> None:
    result = gantrain("-m", "model=dcgan", *SMALL, "seed=0,1", "run_dir=~/sweep", "callback=[log]")
    assert result.status == 0, result.stderr
    assert {path.parent.name for path in (home / "sweep").glob("*/run.json")} == {"0", "1"}


def test_each_path_of_a_sweep_and_an_interpolation_are_expanded(home: Path) -> None:
    given = ["init_from=~/a,~/b", "+run_dir='~/e/${seed}'", "seed=1", "dataset.root=x~y", "run=./~/a"]
    assert with_expanded_paths(given) == [
        f"init_from={home}/a,{home}/b", f"+run_dir='{home}/e/${{seed}}'", "seed=1", "dataset.root=x~y", "run=./~/a",
    ]  # fmt: skip


def test_a_user_who_does_not_exist_is_named() -> None:
    with pytest.raises(ConfigError, match=r"init_from=~nobody/x: the home folder of ~nobody is not known"):
        with_expanded_paths(["init_from=~nobody/x"])
    with pytest.raises(ConfigError, match="home folder"):
        expand_in({"dataset": {"root": "~nobody"}})


def test_no_setting_that_is_a_path_is_forgotten() -> None:
    """A word in the help text, or the name of an option in a config of a part, tells which are."""
    words = ("folder of", "folder where", "a folder,", "file to write", "given in the same way", ": its folder")
    named = {setting.key for setting in settings() if any(word in setting.text for word in words)}
    assert named == {setting.key for setting in settings() if is_path(setting.key)}
    options = {
        f"{path.parent.name}.{name}"
        for path in CONF.glob("*/*.yaml")
        for name in yaml.safe_load(path.read_text()) or {}
    }
    paths = {key for key in options if key.endswith(("root", "dir", "weights", "path", "file", "folder"))}
    assert (
        paths == {key for key in options if is_path(key)} == {"dataset.root", "dataset.cache_dir", "features.weights"}
    )


@pytest.mark.parametrize("typed", ["dataset.root='photos,2023,best'", "dataset.root='a,~/b'", 'run_dir="x,7"'])
def test_quoted_paths_with_commas_stay_as_they_are(typed: str) -> None:
    assert with_expanded_paths([typed]) == [typed]
