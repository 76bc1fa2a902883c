"""task=data: what a user sees of their data before they train on them."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COLORS = {"cat": (250, 10, 10), "dog": (10, 250, 10), "emu": (10, 10, 250)}


def make_photos(root: Path, nums: dict[str, int], size: tuple[int, int] = (40, 30)) -> None:
    draw = np.random.default_rng(0)
    for name, num in nums.items():
        (root / name).mkdir(parents=True)
        for i in range(num):
            small = draw.integers(0, 200, (6, 6, 3)) // 4 + np.array(COLORS[name]) * 3 // 4
            Image.fromarray(small.astype(np.uint8)).resize(size).save(root / name / f"{i:02d}.png")


def row(output: str, name: str) -> str:
    """Return the text of a row of the table, which may be wrapped."""
    found = re.search(rf"^{name}  +(.*(?:\n {{6,}}.*)*)", output, re.MULTILINE)
    assert found, output
    return " ".join(found[1].split())


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    make_photos(root, {"cat": 6, "dog": 5, "emu": 4})
    return root


def test_number_sizes_modes_and_labels(gantrain, photos: Path) -> None:
    Image.open(photos / "cat/00.png").resize((60, 60)).convert("L").save(photos / "cat/gray.png")
    done = gantrain("task=data", "dataset=image_folder", "dataset.root=photos", "dataset.image_size=16")
    assert done.status == 0, done.stderr
    assert row(done.stderr, "images") == "16 (image_folder)"
    assert row(done.stderr, "sizes") == "40x30 (94%), 60x60 (6%); shorter side 30 to 60, median 30 px"
    assert row(done.stderr, "modes") == "RGB (94%), L (6%)"
    assert row(done.stderr, "labels") == "3 classes: cat 7, dog 5, emu 4"
    assert row(done.stderr, "for networks") == "16x16, RGB"
    assert "warning" not in done.stderr
    assert not (photos.parent / "outputs").exists(), "no run is started"


def test_images_left_out_are_counted_by_reason(gantrain, photos: Path) -> None:
    (photos / "cat/a.png").write_bytes(b"no image")
    (photos / "dog/b.png").write_bytes(b"no image")
    larger = io.BytesIO()
    Image.open(photos / "dog/00.png").resize((60, 60)).save(larger, "PNG")
    (photos / "dog/c.png").write_bytes(larger.getvalue()[:100])
    done = gantrain("task=data", "dataset=image_folder", "dataset.root=photos", "dataset.image_size=16")
    assert done.status == 0, done.stderr
    assert row(done.stderr, "images") == "15 (image_folder)"
    assert row(done.stderr, "sizes") == "all 40x30", "an image that is left out does not count"
    left_out = row(done.stderr, "left out")
    assert left_out.startswith("3: 2 is not a ")
    assert "(cat/a.png)" in left_out
    assert "1 cannot be decoded (dog/c.png)" in left_out


def test_duplicates_are_found_by_content_and_by_looks(gantrain, photos: Path) -> None:
    (photos / "dog/copy.png").write_bytes((photos / "cat/03.png").read_bytes())
    Image.open(photos / "emu/01.png").resize((80, 60)).save(photos / "emu/larger.jpg", quality=85)
    done = gantrain("task=data", "dataset=image_folder", "dataset.root=photos", "dataset.image_size=32")
    assert row(done.stderr, "same pixels") == "1 of the images repeats another: cat/03.png = dog/copy.png"
    assert row(done.stderr, "nearly same") == "1 of the images repeats another: emu/01.png = emu/larger.jpg"


def test_a_crop_that_cuts_much_away_and_enlargements_are_warned_of(gantrain, tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", {"cat": 9}, size=(90, 30))
    make_photos(tmp_path / "photos/more", {"dog": 11}, size=(60, 60))
    done = gantrain("task=data", "dataset=image_folder", "dataset.root=photos", "dataset.image_size=48")
    assert "The crop cuts away more than 30% of 9 of 20 images (of the median image 0%)" in done.stderr
    assert "9 of 20 images are enlarged to 48 px (the smallest has 30)" in done.stderr


def test_a_rare_class_is_warned_of(gantrain, tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", {"cat": 30, "dog": 30, "emu": 1})
    done = gantrain("task=data", "dataset=image_folder", "dataset.root=photos", "dataset.image_size=16")
    assert "There are few images of 1 of 3 classes, which are hard to learn: emu (1)." in done.stderr


def test_the_grid_shows_a_row_for_each_class_as_the_networks_see_it(gantrain, photos: Path) -> None:
    command = ("task=data", "dataset=image_folder", "dataset.root=photos", "dataset.image_size=16", "num=15")
    assert gantrain(*command, "output=look.png").status == 0
    picture = np.asarray(Image.open(photos.parent / "look.png")).astype(int)
    # 3 rows of 5 images of 16 px, enlarged 4 times, with lines of 2 px between them.
    assert picture.shape == (3 * 66 + 2, 5 * 66 + 2, 3)
    cells = picture[2:, 2:].reshape(3, 66, 5, 66, 3)[:, :64, :, :64]
    for i, color in enumerate(COLORS.values()):
        shown = cells[i].transpose(1, 0, 2, 3)
        assert [int(cell.mean((0, 1)).argmax()) == i or bool((cell == 255).all()) for cell in shown] == [True] * 5, (
            color
        )
    assert [bool((cell == 255).all()) for cell in cells[2].transpose(1, 0, 2, 3)] == [False] * 4 + [True]
    refused = gantrain(*command, "output=look.png")
    assert (refused.status, "already exists" in refused.stderr) == (2, True)


def test_mirrored_images_are_shown_mirrored(gantrain, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    half = np.zeros((16, 16, 3), np.uint8)
    half[:, :8] = 255
    Image.fromarray(half).save(tmp_path / "photos/a.png")
    Image.fromarray(half // 2).save(tmp_path / "photos/b.png")
    command = ("task=data", "dataset=image_folder", "dataset.root=photos", "dataset.image_size=16", "num=2")
    assert gantrain(*command, "output=plain.png").status == 0
    assert gantrain(*command, "output=mirrored.png", "horizontal_flip=true").status == 0
    plain, mirrored = (np.asarray(Image.open(tmp_path / f"{name}.png"))[10, ::8, 0] for name in ("plain", "mirrored"))
    assert not np.array_equal(plain, mirrored)
    assert sorted(plain[:16].tolist()) == sorted(mirrored[:16].tolist())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dataset=gaussian",), "dataset=gaussian draws new samples for every batch; task=data looks at stored images"),
        (("output=x.npz",), r"output=x.npz: the name must end in .png"),
        (("model=dcgan",), "model=dcgan: task=data looks at a dataset and reads only the keys"),
        (("num=0",), "num=0: must be at least 1"),
        (("dataset=image_folder",), "dataset.root is not set"),
    ],
)
def test_what_cannot_be_looked_at_is_refused(gantrain, arguments: tuple[str, ...], message: str) -> None:
    refused = gantrain("task=data", *arguments)
    assert refused.status == 2
    assert message in refused.stderr


def test_arrays_and_included_digits_can_be_looked_at(gantrain, tmp_path: Path) -> None:
    np.savez(
        tmp_path / "x.npz",
        images=np.random.default_rng(0).integers(0, 256, (5, 8, 8), np.uint8),
        labels=[0, 1, 1, 0, 1],
    )
    done = gantrain("task=data", "dataset=npz", "dataset.root=x.npz")
    assert row(done.stderr, "labels") == "2 classes: 0 2, 1 3"
    assert row(done.stderr, "for networks") == "8x8, gray"
    assert "sizes" not in done.stderr


def test_a_grid_of_a_huge_num_has_no_more_cells_than_images(gantrain, tmp_path: Path) -> None:
    look = ("task=data", "dataset=digits", "output=look.png")
    done = gantrain(*look, "num=100000000000", "dataset.image_size=4")
    assert done.status == 0, done.stderr
    width, height = Image.open(tmp_path / "look.png").size
    assert height == 10 * 6 + 2  # a row for each class
    assert (width - 2) % 6 == 0
    assert (width - 2) // 6 < 2_000


def test_a_grid_that_does_not_fit_into_memory_is_refused(gantrain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gantrain.engine.memory.total_bytes", lambda _: 10**6)
    refused = gantrain("task=data", "dataset=digits", "num=10000", "output=look.png")
    assert refused.status == 2
    assert "the images of a grid alone need" in refused.stderr
    assert not Path("look.png").exists()


def test_the_test_split_is_looked_at_too(gantrain, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    arrays = {"x_train": images, "y_train": [0, 1, 2] * 2, "x_test": images[:2]}
    np.savez(tmp_path / "good.npz", **arrays, y_test=[2, 1])
    np.savez(tmp_path / "bad.npz", **arrays, y_test=[7, 1])
    done = gantrain("task=data", "dataset=npz", "dataset.root=good.npz", "dataset.holdout=test")
    assert row(done.stderr, "held out") == "2: the test split; labels: 3 classes: 0 0, 1 1, 2 1"
    refused = gantrain("task=data", "dataset=npz", "dataset.root=bad.npz", "dataset.holdout=test")
    assert refused.status == 2
    assert "the test images of npz have the class 7" in refused.stderr


def test_keys_that_a_look_does_not_read_are_named_at_once(gantrain, photos: Path) -> None:
    training = ("model=dcgan", "steps=2", "runtime.threads=1", "dataset=image_folder", "dataset.root=photos")
    refused = gantrain("task=data", *training)
    assert refused.status == 2
    assert "model=dcgan steps=2: task=data looks at a dataset and reads only" in refused.stderr
    assert "leave them out" in refused.stderr
