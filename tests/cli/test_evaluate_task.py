"""task=evaluate: scores of the checkpoints of a run, and of images that gantrain did not make."""

import hashlib
import json
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from composing import composed
from inception_weights import write_random_weights
from PIL import Image
from runs import csv_rows

from gantrain.datasets.digits import digits
from gantrain.evaluation.features.digits import Digits
from gantrain.metrics.frechet import frechet_distance_of_features
from gantrain.seeding import generator

SMALL = ("model=dcgan", "model.generator.width=2", "model.discriminator.width=2", "batch_size=4", "metric=[]")
FID = ("metric=[fid]", "metric.fid.num_samples=60", "metric.fid.num_real=100")
SAVED = ("evaluate_every=2", "checkpoint.every=2", "checkpoint.best=fid_digits", "log_every=1")


@pytest.fixture(scope="module")
def trained(train) -> Path:
    return train(*SMALL, *FID, *SAVED, "steps=6", "ema_halflife_images=20", "optimizer.lr=0.01")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


def read(path: str) -> dict[str, Any]:
    return json.loads(Path(path).read_text())


def values(path: str, name: str = "fid_digits") -> dict[int, float]:
    return {row["step"]: row["metrics"][name]["value"] for row in read(path)["checkpoints"]}


def in_training(run: Path, name: str = "fid_digits") -> dict[int, float]:
    tag = f"metric/{name}"
    return {int(row["step"]): float(row[tag]) for row in csv_rows(run) if row[tag]}


# Checkpoints of a run


def test_scores_with_other_latents_and_statistics_have_another_protocol(gantrain, run: Path) -> None:
    sampling = ("latent=truncated_normal", "latent.bound=0.5", "standing_statistics=2")
    for name, *more in (("plain",), ("a", *sampling), ("b", *sampling)):
        done = gantrain("task=evaluate", "run=run", f"output={name}.json", *more)
        assert done.status == 0, done.stderr
    plain, a, b = ([*values(f"{name}.json").values()] for name in ("plain", "a", "b"))
    assert a == b != plain
    (row,) = read("a.json")["checkpoints"]
    expected = "TruncatedNormal(z_dim=100, bound=0.5); standing statistics of 2 batches"
    assert row["metrics"]["fid_digits"]["receipt"]["sampling"] == expected
    (row,) = read("plain.json")["checkpoints"]
    assert "sampling" not in row["metrics"]["fid_digits"]["receipt"]


def test_scores_of_all_checkpoints_equal_those_of_the_training_bit_for_bit(gantrain, run: Path) -> None:
    expected = in_training(run)
    assert list(expected) == [2, 4, 6]
    done = gantrain("task=evaluate", "run=run", "checkpoints=all", "output=all.json")
    assert done.status == 0, done.stderr
    assert values("all.json") == expected  # best.pt, which equals one of them, is not listed again
    best = min(expected, key=lambda step: expected[step])
    (marked,) = [line for line in done.stderr.splitlines() if "best" in line]
    assert marked.split() == ["step", str(best), f"{expected[best]:.5g}", "best,", "by", "checkpoint.best"]
    assert "fid_digits, lower is better: digits features c667718c, 60 generated against 100 real" in done.stderr
    last = read("all.json")["metrics"]["fid_digits"]
    assert last["value"] == expected[6]
    assert last["receipt"] == read("run/run.json")["metrics"]["receipts"]["metric/fid_digits"]
    assert last["receipt"]["ema"] is True
    assert np.asarray(Image.open("all.png")).std() > 0


def test_one_checkpoint_is_chosen_by_name_or_file(gantrain, run: Path) -> None:
    expected = in_training(run)
    best = min(expected, key=lambda step: expected[step])
    for typed, step in (("run=run", 6), ("run=run/checkpoints/step_00000004.pt", 4)):
        assert gantrain("task=evaluate", typed, f"output={step}.json").status == 0
        assert values(f"{step}.json") == {step: expected[step]}
        assert not Path(f"{step}.png").exists()
    assert gantrain("task=evaluate", "run=run", "checkpoints=best", "output=best.json").status == 0
    assert values("best.json") == {best: expected[best]}


