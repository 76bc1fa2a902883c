"""task=sample: its output files, and what each sample depends on."""

import errno
import shutil
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from gantrain.errors import ConfigError
from gantrain.models import conditional_dcgan, dcgan
from gantrain.seeding import generator
from gantrain.session.loading import LoadedGenerator
from gantrain.tasks.samples import chosen_classes

SMALL = ("model=dcgan", "model.generator.width=2", "model.discriminator.width=2", "batch_size=4", "metric=[]")


@pytest.fixture(scope="module")
def trained(train) -> Path:
    return train(*SMALL, "steps=3")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


def images(path: str | Path) -> np.ndarray:
    with np.load(path) as archive:
        assert archive.files == ["images"]
        return archive["images"]


def test_npz_holds_uint8_images_channels_last(gantrain, run: Path) -> None:
    result = gantrain("task=sample", "run=run", "num=70", "output=a.npz")
    assert result.status == 0, result.stderr
    pixels = images("a.npz")
    assert pixels.shape == (70, 28, 28, 1)
    assert pixels.dtype == np.uint8
    assert not (Path("outputs")).exists()
    assert not (Path(".hydra")).exists()


def test_sample_i_depends_only_on_the_seed_and_i(gantrain, run: Path) -> None:
    for name, *more in (("a", "num=130"), ("b", "num=130", "batch_size=7"), ("c", "num=5"), ("d", "num=130", "seed=1")):
        assert gantrain("task=sample", "run=run", f"output={name}.npz", *more).status == 0
    np.testing.assert_array_equal(images("a.npz"), images("b.npz"))
    np.testing.assert_array_equal(images("a.npz")[:5], images("c.npz"))
    assert (images("a.npz") != images("d.npz")).mean() > 0.1


def test_the_generator_is_in_eval_mode(gantrain, run: Path) -> None:
    gantrain("task=sample", "run=run", "num=64", "output=a.npz")
    G = dcgan.Generator(
        (1, 28, 28), 100, width=2, norm="batch", activation="relu", slope=0.2, bias="none", init="dcgan"
    )
    G.load_state_dict(torch.load(run / "checkpoints/step_00000003.pt", weights_only=True)["G"])
    z = torch.randn(64, 100, generator=generator(0, "sample", 0))
    with torch.no_grad():
        expected = ((G.eval()(z) + 1) * 127.5).round().permute(0, 2, 3, 1).numpy()
        in_training = ((G.train()(z) + 1) * 127.5).round().permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(images("a.npz"), expected)
    assert (images("a.npz") != in_training).mean() > 0.1


def test_a_latent_that_is_typed_replaces_that_of_the_run(gantrain, run: Path) -> None:
    for name, *latent in (("a",), ("b", "latent=truncated_normal", "latent.bound=1e9"), ("c", "latent=normal")):
        assert gantrain("task=sample", "run=run", "num=8", f"output={name}.npz", *latent).status == 0
    np.testing.assert_array_equal(images("a.npz"), images("c.npz"))
    assert (images("a.npz") != images("b.npz")).mean() > 0.1  # other numbers of the same distribution
    assert (
        gantrain("task=sample", "run=run", "latent=truncated_normal", "latent.bound=1e-6", "output=d.npz").status == 0
    )
    assert images("d.npz").astype(int).std(0).max() <= 1  # all latents are 0
    refused = gantrain("task=sample", "run=run", "latent=normal", "latent.z_dim=7", "output=e.npz")
    assert refused.status == 2
    assert "latent.z_dim=7: the generator of the run takes 100 dimensions" in refused.stderr


def test_standing_statistics_replace_those_of_the_training(gantrain, run: Path) -> None:
    for name, *more in (("a",), ("b", "standing_statistics=3"), ("c", "standing_statistics=3", "num=70")):
        assert gantrain("task=sample", "run=run", "num=8", f"output={name}.npz", *more).status == 0
    assert (images("a.npz") != images("b.npz")).mean() > 0.1
    np.testing.assert_array_equal(images("c.npz")[:8], images("b.npz"))
    refused = gantrain("task=sample", "run=run", "standing_statistics=0", "output=d.npz")
    assert (refused.status, "standing_statistics=0: must be at least 1" in refused.stderr) == (2, True)
    in_training = gantrain(*SMALL, "standing_statistics=3", "steps=1")
    assert in_training.status == 2
    assert "standing_statistics=3 has an effect only with task=sample or task=evaluate" in in_training.stderr


def test_png_output_is_a_grid(gantrain, run: Path) -> None:
    result = gantrain("task=sample", "run=run", "num=16", "output=grid.png")
    assert result.status == 0, result.stderr
    width, height = Image.open("grid.png").size
    assert width == height >= 4 * 28


def test_npz_holds_float32_vectors(gantrain, tmp_path: Path) -> None:
    assert gantrain("experiment=gaussian", "metric=[]", "callback=[checkpoint]", "steps=2", "run_dir=run").status == 0
    assert gantrain("task=sample", "run=run", "num=100", "output=a.npz").status == 0
    with np.load("a.npz") as archive:
        assert archive["samples"].shape == (100, 1)
        assert archive["samples"].dtype == np.float32
    for output in ("a.png", "a/"):
        refused = gantrain("task=sample", "run=run", f"output={output}")
        assert refused.status == 2
        assert "vectors cannot be drawn; write an array with output=a.npz" in refused.stderr


