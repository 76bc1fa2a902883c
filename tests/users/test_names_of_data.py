"""What a user sees whose data lie under names that differ from the published ones, or mean something else elsewhere."""

import gzip
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import run_json

from gantrain.command.auto import composed
from gantrain.command.paths import with_expanded_paths
from gantrain.config import CONF

SMALL = (
    *("model=dcgan", "model.generator.width=2", "model.discriminator.width=1", "batch_size=2", "steps=1", "metric=[]"),
    *("++callback.samples.num=4", "dataset.image_size=16"),
)
RUN = (*SMALL, "run_dir=run")
FOLDER = (*RUN, "dataset=image_folder")


def write(folder: Path, *, num: int = 4, kind: str = "png") -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(num):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{i}.{kind}")


def num_images() -> int:
    return run_json(Path("run"))["dataset"]["num_images"]


@pytest.mark.parametrize("name", ["2023_01", "1e2", "true", "3.50"])
def test_folder_whose_name_is_a_number(gantrain: Callable, name: str):
    write(Path(name))
    result = gantrain(*FOLDER, f"dataset.root={name}")
    assert (result.status, num_images()) == (0, 4), result.stderr
    assert gantrain(*FOLDER, f"dataset.root={name}").status == 0  # the saved override is read in the same way


def test_run_whose_name_is_a_number(gantrain: Callable):
    write(Path("photos"))
    assert gantrain(*SMALL, "dataset=image_folder", "dataset.root=photos", "run_dir=2023_01").status == 0
    assert Path("2023_01/run.json").exists()


def test_numbers_as_folders_in_a_sweep_and_in_a_config_file(gantrain: Callable, tmp_path: Path):
    write(Path("2022"))
    write(Path("2023_01"), num=3)
    swept = gantrain("-m", *SMALL, "dataset=image_folder", "dataset.root=2022,2023_01", "run_dir=swept")
    found = [run_json(path.parent)["dataset"]["num_images"] for path in sorted(Path("swept").rglob("run.json"))]
    assert (swept.status, found) == (0, [4, 3])
    own = tmp_path / "own/dataset"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("defaults: [image_folder]\nroot: 2022\n")
    assert gantrain(*RUN, "dataset=mine", "--config-dir", "own").status == 0
    assert num_images() == 4


def test_a_config_file_may_name_folders_that_yaml_reads_as_numbers(gantrain: Callable, tmp_path: Path):
    write(Path("1e3"), num=3)
    own = tmp_path / "own/experiment"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /dataset: image_folder\nrun_dir: 2023_01\ndataset:\n  root: 1e3\n"
    )
    assert gantrain(*SMALL, "--config-dir", "own", "experiment=mine").status == 0
    assert run_json(Path("2023_01"))["dataset"]["num_images"] == 3


AMBIGUOUS = ("2023_01", "1e3", "0x10", "on", "007", "1:30", "2023-01-01", "1_0.50", "-1", "No", ".inf")


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_paths_in_config_files_are_kept_as_written(name: str, tmp_path: Path):
    for group in ("experiment", "dataset", "latent"):
        (tmp_path / group).mkdir()
    (tmp_path / "experiment/mine.yaml").write_text(
        f"# @package _global_\ndefaults:\n  - override /dataset: mine\nrun_dir: {name}\nseed: 1_0\n"
        f"statistics_dir: '{name}'\nfeatures: {{weights: {name}}}\n"
    )
    (tmp_path / "dataset/mine.yaml").write_text(f"_target_: mine.Data\nroot: {name}\nmask_file: {name}\nsize: 1_0\n")
    (tmp_path / "latent/mine.yaml").write_text(f"# @package dataset\ncache_dir: {name}\n")
    config = composed(["experiment=mine", "latent=mine"], [CONF, tmp_path])
    assert (config.run_dir, config.statistics_dir, config.features["weights"]) == (name, name, name)
    assert [config.dataset[key] for key in ("root", "mask_file", "cache_dir")] == [name] * 3
    assert (config.seed, config.dataset["size"]) == (10, 10)  # no paths


def test_a_path_from_an_anchor_is_refused_with_the_remedy(gantrain: Callable, tmp_path: Path):
    (tmp_path / "own/dataset").mkdir(parents=True)
    (tmp_path / "own/dataset/mine.yaml").write_text("defaults: [image_folder]\nmore: &a {root: 2023_01}\n<<: *a\n")
    result = gantrain(*RUN, "dataset=mine", "--config-dir", "own")
    assert result.status == 2
    assert (
        "own/dataset/mine.yaml: dataset.root is a path, but YAML reads it as 202301; write it in quotes"
        in result.stderr
    )