def test_damaged_checkpoints_are_skipped_and_best_is_listed_at_its_step(gantrain, run: Path) -> None:
    expected = in_training(run)
    best = min(expected, key=lambda step: expected[step])
    damaged = next(step for step in expected if step != best)
    (run / f"checkpoints/step_{best:08d}.pt").unlink()
    (run / f"checkpoints/step_{damaged:08d}.pt").write_bytes(b"damaged")
    done = gantrain("task=evaluate", "run=run", "checkpoints=all", "output=all.json")
    assert done.status == 0, done.stderr
    assert f"step_{damaged:08d}.pt is damaged" in done.stderr
    assert f"best.pt, step {best}" in done.stderr
    del expected[damaged]
    assert list(values("all.json").items()) == list(expected.items())
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(b"damaged")
    for which in ("all", "best", "last"):
        done = gantrain("task=evaluate", "run=run", f"checkpoints={which}")
        assert done.status == 2
        assert "can be read" in done.stderr


def test_what_is_typed_replaces_the_protocol_of_the_run(gantrain, run: Path) -> None:
    typed = ("metric.fid.num_samples=40", "seed=7", "dataset.holdout=0.009", "metric_split=held_out")
    assert gantrain("task=evaluate", "run=run", *typed, "output=a.json").status == 0
    receipt = read("a.json")["metrics"]["fid_digits"]["receipt"]
    assert (receipt["num_generated"], receipt["num_real"], receipt["seed"]) == (40, 90, 7)
    assert receipt["split"] == "held_out"
    typed = (
        "metric=[precision_recall]",
        "metric.precision_recall.num_samples=20",
        "metric.precision_recall.num_real=50",
    )
    assert gantrain("task=evaluate", "run=run", *typed, "output=b.json").status == 0
    assert read("b.json")["metrics"].keys() == {"precision_digits", "recall_digits"}


def test_scores_with_labels_and_of_vectors_equal_those_of_the_training(gantrain, tmp_path: Path) -> None:
    classes = ("network=cdcgan", "metric=[class_accuracy]", "metric.class_accuracy.num_samples=50")
    quick = ("callback=[checkpoint,evaluate,log,csv]", "steps=2")
    for name, options in (("class_accuracy_digits", (*SMALL, *classes)), ("mean_error", ("experiment=gaussian",))):
        assert gantrain(*options, *quick, f"run_dir={name}", "log_every=1").status == 0
        assert gantrain("task=evaluate", f"run={name}", f"output={name}.json").status == 0
        assert values(f"{name}.json", name) == in_training(tmp_path / name, name)


def test_the_usual_protocols_are_the_defaults_whatever_the_default_dataset_has() -> None:
    assert composed("task=evaluate").metric == {}
    assert composed("task=evaluate", "metric=[fid]").metric["fid"]["num_samples"] == 50_000


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ((), "run is not set: task=evaluate needs either run=FOLDER, or images=PATH and real=PATH"),
        (("run=nowhere",), "run=nowhere is not the folder of a run"),
        (("run=run", "checkpoints=first"), "checkpoints=first: must be one of last, best, all"),
        (
            ("run=run/checkpoints/best.pt", "checkpoints=all"),
            "checkpoints=all: run=run/checkpoints/best.pt is a checkpoint",
        ),
        (("run=run", "output=x.txt"), "output=x.txt: the name must end in .json"),
        (
            ("run=run", "output=x.json", "checkpoints=all"),
            "output=x.png already exists, and gantrain never overwrites it",
        ),
        (("run=run", "metric=[]"), "was trained without metrics; choose some, for example metric=[fid]"),
        (("run=run", "metric=[modes]"), "metric=[modes]: dataset=digits has images"),
        (
            ("run=run", "metric.fid.nums=3"),
            "metric.fid.nums: the run has no such option (it has num_samples, num_real)",
        ),
        (("run=run", "metric.kid.num_samples=3"), "metric.kid.num_samples: the run has no such option"),
        (
            ("run=run", "dataset=digits", "dataset.image_size=32"),
            "but the generator of the run makes samples of the shape",
        ),
        (("run=run", "num=3"), "num=3: task=evaluate run=... loads the networks of the run and reads only the keys"),
        (("run=run", "batch_size=3"), "batch_size=3: task=evaluate run=... loads the networks of the run"),
        (("run=run", "runtime.precision=bf16"), "runtime.precision=bf16: task=evaluate run=... loads the networks"),
        (("run=run", "real=fakes"), "real=fakes: task=evaluate run=... loads the networks of the run and reads only"),
        (("run=run", "images=fakes"), "run=run and images=fakes exclude each other"),
        (
            ("images=fakes", "dataset=digits", "checkpoints=all"),
            "checkpoints=all: task=evaluate images=... does not use a run",
        ),
        (("run=run", "metric_split=test"), "metric_split=test: must be one of train, held_out"),
        (("images=fakes", "metric=[fid]"), "what are they compared with? Set real=PATH"),
        (
            ("images=fakes", "real=a", "dataset=digits", "metric=[fid]"),
            "dataset=digits: task=evaluate images=... real=... compares these two and reads",
        ),
        (("images=fakes", "dataset=cifar10"), "images=fakes: choose metrics, for example metric=[fid]"),
        (
            ("images=fakes", "dataset=digits", "metric=[intra_class_fid]"),
            "metric=[intra_class_fid] needs to know the class",
        ),
        (("images=fakes", "dataset=digits", "metric=[fid]"), "fakes does not exist; set images to the folder or zip"),
    ],
)
def test_mistakes_are_named(gantrain, run: Path, typed: tuple[str, ...], message: str) -> None:
    Path("x.png").touch()
    done = gantrain("task=evaluate", *typed)
    assert done.status == 2
    assert message in done.stderr


