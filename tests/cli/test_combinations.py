"""The command trains every recipe, experiment and kind of data for two steps on small files."""

import gzip
import inspect
import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from composing import composed
from hydra.utils import get_class
from PIL import Image
from scipy.io import savemat

from gantrain.config import CONF

SMALL = (
    *("model=dcgan", "batch_size=2", "accumulate=1", "steps=2", "n_critic=1", "callback=[evaluate,log]"),
    "metric=[]",
)
CRITIC = ("network=dcgan_critic",)
NARROW = ("model.generator.width=2", "model.discriminator.width=2")


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a few images in the file format of each real dataset."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    digits = rng.integers(0, 256, (8, 28, 28), dtype=np.uint8)
    for name in ("MNIST", "FashionMNIST"):
        (root / name / "raw").mkdir(parents=True)
        header = b"\x00\x00\x08\x03" + np.array(digits.shape, ">u4").tobytes()
        (root / name / "raw/train-images-idx3-ubyte").write_bytes(header + digits.tobytes())
        labels = b"\x00\x00\x08\x01" + np.array([8], ">u4").tobytes() + bytes(range(8))
        with gzip.open(root / name / "raw/train-labels-idx1-ubyte.gz", "wb") as file:
            file.write(labels)
    (root / "cifar-10-batches-py").mkdir()
    for i in range(1, 6):
        batch = {"data": rng.integers(0, 256, (2, 3072), dtype=np.uint8), "labels": [i, 0]}
        (root / f"cifar-10-batches-py/data_batch_{i}").write_bytes(pickle.dumps(batch, protocol=2))
    (root / "celeba/img_align_celeba").mkdir(parents=True)
    for i in range(4):
        face = rng.integers(0, 256, (218, 178, 3), dtype=np.uint8)
        Image.fromarray(face).save(root / f"celeba/img_align_celeba/{i + 1:06d}.jpg")
    for kind in ("cats", "dogs"):
        (root / "photos" / kind).mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (50, 40, 3), dtype=np.uint8)).save(root / "photos" / kind / "one.png")
    write_published(root, rng)
    return root


def write_published(root: Path, rng: np.random.Generator) -> None:
    """Write CIFAR-100, SVHN, STL-10, LSUN, and images in .npz, Parquet and tar files."""
    for folder in ("cifar-100-binary", "svhn", "stl10_binary", "lsun/bedroom_train"):
        (root / folder).mkdir(parents=True)
    rows = [bytes([i, i]) + rng.bytes(3072) for i in range(4)]
    (root / "cifar-100-binary/train.bin").write_bytes(b"".join(rows))
    numbers = {
        "X": rng.integers(0, 256, (32, 32, 3, 4), dtype=np.uint8),
        "y": np.array([[10], [1], [2], [3]], np.uint8),
    }
    savemat(root / "svhn/train_32x32.mat", numbers)
    (root / "stl10_binary/unlabeled_X.bin").write_bytes(rng.bytes(4 * 3 * 96 * 96))
    images = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    np.savez(root / "images.npz", images=images, labels=np.arange(4) % 2)
    encoded = []
    for i, image in enumerate(images):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        encoded.append(buffer.getvalue())
        (root / f"lsun/bedroom_train/{i}.png").write_bytes(encoded[-1])
    pa.parquet.write_table(pa.table({"image": encoded, "label": [0, 1, 0, 1]}), root / "images.parquet")
    with tarfile.open(root / "images.tar", "w") as file:
        for i, content in enumerate(encoded):
            for suffix, part in (("png", content), ("cls", b"%d" % (i % 2))):
                member = tarfile.TarInfo(f"{i:06d}.{suffix}")
                member.size = len(part)
                file.addfile(member, io.BytesIO(part))


ROOTS = {
    **dict.fromkeys(("image_folder", "celeba_hq", "ffhq", "imagenet"), "photos"),
    **{"npz": "images.npz", "parquet": "images.parquet", "webdataset": "images.tar"},
}
LARGE = ("celeba", "image_folder", "cifar10", "celeba_hq", "ffhq", "imagenet", "lsun", "parquet", "stl10", "webdataset")
"""Datasets whose images are made smaller here."""


