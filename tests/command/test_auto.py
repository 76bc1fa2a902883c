"""model=auto chooses recipe, image size, batch and micro-batches from the pictures and the device."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from gantrain.assemble import build_dataset
from gantrain.command import auto
from gantrain.command.overrides import key_of, value_of
from gantrain.config import Config
from gantrain.datasets.image_files import ImageFiles
from gantrain.errors import ConfigError
from gantrain.session.step_memory import StepMemory

PICTURES = ("dataset=image_folder", "dataset.root=photos")
NARROW = ("model.generator.width=16", "model.discriminator.width=16")
STATE, OF_ROW, OF_STEP = 10e6, 5e6, 2e6
"""Bytes of the pretended memory of a step: its state, and those of each update for a row and for any number of rows."""

Folder = Callable[..., None]


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> Folder:
    """Pretend that a folder has pictures, the device memory, and that two updates of a step need memory."""

    def step_memory(config: Config, channels: int, device: torch.device, num_processes: int) -> StepMemory:
        need = int(OF_STEP + OF_ROW * config.batch_size // config.accumulate)
        captured = device.type == "cuda" and config.runtime.acceleration != "eager"
        return StepMemory(int(STATE), [need, need // 2], config.accumulate if captured else 0, group=4)

    def pretend(num: int, *, side: int = 300, memory: float = 80e9, device: str = "cuda") -> None:
        content = BytesIO()
        Image.new("RGB", (side, side + 50)).save(content, "PNG")
        files = ImageFiles(Path("photos"), [f"{i}.png" for i in range(num)], [], {}, lambda i: content.getvalue())
        monkeypatch.setattr("gantrain.datasets.image_folder.open_image_files", lambda path: files)
        monkeypatch.setattr("gantrain.engine.device.choose_device", lambda name: torch.device(device))
        monkeypatch.setattr("gantrain.engine.memory.total_bytes", lambda device: int(memory))
        monkeypatch.setattr("gantrain.session.step_memory.step_memory", step_memory)

    return pretend


def chosen(*typed: str) -> dict[str, str]:
    overrides = auto.with_chosen_recipe(["model=auto", *PICTURES, *typed]).overrides
    assert "model=auto" not in overrides
    return {key_of(override): value_of(override) for override in overrides}


@pytest.mark.parametrize(
    ("num", "recipe"),
    [
        *((1, "lightweight"), (999, "lightweight"), (1_000, "stylegan2_ada")),
        *((19_999, "stylegan2_ada"), (20_000, "r3gan"), (70_000, "r3gan")),
    ],
)
def test_recipe_depends_on_the_number_of_pictures(
    pictures: Folder, num: int, recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures(num, side=70)
    assert chosen(*NARROW)["experiment"] == f"{recipe}_folder"
    assert f"experiment={recipe}_folder: {num:,} picture" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sides", "largest", "size"),
    [
        ([300] * 20, 256, 256),
        ([300] * 20, 64, 64),
        ([255] * 20, 256, 128),
        ([20] * 20, 256, 32),
        ([], 256, 32),
        ([40, 40, *[128] * 18], 256, 128),  # one in ten may be enlarged
        ([40, 40, 40, *[128] * 17], 256, 32),
    ],
)
def test_nine_in_ten_pictures_are_not_enlarged(sides: list[int], largest: int, size: int) -> None:
    assert auto.choose_size(sides, largest=largest)[0] == size


def test_sizes_are_those_of_upright_pictures(pictures: Folder) -> None:
    pictures(500, side=70)
    assert chosen(*NARROW)["dataset.image_size"] == "64"
    assert chosen(*NARROW, "dataset.image_size=32")["dataset.image_size"] == "32"
    pictures(500, side=300, device="cpu")
    assert chosen(*NARROW)["dataset.image_size"] == "64"


def test_without_a_gpu_small_networks_are_chosen(pictures: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    pictures(5_000, side=70, device="cpu")
    assert chosen(*NARROW)["experiment"] == "dcgan_folder"
    assert (
        "where stylegan2_ada_folder, the choice for 5,000 pictures (1,000 to 20,000) on a GPU"
        in capsys.readouterr().err
    )


def test_512_px_are_refused_on_a_cpu(pictures: Folder) -> None:
    pictures(500, side=600, device="cpu")
    with pytest.raises(ConfigError, match=r"image_size=512: without a GPU model=auto takes at most 256 pixels"):
        chosen(*NARROW, "dataset.image_size=512")


def test_digits_are_not_mirrored(pictures: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    assert "horizontal_flip=false" in auto.with_chosen_recipe(["model=auto", "dataset=digits", *NARROW]).overrides
    assert "horizontal_flip=false: digits must not be mirrored" in capsys.readouterr().err
    typed = ["model=auto", "dataset=digits", *NARROW, "horizontal_flip=true"]
    assert auto.with_chosen_recipe(typed).overrides.count("horizontal_flip=true") == 1
    assert "mirrored" not in capsys.readouterr().err
    pictures(500)
    assert "horizontal_flip" not in chosen(*NARROW)
    assert "half of the pictures are mirrored; type false for writing" in capsys.readouterr().err
    chosen(*NARROW, "horizontal_flip=true")
    assert "mirrored" not in capsys.readouterr().err


def memory_for(rows: float, share: float = 0.6) -> float:
    """Return the memory of a device of which a share is needed for a step with micro-batches of so many rows."""
    return (STATE + OF_STEP + OF_ROW * rows) / share


@pytest.mark.parametrize(("rows", "accumulate"), [(32.1, "1"), (31.9, "2"), (8.1, "4"), (7.9, "8"), (1.1, "32")])
def test_batch_is_cut_until_a_step_fits_into_memory(
    pictures: Folder, rows: float, accumulate: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures(5_000, side=70, memory=memory_for(rows))
    found = chosen(*NARROW)
    assert (found["batch_size"], found["accumulate"], found["runtime.acceleration"]) == ("32", accumulate, "eager")
    assert f"batch_size=32 accumulate={accumulate}: a step needs about" in capsys.readouterr().err


def test_a_step_that_does_not_fit_with_one_picture_is_refused(pictures: Folder) -> None:
    pictures(5_000, side=70, memory=memory_for(0.9))
    with pytest.raises(ConfigError, match=r"has 27\.5 MB, but a step with one picture at a time needs about 17 MB"):
        chosen(*NARROW)
    assert chosen(*NARROW, "accumulate=16")["accumulate"] == "16"  # a typed number is taken as it is
    pictures(5_000, side=70, memory=memory_for(8.1))
    assert chosen(*NARROW, "batch_size=16")["accumulate"] == "2"


def test_updates_are_captured_as_graphs_only_if_those_of_all_updates_fit(
    pictures: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    of_all = (STATE + 1.5 * (OF_STEP + OF_ROW * 32)) / 0.6
    pictures(5_000, side=70, memory=1.01 * of_all)
    assert "runtime.acceleration" not in chosen(*NARROW)
    pictures(5_000, side=70, memory=0.99 * of_all)
    assert chosen(*NARROW)["runtime.acceleration"] == "eager"
    assert "runtime.acceleration=eager: the CUDA graphs of all updates together" in capsys.readouterr().err
    found = chosen(*NARROW, "runtime.acceleration=eager")
    assert (found["accumulate"], found["runtime.acceleration"]) == ("1", "eager")
    with pytest.raises(ConfigError, match="one picture at a time"):  # micro-batches have graphs of their own
        chosen(*NARROW, "runtime.acceleration=graph")


def test_without_an_estimate_the_batch_is_not_divided(
    pictures: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def reads_values(*_: object) -> StepMemory:
        torch.zeros(1, device="meta").item()
        raise AssertionError

    pictures(5_000, side=70, memory=memory_for(8))
    monkeypatch.setattr("gantrain.session.step_memory.step_memory", reads_values)
    found = chosen(*NARROW)
    assert found["batch_size"] == "32"
    assert "accumulate" not in found
    assert "batch_size=32: the memory of a step is unknown, because Tensor.item()" in capsys.readouterr().err


def test_less_of_the_memory_is_planned_on_a_cpu(pictures: Folder) -> None:
    for share, accumulate in ((0.44, "1"), (0.46, "2")):
        pictures(5_000, side=70, memory=memory_for(16, share), device="cpu")
        found = chosen(*NARROW)
        assert found["accumulate"] == accumulate
        assert "runtime.acceleration" not in found


def test_micro_batches_are_whole_groups_of_the_minibatch_standard_deviation(
    pictures: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    """20 samples in micro-batches of at most 10: 4, and not 10, because a group has 4."""
    pictures(5_000, side=70, memory=memory_for(10.1))
    assert chosen(*NARROW, "batch_size=20")["accumulate"] == "5"
    assert "smaller than" not in capsys.readouterr().err
    pictures(5_000, side=70, memory=memory_for(1.1))
    assert chosen(*NARROW, "batch_size=20")["accumulate"] == "20"
    assert "a micro-batch of 1 is smaller than the groups of 4" in capsys.readouterr().err


def test_unreadable_sizes_are_said(pictures: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert auto.choose_size([], largest=256) == (32, "no picture could be read")
    assert "at least 28 pixels on the shorter side; they are enlarged" in auto.choose_size([28], largest=256)[1]
    pictures(5_000)
    with pytest.raises(ConfigError, match=r"image_size=large: must be a number of pixels"):
        chosen("dataset.image_size=large")


def test_what_is_typed_wins(pictures: Folder) -> None:
    pictures(30_000)
    typed = (*NARROW, "dataset.image_size=64", "regularizer.r1.gamma=3", "steps=7")
    config = auto.composed(auto.with_chosen_recipe(["model=auto", *PICTURES, *typed]).overrides, [auto.CONF])
    assert [config.regularizer[name]["gamma"] for name in ("r1", "r2")] == [3, 2]
    assert (config.dataset["image_size"], config.steps) == (64, 7)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["model=auto,dcgan", *PICTURES], "model=auto cannot be combined with other models"),
        (["model=auto", "model=dcgan", *PICTURES], "model=auto model=dcgan: model=auto cannot be combined"),
        (["model=auto", *PICTURES, "dataset.image_size=32,64"], "chooses once for all runs of a sweep"),
        (["model=auto", *PICTURES, "model.generator.width=32,64"], "chooses once for all runs of a sweep"),
        (["model=auto", *PICTURES, "experiment=toy"], "auto chooses the experiment"),
        (["model=auto", *PICTURES, "network=mlp"], "auto chooses the network"),
        (["model=auto"], "type dataset=image_folder dataset.root=FOLDER"),
        (["model=auto", "dataset=gaussians_8"], "for pictures of any size, but dataset=gaussians_8 has none"),
        (["model=auto", "dataset=image_folder"], r"dataset\.root is not set"),
    ],
)
def test_impossible_choices_are_refused(typed: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        auto.with_chosen_recipe(typed)


def test_arrays_and_numbered_parts_of_a_split_are_looked_at_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((3, 70, 90, 3), np.uint8), y=[0, 1, 0])
    typed = ("dataset=npz", f"dataset.root={tmp_path}/x.npz", "dataset.holdout=0.5", *NARROW)
    overrides = auto.with_chosen_recipe(["model=auto", *typed]).overrides
    assert {"experiment=dcgan_folder", "dataset.image_size=64"} <= {*overrides}
    assert "3 pictures (fewer than 1,000)" in capsys.readouterr().err


def test_what_is_left_out_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 40)).save(tmp_path / name)
    (tmp_path / "notes.psd").touch()
    typed = ("dataset=image_folder", f"dataset.root={tmp_path}", *NARROW, "accumulate=1")
    overrides = auto.with_chosen_recipe(["model=auto", *typed]).overrides
    assert not caplog.records
    build_dataset(auto.composed(overrides, [auto.CONF]).dataset)
    assert "left out: 1 .psd" in caplog.text


def test_other_models_are_left_alone() -> None:
    assert auto.with_chosen_recipe(["model=dcgan", "steps=3"]) == auto.Choice(["model=dcgan", "steps=3"], [])
    assert auto.with_chosen_recipe(["-m"]) == auto.Choice(["-m"], [])


def test_a_repeated_command_keeps_what_was_chosen(pictures: Folder, tmp_path: Path) -> None:
    """Even if the pictures or the device would now lead to another choice."""
    pictures(500, side=70)
    typed = ("model=auto", *PICTURES, *NARROW, f"run_dir={tmp_path}")
    first = auto.with_chosen_recipe(typed).overrides
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra/overrides.yaml").write_text(yaml.safe_dump(first))
    (tmp_path / "run.json").write_text("{}")
    pictures(50_000, side=300, memory=1e9)
    assert sorted(auto.with_chosen_recipe(typed).overrides) == sorted(first)
    assert "batch_size=3" in auto.with_chosen_recipe([*typed, "batch_size=3"]).overrides
