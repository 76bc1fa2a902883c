"""model=auto from the command line, with real pictures."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from runs import run_json

TYPED = ("model=auto", "dataset=image_folder", "model.generator.width=8", "model.discriminator.width=8")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Make a folder and a zip of twelve pictures of 40 to 70 pixels, in the working directory of the command."""
    draw, folder = np.random.default_rng(0), tmp_path / "my photos"
    folder.mkdir()
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for i in range(12):
            path = folder / f"{i}.png"
            Image.fromarray(draw.integers(0, 256, (70, 40 + i, 3), dtype=np.uint8)).save(path)
            archive.write(path, path.name)
    return folder


def config_of(text: str) -> dict:
    return yaml.safe_load(text)


@pytest.mark.parametrize("root", ["'my photos'", "photos.zip"])
def test_choices_are_an_ordinary_config(gantrain, photos: Path, root: str) -> None:
    result = gantrain("--cfg", "job", "--resolve", *TYPED, f"dataset.root={root}")
    assert result.status == 0, result.stderr
    config = config_of(result.stdout)
    assert config["model"]["generator"]["_target_"] == "gantrain.models.dcgan.Generator"
    assert config["dataset"]["image_size"] == 32
    assert config["regularizer"]["r1"]["gamma"] == pytest.approx(0.5 / 4)  # in proportion to the number of pixels
    assert (config["batch_size"], config["accumulate"]) == (16, 1)
    assert "experiment=dcgan_folder: small networks, because the run is on the CPU" in result.stderr
    assert "lightweight_folder, the choice for 12 pictures (fewer than 1,000) on a GPU" in result.stderr


def test_run_trains_and_resumes_with_what_was_chosen(gantrain, photos: Path, tmp_path: Path) -> None:
    typed = (*TYPED, "dataset.root=photos.zip", "batch_size=4", "callback=[log,checkpoint]", "run_dir=out")
    assert gantrain(*typed, "steps=1").status == 0
    saved = yaml.safe_load((tmp_path / "out/.hydra/overrides.yaml").read_text())
    assert "experiment=dcgan_folder" in saved
    assert not any("auto" in override for override in saved)
    again = gantrain(*typed, "steps=2")
    assert again.status == 0, again.stderr
    assert "as chosen when the run started" in again.stderr
    reasons = run_json(tmp_path / "out")["reasons"]
    assert reasons[0].startswith("experiment=dcgan_folder: small networks, because the run is on the CPU")
    assert [reason.partition("=")[0] for reason in reasons[1:3]] == ["dataset.image_size", "batch_size"]


def test_own_networks_and_configs_are_taken(gantrain, photos: Path, tmp_path: Path) -> None:
    own = "from gantrain.models.dcgan import Generator\n\n\nclass Mine(Generator):\n    pass\n"
    (tmp_path / "own_networks.py").write_text(own)
    (tmp_path / "my/callback").mkdir(parents=True)
    (tmp_path / "my/callback/mine.yaml").write_text("mine: {_target_: own_networks.Mine}\n")
    options = ("--config-dir", "my", "trust=[own_networks]", "model.generator._target_=own_networks.Mine")
    typed = (*TYPED, "dataset.root=photos.zip", "callback=[log,mine]")
    result = gantrain("--cfg", "job", *options, *typed)
    assert result.status == 0, result.stderr
    assert config_of(result.stdout)["callback"]["mine"] == {"_target_": "own_networks.Mine"}