def paths_of(data: Path, dataset: str) -> list[str]:
    """Return the overrides with the paths of a dataset that is read from files."""
    text, found = (CONF / f"dataset/{dataset}.yaml").read_text(), []
    if "root:" in text:
        found += [f"dataset.root={data / ROOTS.get(dataset, '')}", f"dataset.cache_dir={data / 'cache'}"]
    if "download:" in text:
        found.append("dataset.download=false")
    return [*found, "dataset.num_images=8"] if dataset == "stacked_mnist" else found


def dataset_of(experiment: str) -> str:
    return str(composed(f"experiment={experiment}").dataset["_target_"]).rsplit(".", 1)[-1]


@pytest.mark.parametrize("experiment", names("experiment"))
def test_every_experiment_trains(gantrain, data: Path, experiment: str) -> None:
    # test_experiments.py makes steps at full width, on the meta device.
    small = ["dataset.image_size=32"] if experiment == "lightweight_folder" else []
    result = gantrain(
        f"experiment={experiment}",
        *small,
        *paths_of(data, dataset_of(experiment)),
        *(*SMALL, *NARROW),
        "critic_warmup.n_critic=1",
        "run_dir=out",
    )
    assert result.status == 0, result.stderr
    record = json.loads(Path("out/run.json").read_text())
    assert (record["name"], record["status"], record["steps"]) == (experiment, "finished", 2)


def takes_labels(model: str) -> bool:
    """Return whether the networks of a model take labels."""
    G = get_class(composed(f"model={model}").model["generator"]["_target_"])
    return "num_classes" in inspect.signature(G).parameters


@pytest.mark.parametrize(
    ("model", "dataset"),
    dict.fromkeys(
        [
            *((model, dataset) for model in ("vanilla", "dcgan") for dataset in names("dataset")),
            *((model, dataset) for model in names("model") for dataset in ("digits", "image_folder", "celeba")),
            *((model, "gaussian") for model in names("model")),
        ]
    ),
)
def test_models_train_on_every_kind_of_dataset(gantrain, data: Path, model: str, dataset: str) -> None:
    """A model with labels refuses images without them; vectors get networks without labels, and without styles."""
    size = ["dataset.image_size=16"] if dataset in LARGE else []
    if model == "lightweight" and dataset != "gaussian":
        size = ["dataset.image_size=32"]
    result = gantrain(
        f"model={model}", f"dataset={dataset}", *paths_of(data, dataset), *size, *SMALL, *NARROW, "run_dir=out"
    )
    if dataset == "celeba" and takes_labels(model):
        assert result.status == 2, result.stderr
        assert "dataset=celeba has no labels" in result.stderr
        return
    if (model, dataset) == ("lightweight", "gaussian"):
        assert (result.status, "regularizer=reconstruction" in result.stderr) == (2, True)
        return
    if dataset == "gaussian" and "path_length" in composed(f"model={model}").regularizer:
        assert result.status == 2, result.stderr
        assert "regularizer=path_length needs a generator with styles" in result.stderr
        return
    assert result.status == 0, result.stderr
    assert json.loads(Path("out/run.json").read_text())["status"] == "finished"


@pytest.mark.parametrize(
    "parts",
    [
        ("dataset=gaussians_8", "network=mlp", "loss=relativistic"),
        ("dataset=gaussian", "network=mlp", "regularizer=[dragan]", "model.discriminator.norm=none"),
        ("regularizer=[gradient_penalty]", "model.discriminator.norm=none", "generator_batch_multiple=2"),
        ("regularizer=[r1]", "model.discriminator.norm=none", "accumulate=2"),
    ],
)
def test_packed_discriminator_trains_and_draws(gantrain, parts: tuple[str, ...]) -> None:
    typed = (
        "model=dcgan",
        "packing=2",
        "batch_size=4",
        "steps=2",
        "callback=[evaluate,log,samples,csv,curves]",
        *NARROW,
    )
    result = gantrain(*typed, *parts, "run_dir=out")
    assert result.status == 0, result.stderr
    assert {path.name for path in Path("out/samples").glob("step*")} == {"step_00000000.png", "step_00000002.png"}


def test_auxiliary_classifier_loss_without_a_classifier_is_refused(gantrain) -> None:
    result = gantrain("regularizer=[auxiliary_classifier]", *SMALL, *NARROW, "run_dir=out")
    assert result.status == 2, result.stderr
    assert "regularizer=auxiliary_classifier trains a classifier" in result.stderr
    assert "network=acgan" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not Path("out").exists()