def test_ema_generator_is_sampled_if_the_run_has_one(gantrain, tmp_path: Path) -> None:
    assert gantrain(*SMALL, "steps=3", "ema_halflife_images=1e9", "optimizer.lr=0.5", "run_dir=run").status == 0
    assert gantrain("task=sample", "run=run", "output=averaged.npz").status == 0
    assert images("averaged.npz").std() < 40  # the initial weights make gray images, those trained with lr 0.5 do not


def test_nothing_is_overwritten_and_missing_checkpoints_are_named(gantrain, run: Path) -> None:
    Path("a.npz").write_text("mine")
    taken = gantrain("task=sample", "run=run", "output=a.npz")
    assert taken.status == 2
    assert "output=a.npz already exists" in taken.stderr
    assert Path("a.npz").read_text() == "mine"
    (run / "checkpoints/step_00000003.pt").unlink()
    without = gantrain("task=sample", "run=run", "output=b.npz")
    assert without.status == 2
    assert "has no checkpoint" in without.stderr


def test_memory_does_not_grow_with_the_number_of_samples(gantrain, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tracemalloc

    gantrain("task=sample", "run=run", "num=64", "output=warm.npz")
    peaks = []
    for num in (320, 3200):
        tracemalloc.start()
        assert gantrain("task=sample", "run=run", f"num={num}", f"output={num}.npz").status == 0
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert images("3200.npz").nbytes > 2_500_000
    assert peaks[1] < peaks[0] + 1_000_000


@pytest.fixture(scope="module")
def trained_with_classes(train) -> Path:
    return train(*SMALL, "network=cdcgan", "steps=3")


@pytest.fixture
def conditional_run(trained_with_classes: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained_with_classes, tmp_path / "run")


def generator_of(run: Path) -> conditional_dcgan.Generator:
    options = {"width": 2, "norm": "batch", "activation": "relu", "slope": 0.2, "bias": "none", "init": "dcgan"}
    G = conditional_dcgan.Generator((1, 28, 28), 100, num_classes=10, embedding_dim=10, **options)
    G.load_state_dict(torch.load(run / "checkpoints/step_00000003.pt", weights_only=True)["G"])
    return G.eval()


def test_labels_select_the_classes(gantrain, conditional_run: Path) -> None:
    assert gantrain("task=sample", "run=run", "labels=[3,7]", "num=10", "output=a.npz").status == 0
    G = generator_of(conditional_run)
    z = torch.randn(64, 100, generator=generator(0, "sample", 0))[:10]
    with torch.no_grad():
        made = [((G(z, torch.full((10,), y)) + 1) * 127.5).round().permute(0, 2, 3, 1).numpy() for y in (3, 7)]
    expected = np.where((np.arange(10) < 5)[:, None, None, None], *made)
    # Batches of another size may round differently.
    assert np.abs(images("a.npz").astype(int) - expected).max() <= 1
    assert (made[0] != made[1]).mean() > 0.1


@pytest.mark.parametrize(
    ("labels", "num", "classes", "columns"),
    [("all", 30, range(10), 3), ("[7,3]", 10, [7, 3], 5), ("[3]", 16, [3] * 4, 4), ("3", 6, [3] * 2, 3)],
)
def test_rows_of_the_grid_are_classes(
    gantrain, conditional_run: Path, labels: str, num: int, classes: Sequence[int], columns: int
) -> None:
    """Each class has a row, and a single class is drawn in a square grid, if `num` allows."""
    assert gantrain("task=sample", "run=run", f"labels={labels}", f"num={num}", "output=a.png").status == 0
    picture = np.asarray(Image.open("a.png").convert("L"))
    # Between the cells are lines of 2 pixels; each pixel of an image is a block.
    factor = -(-256 // (28 * columns))
    cell = 28 * factor + 2
    assert picture.shape == (len(classes) * cell + 2, columns * cell + 2)
    G = generator_of(conditional_run)
    z = torch.randn(64, 100, generator=generator(0, "sample", 0))[:num]
    y = torch.tensor(list(classes)).repeat_interleave(columns)
    with torch.no_grad():
        expected = ((G(z, y) + 1) * 127.5).round()[:, 0].numpy()
    for i in range(num):
        top, left = i // columns * cell + 2, i % columns * cell + 2
        shown = picture[top : top + cell - 2 : factor, left : left + cell - 2 : factor]
        # Batches of another size may round differently.
        assert np.abs(shown.astype(int) - expected[i]).max() <= 1


def test_labels_all_makes_eight_samples_of_each_class(gantrain, conditional_run: Path) -> None:
    assert gantrain("task=sample", "run=run", "labels=all", "output=b.npz").status == 0
    assert len(images("b.npz")) == 80


def test_random_classes_do_not_depend_on_the_number_of_samples(gantrain, conditional_run: Path) -> None:
    for name, num in (("a", 130), ("b", 5)):
        assert gantrain("task=sample", "run=run", f"num={num}", f"output={name}.npz").status == 0
    np.testing.assert_array_equal(images("a.npz")[:5], images("b.npz"))


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["labels=[10]"], "labels=[10]: must be all, or a list of classes from 0 to 9, for example labels=[3]"),
        (["labels=[-1]"], "must be all, or a list of classes from 0 to 9"),
        (["labels=[]"], "must be all, or a list of classes from 0 to 9"),
        (["labels=three"], "must be all, or a list of classes from 0 to 9"),
        (["labels=[true]"], "must be all, or a list of classes from 0 to 9"),
        (["labels=all", "num=25"], "num=25: must be a multiple of 10, because each class of labels=all has a row"),
    ],
)
def test_invalid_labels_are_refused(gantrain, conditional_run: Path, typed: list[str], message: str) -> None:
    result = gantrain("task=sample", "run=run", "output=a.npz", *typed)
    assert result.status == 2
    assert message in result.stderr
    assert not Path("a.npz").exists()