def test_a_mapping_on_the_command_line_may_name_such_folders():
    given = ["dataset={_target_: mine.Data, root: 2023_01, size: 1_0, mask_file: true}", "metric.a={n: 3}"]
    assert with_expanded_paths(given) == [
        "dataset={_target_: mine.Data, root: '2023_01', size: 1_0, mask_file: 'true'}", "metric.a={n: 3}",
    ]  # fmt: skip


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


IMAGES = idx(np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8))
LABELS = idx((np.arange(20) % 10).astype(np.uint8))
MNIST = {
    "with dots": ("MNIST/raw/train-images.idx3-ubyte", "MNIST/raw/train-labels.idx1-ubyte"),
    "with dots, gzipped": ("MNIST/raw/train-images.idx3-ubyte.gz", "MNIST/raw/train-labels.idx1-ubyte.gz"),
    "in folders named like the files": (
        "MNIST/raw/train-images-idx3-ubyte/train-images-idx3-ubyte",
        "MNIST/raw/train-labels-idx1-ubyte/train-labels-idx1-ubyte",
    ),
    "in folders with other names inside": (
        "MNIST/raw/train-images-idx3-ubyte/train-images.idx3-ubyte",
        "MNIST/raw/train-labels-idx1-ubyte/train-labels.idx1-ubyte",
    ),
    "in folders named like the archives": (
        "MNIST/raw/train-images-idx3-ubyte.gz/train-images-idx3-ubyte.gz",
        "MNIST/raw/train-labels-idx1-ubyte.gz/train-labels-idx1-ubyte",
    ),
    "without the folder raw": ("MNIST/train-images-idx3-ubyte", "MNIST/train-labels-idx1-ubyte.gz"),
}


@pytest.mark.parametrize("names", MNIST.values(), ids=MNIST)
def test_mnist_under_other_names(gantrain: Callable, names: tuple[str, str]):
    for name, content in zip(names, (IMAGES, LABELS), strict=True):
        path = Path("data", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    result = gantrain(*RUN, "dataset=mnist", "dataset.download=false")
    assert (result.status, num_images()) == (0, 20), result.stderr


def test_mnist_that_may_be_another_dataset_is_not_taken(gantrain: Callable):
    Path("mine").mkdir()
    for name, content in (("train-images.idx3-ubyte", IMAGES), ("train-labels.idx1-ubyte", LABELS)):
        Path("mine", name).write_bytes(content)
    refused = gantrain(*RUN, "dataset=fashion_mnist", "dataset.root=mine", "dataset.download=false")
    assert refused.status == 2
    assert "in mine/FashionMNIST/raw (those in mine itself may be of another dataset). Put them there" in refused.stderr


def test_celeba_folder_with_system_files_does_not_hide_the_zip(gantrain: Callable):
    folder = Path("data/celeba/img_align_celeba")
    write(folder, kind="jpg")
    shutil.make_archive(str(folder), "zip", folder.parent, folder.name)
    shutil.rmtree(folder)
    (folder / "@eaDir/1.jpg").mkdir(parents=True)
    for name in (".DS_Store", "Thumbs.db", "@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", "desktop.ini"):
        (folder / name).write_bytes(b"")
    result = gantrain(*RUN, "dataset=celeba", "dataset.crop=null", "dataset.download=false")
    assert (result.status, num_images()) == (0, 4), result.stderr


def test_init_from_across_channels_and_sizes_names_the_cause(gantrain: Callable):
    write(Path("photos"))
    assert gantrain(*SMALL, "dataset=digits", "run_dir=gray").status == 0
    color = (*FOLDER, "dataset.root=photos", "init_from=gray")
    refused = gantrain(*color)
    assert refused.status == 2
    assert (
        "they were trained on images of 16x16 gray, but dataset=image_folder has 16x16 RGB. Choose dataset.channels=1 "
        "where the dataset has this option, or data of this shape." in refused.stderr
    )
    assert "size mismatch" not in refused.stderr
    larger = gantrain(*color, "dataset.image_size=32", "dataset.channels=1")
    assert "has 32x32 gray. Choose dataset.image_size=16, or data of this shape." in larger.stderr
    assert gantrain(*color, "dataset.channels=1").status == 0