@pytest.mark.parametrize("dataset", names("dataset"))
def test_conditional_networks_train_only_on_labelled_datasets(gantrain, data: Path, dataset: str) -> None:
    size = ["dataset.image_size=16"] if dataset in LARGE else []
    result = gantrain(
        "network=cdcgan", f"dataset={dataset}", *paths_of(data, dataset), *size, *SMALL, *NARROW, "run_dir=out"
    )
    labelled = {"digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "svhn", "stacked_mnist"}
    labelled |= {"image_folder", "imagenet", "npz", "parquet", "webdataset"}
    assert result.status == (0 if dataset in labelled else 2), result.stderr
    if dataset not in labelled:
        name = "image_folder" if dataset in ("celeba_hq", "ffhq") else dataset  # presets of image_folder
        assert f"dataset={name} has no labels" in result.stderr


def test_modes_of_stacked_mnist_are_counted(gantrain, data: Path) -> None:
    few = ("metric.stacked_modes.num_samples=40", "metric.stacked_modes.num_real=8", "checkpoint.best=modes_5_hits")
    metric = ("metric=[stacked_modes]", *few, "callback=[evaluate,log,checkpoint]", "statistics_dir=null")
    stacked = ("dataset=stacked_mnist", *paths_of(data, "stacked_mnist"))
    result = gantrain(*stacked, *SMALL[:4], *NARROW, *metric, "run_dir=out")
    assert result.status == 0, result.stderr
    metrics = json.loads(Path("out/run.json").read_text())["metrics"]
    assert 1 <= metrics["last"]["metric/modes"] <= 40
    assert metrics["receipts"]["metric/kl_uniform"]["features"] == "stacked_digits"
    assert metrics["receipts"]["metric/modes"]["real"] <= 8
    assert Path("out/checkpoints/best.pt").exists()


def test_ada_logs_its_probability_and_the_mean_sign_of_real_logits(gantrain) -> None:
    # Every update of D changes p by 2 / 100 images.
    adaptive = ("augment=[ada]", "augment.ada.interval=1", "augment.ada.images_to_one=100", "augment.ada.strength=0.5")
    result = gantrain(*adaptive, *SMALL, *NARROW, *CRITIC, "run_dir=out")
    assert result.status == 0, result.stderr
    last = json.loads(Path("out/run.json").read_text())["metrics"]["last"]
    p, sign = last["augment/ada/p"], last["augment/ada/r_t"]
    assert min(abs(p - q) for q in (0.46, 0.5, 0.54)) < 1e-6
    assert sign in (-1.0, 0.0, 1.0)


@pytest.mark.parametrize("norm", ["batch", "instance", "layer", "none"])
def test_dcgan_trains_on_color_images_of_36_pixels(gantrain, data: Path, norm: str) -> None:
    norms = (f"model.generator.norm={norm}", f"model.discriminator.norm={norm}")
    size = ("dataset=image_folder", *paths_of(data, "image_folder"), "dataset.image_size=36")
    assert gantrain(*size, *norms, *SMALL, *NARROW, "run_dir=out").status == 0
    assert json.loads(Path("out/run.json").read_text())["dataset"]["image_shape"] == [3, 36, 36]


def test_refused_combination_can_be_allowed_by_name(gantrain) -> None:
    combination = ("model=wgan_gp", "network=dcgan", *SMALL, *NARROW)
    assert gantrain(*combination, "run_dir=a").status == 2
    assert gantrain(*combination, "allow=[gradient_penalty_with_batch_norm]", "run_dir=a").status == 0


@pytest.mark.parametrize(
    ("combination", "warning"),
    [
        (("model=wgan", "network=dcgan"), "regularizer=weight_clip with BatchNorm"),
        (("model=dcgan", "loss=wasserstein"), "loss: Wasserstein, but nothing bounds the critic's Lipschitz constant"),
    ],
)
def test_doubtful_combination_warns_and_trains(gantrain, combination: tuple[str, ...], warning: str) -> None:
    result = gantrain(*combination, *SMALL, *NARROW, "run_dir=out")
    assert result.status == 0
    assert warning in result.stderr
    assert warning in Path("out/gantrain.log").read_text()


def test_wasserstein_loss_with_spectral_norm_does_not_warn(gantrain) -> None:
    options = ("model=dcgan", "loss=wasserstein", "model.discriminator.norm=spectral")
    result = gantrain(*options, *SMALL, *NARROW, "run_dir=out")
    assert result.status == 0, result.stderr
    assert "Lipschitz" not in result.stderr