def test_example_of_a_label_is_a_class_of_the_run() -> None:
    loaded = Mock(spec=LoadedGenerator, class_counts=[30, 30])
    with pytest.raises(ConfigError, match=r"labels=\[2\]: .* from 0 to 1, for example labels=\[1\]"):
        chosen_classes([2], loaded)


def test_labels_of_an_unconditional_run_are_refused(gantrain, run: Path) -> None:
    result = gantrain("task=sample", "run=run", "output=a.npz", "labels=[3]")
    assert result.status == 2
    assert "labels=[3]: the generator of this run is unconditional; leave labels out" in result.stderr


def pictures(folder: str | Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted(Path(folder).iterdir())])


def test_a_folder_has_a_png_for_each_sample(gantrain, run: Path) -> None:
    assert gantrain("task=sample", "run=run", "num=70", "output=a.npz").status == 0
    Path("empty.d").mkdir()
    for output in ("new", "with.dot/", "empty.d"):
        result = gantrain("task=sample", "run=run", "num=70", f"output={output}")
        assert result.status == 0, result.stderr
        assert sorted(path.name for path in Path(output).iterdir()) == [f"{i:06d}.png" for i in range(70)]
        np.testing.assert_array_equal(pictures(output), images("a.npz")[..., 0])
    assert Path("new").stat().st_mode & 0o777 == Path("run").stat().st_mode & 0o777
    assert not list(Path().glob(".*"))


def test_file_names_carry_the_class_if_labels_are_set(gantrain, conditional_run: Path) -> None:
    assert gantrain("task=sample", "run=run", "labels=[7,3]", "num=6", "output=a/").status == 0
    names = [f"{i:06d}_class{label}.png" for i, label in enumerate([7, 7, 7, 3, 3, 3])]
    assert sorted(path.name for path in Path("a").iterdir()) == names
    assert gantrain("task=sample", "run=run", "labels=[7,3]", "num=6", "output=a.npz").status == 0
    np.testing.assert_array_equal(pictures("a"), images("a.npz")[..., 0])


def test_array_is_the_name_in_the_npz(gantrain, run: Path) -> None:
    assert gantrain("task=sample", "run=run", "num=3", "output=a.npz", "array=arr_0").status == 0
    with np.load("a.npz") as archive:
        assert archive.files == ["arr_0"]
        assert archive["arr_0"].shape == (3, 28, 28, 1)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["output=x.png", "array=arr_0"], "array=arr_0: only a .npz file has an array; leave it out"),
        (["output=x/", "array=arr_0"], "array=arr_0: only a .npz file has an array; leave it out"),
        (["output=x.npz", "array=a/b"], "array=a/b: must consist of letters, digits and _, for example array=arr_0"),
        (["output=x.jpg"], "output=x.jpg: the name must end in .npz (an array), .png (a grid) or / (a folder"),
        (["output=run"], "output=run already exists, and gantrain never overwrites it"),
        (["output=."], "output=. is the working directory; name a folder in it"),
        (["output=a/b/"], "output=a/b: there is no folder a; create it first"),
        (["output=x/", f"num={10**15}"], "output=x/ needs 4.1e+06 TB, but x has only"),
        (["output=x/", "checkpoints=all"], "checkpoints=all: task=sample loads the networks of the run and reads only"),
    ],
)
def test_outputs_that_cannot_be_written_are_refused(gantrain, run: Path, typed: list[str], message: str) -> None:
    result = gantrain("task=sample", "run=run", *typed)
    assert result.status == 2
    assert message in result.stderr
    assert [path.name for path in Path().iterdir()] == ["run"]


def test_nothing_is_left_of_a_folder_that_could_not_be_completed(
    gantrain, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = Image.Image.save, []

    def save(self: Image.Image, path: Path, **options: object) -> None:
        calls.append(path)
        if len(calls) == 5:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        original(self, path, **options)

    monkeypatch.setattr(Image.Image, "save", save)
    result = gantrain("task=sample", "run=run", "num=70", "output=a/")
    assert result.status == 1
    assert "The disk is full" in result.stderr
    assert [path.name for path in Path().iterdir()] == ["run"]