# Given images


def write_pngs(folder: str, pixels: np.ndarray) -> None:
    Path(folder).mkdir()
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(f"{folder}/{i:03d}.png")


def test_a_folder_a_zip_and_an_npz_have_the_same_score_and_fingerprint(gantrain, run: Path) -> None:
    for output in ("a/", "images.npz", "arr_0.npz array=arr_0"):
        assert gantrain("task=sample", "run=run", "num=70", *f"output={output}".split()).status == 0
    with zipfile.ZipFile("a.zip", "w") as archive:
        for path in sorted(Path("a").iterdir()):
            archive.write(path)
    real = digits(image_size=None).images[:90].numpy()
    np.savez("real.npz", real[:, 0])
    for name in ("a", "a.zip", "images.npz", "arr_0.npz"):
        typed = (f"images={name}", "real=real.npz", "metric=[fid]", "features=digits", f"output={name}.json")
        done = gantrain("task=evaluate", *typed)
        assert done.status == 0, done.stderr
        assert (
            "fid_digits, lower is better: digits features c667718c, 70 generated against 90 real, images "
            in done.stderr
        )
    scores = [read(f"{name}.json")["metrics"]["fid_digits"] for name in ("a", "a.zip", "images.npz", "arr_0.npz")]
    assert len({(score["value"], score["receipt"]["generated"]["sha256"]) for score in scores}) == 1
    receipt = scores[1]["receipt"]
    assert (receipt["ema"], receipt["seed"], receipt["split"], receipt["dataset"]) == (None, None, None, "real.npz")
    assert (receipt["generated"]["source"], receipt["num_generated"], receipt["num_real"]) == ("a.zip", 70, 90)
    extractor = Digits()
    extractor.load(torch.device("cpu"))
    with np.load("images.npz") as samples:
        fake = torch.from_numpy(samples["images"]).permute(0, 3, 1, 2).contiguous()
    both = (extractor(images).features for images in (fake, torch.from_numpy(real)))
    assert scores[0]["value"] == pytest.approx(frechet_distance_of_features(*both), rel=1e-6)


