"""CelebA's attributes as labels."""

from pathlib import Path

import pytest
from picture_bytes import png, values

from gantrain.datasets.celeba import celeba
from gantrain.errors import ConfigError, DataError

NAMES = ("5_o_Clock_Shadow", "Male", "Smiling")
ROWS = {"000001.jpg": (-1, 1, 1), "000002.jpg": (1, -1, -1), "000003.jpg": (-1, -1, 1), "000004.jpg": (-1, 1, -1)}
TEXT = "\n".join(
    [f"{len(ROWS)}", " ".join(NAMES), *(f"{name}  {' '.join(f'{v:2d}' for v in row)}" for name, row in ROWS.items())]
)
CSV = "\n".join([",".join(("image_id", *NAMES)), *(",".join((name, *map(str, row))) for name, row in ROWS.items())])


def write(root: Path, text: str = TEXT, suffix: str = "txt") -> Path:
    folder = root / "celeba/img_align_celeba"
    folder.mkdir(parents=True)
    for i, name in enumerate(ROWS):
        (folder / name).write_bytes(png(10 * i))
    (root / f"celeba/list_attr_celeba.{suffix}").write_text(text + "\n")
    return root


def load(root: Path, attributes: list[str] | None, **changes: object):
    options = {"download": False, "image_size": 8, "crop": None, "max_bad_fraction": 0.0} | changes
    return celeba(root=str(root), attributes=attributes, cache_dir=str(root / "cache"), **options)


@pytest.mark.parametrize(("text", "suffix"), [(TEXT, "txt"), (CSV, "csv")])
def test_attributes_are_labels(tmp_path: Path, text: str, suffix: str):
    root = write(tmp_path, text, suffix)
    male = load(root, ["Male"])
    assert (values(male), male.labels.tolist()) == ([0, 10, 20, 30], [1, 0, 0, 1])
    assert (male.num_classes, male.class_names) == (2, ("not Male", "Male"))
    both = load(root, ["Male", "Smiling"])
    both.prepare(num_workers=1)
    assert both.labels.tolist() == [3, 0, 2, 1]
    assert both.class_names == ("not Male, not Smiling", "Male, not Smiling", "not Male, Smiling", "Male, Smiling")
    none = load(root, None)
    assert (values(none), none.labels) == ([0, 10, 20, 30], None)
    assert len({dataset.fingerprint for dataset in (male, both, none)}) == 3


def test_a_bad_face_is_left_out_with_its_label(tmp_path: Path):
    root = write(tmp_path)
    (root / "celeba/img_align_celeba/000002.jpg").write_bytes(b"broken")
    dataset = load(root, ["Male"], max_bad_fraction=0.5)
    assert (values(dataset), dataset.labels.tolist()) == ([0, 20, 30], [1, 0, 1])


@pytest.mark.parametrize("attributes", [[], ["Male", "Male"], [f"a{i}" for i in range(11)]])
def test_the_number_of_attributes_is_checked(tmp_path: Path, attributes: list[str]):
    with pytest.raises(ConfigError, match="must be 1 to 10 different attributes, for example"):
        load(write(tmp_path), attributes)


def test_unknown_attributes_are_named_with_the_known_ones(tmp_path: Path):
    with pytest.raises(ConfigError, match="male is none of 5_o_Clock_Shadow, Male, Smiling"):
        load(write(tmp_path), ["male"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TEXT.replace("000003.jpg", "000009.jpg"), r"has no attributes of 000003\.jpg"),
        (TEXT.replace("-1  1 -1", "-1  1"), r"the line 000004\.jpg -1 1 is not a name with 3 values"),
        (TEXT.replace("-1  1 -1", "-1  1  0"), "is not a name with 3 values 1 or -1"),
        ("", "holds no attributes"),
        ("4\nMale\n", "holds no attributes"),
    ],
)
def test_a_broken_file_is_an_error(tmp_path: Path, text: str, message: str):
    with pytest.raises((DataError, ConfigError), match=message):
        load(write(tmp_path, text), ["Male"])


def test_a_missing_file_is_an_error(tmp_path: Path):
    root = write(tmp_path)
    (root / "celeba/list_attr_celeba.txt").unlink()
    with pytest.raises(
        DataError, match=r"needs list_attr_celeba\.txt or list_attr_celeba\.csv in .*celeba; put it there"
    ):
        load(root, ["Male"])