def test_all_images_are_used_unless_num_samples_is_typed(gantrain, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 28, 28), dtype=np.uint8)
    np.savez("a.npz", images=pixels)
    for name, typed, num in (("all", [], 30), ("few", ["num_samples=20"], 20), ("more", ["num_samples=40"], 30)):
        options = [f"metric.fid.{option}" for option in typed]
        done = gantrain(
            "task=evaluate", "images=a.npz", "dataset=digits", "metric=[fid]", *options, f"output={name}.json"
        )
        assert done.status == 0, done.stderr
        score = read(f"{name}.json")["metrics"]["fid_digits"]
        assert score["receipt"]["num_generated"] == num
        assert score["receipt"]["split"] == "train"
        warning = "metric.fid.num_samples=40: there are only 30 images; all of them are used"
        assert (warning in done.stderr) == (name == "more")
    chosen = torch.randperm(30, generator=generator("given images"))[:20]
    np.savez("chosen.npz", images=pixels[chosen.numpy()])
    given = ("task=evaluate", "images=chosen.npz", "dataset=digits", "metric=[fid]", "output=chosen.json")
    assert gantrain(*given).status == 0
    values = [read(f"{name}.json")["metrics"]["fid_digits"]["value"] for name in ("few", "chosen")]
    assert values[0] == pytest.approx(values[1], rel=1e-9)
    done = gantrain("task=evaluate", "images=a.npz", "dataset=digits", "metric=[kid]")
    assert done.status == 2
    assert "metric.kid: 30 generated images, but with these options it needs at least 1000" in done.stderr


def test_images_of_another_size_than_the_real_ones(gantrain, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    np.savez("a.npz", draw.integers(0, 256, (20, 30, 30), dtype=np.uint8))
    np.savez("rgb.npz", draw.integers(0, 256, (20, 28, 28, 3), dtype=np.uint8))
    done = gantrain("task=evaluate", "images=a.npz", "dataset=digits", "metric=[fid]")
    assert done.status == 0, done.stderr
    assert "The images have 30x30 pixels and the real ones 28x28: metrics resize both" in done.stderr
    for images, metric, message in (
        ("a.npz", "sliced_wasserstein", "the images have 30x30 pixels and the real ones 28x28, but pyramid does not"),
        ("rgb.npz", "fid", "features=digits needs gray images of digits, not images of shape (3, 28, 28)"),
    ):
        done = gantrain("task=evaluate", f"images={images}", "dataset=digits", f"metric=[{metric}]")
        assert done.status == 2
        assert message in done.stderr
    done = gantrain("task=evaluate", "images=a.npz", "dataset=gaussian", "metric=[moments]")
    assert done.status == 2
    assert "dataset=gaussian has vectors, which images cannot be compared with" in done.stderr


FIDELITY = (
    *("--cpu", "--isc", "--fid", "--kid", "--isc-splits=2", "--kid-subsets=1", "--kid-subset-size=8"),
    *("--feature-extractor-weights-path=weights.pth", "--no-cache", "--save-cpu-ram", "--json", "--silent"),
)


def test_scores_equal_those_of_the_command_of_torch_fidelity(
    gantrain, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the same two folders, with the same weights: of the published format, but random."""
    from torch_fidelity.fidelity import main as fidelity_command  # imports torchvision, for seconds

    write_random_weights(Path("weights.pth"), torch.Generator().manual_seed(0))
    # The samples of this run hardly differ from each other, and would all have the same inception score.
    write_pngs("images", digits(image_size=None).images[:8, 0].numpy())
    assert gantrain("task=sample", "run=run", "num=8", "output=samples/").status == 0
    monkeypatch.setattr(sys, "argv", ["fidelity", "--input1", "images", "--input2", "samples", *FIDELITY])
    capsys.readouterr()
    fidelity_command()
    expected = json.loads(capsys.readouterr().out)
    done = gantrain(
        *("task=evaluate", "images=images", "real=samples", "output=ours.json"),
        *("metric=[fid,kid,inception_score]", "metric.kid.subset_size=8", "metric.kid.num_subsets=1"),
        *("metric.inception_score.splits=2", "features=inception", "features.weights=weights.pth"),
        f"features.sha256={hashlib.sha256(Path('weights.pth').read_bytes()).hexdigest()}",
    )
    assert done.status == 0, done.stderr
    scores = {name: score["value"] for name, score in read("ours.json")["metrics"].items()}
    assert scores["fid"] == pytest.approx(expected["frechet_inception_distance"], rel=1e-5)
    assert scores["kid"] == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-4)
    # With random weights the classes hardly depend on the image.
    assert scores["inception_score"] - 1 == pytest.approx(expected["inception_score_mean"] - 1, rel=1e-4)
    assert scores["inception_score_std"] == pytest.approx(expected["inception_score_std"], rel=1e-4)
    assert scores["inception_score"] > 1.0001
