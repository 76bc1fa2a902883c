"""Labels of image folders and zips: dataset.json as StyleGAN's tools write it, and class folders."""

import json
import zipfile
from pathlib import Path

import pytest
from picture_bytes import pictures, png, values

from gantrain.datasets.classes import from_values
from gantrain.datasets.image_folder import image_folder
from gantrain.errors import DataError

# As dataset_tool.py of StyleGAN2-ADA writes it: shards of a thousand, stored without compression.
NAMES = [f"{i // 2:05d}/img{i:08d}.png" for i in range(6)]
LABELS = [1, 0, 2, 0, 1, 1]


def write(root: Path, content: dict[str, bytes], *, zipped: bool) -> Path:
    if zipped:
        with zipfile.ZipFile(root.with_suffix(".zip"), "w", zipfile.ZIP_STORED) as archive:
            for name, data in content.items():
                archive.writestr(name, data)
        return root.with_suffix(".zip")
    for name, data in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def stylegan(labels: object = LABELS, names: list[str] = NAMES) -> dict[str, bytes]:
    images = {name: png(10 * i) for i, name in enumerate(names)}
    pairs = None if labels is None else list(zip(names, labels, strict=True))  # type: ignore[call-overload]
    return images | {"dataset.json": json.dumps({"labels": pairs}).encode()}


def load(root: Path, labels: str = "auto", **changes: object):
    return image_folder(root=str(root), labels=labels, **pictures(root.parent / "cache", **changes))


each_place = pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])


@each_place
def test_labels_of_stylegan_are_read(tmp_path: Path, zipped: bool):
    dataset = load(write(tmp_path / "data", stylegan(), zipped=zipped))
    assert values(dataset) == [0, 10, 20, 30, 40, 50]
    assert dataset.labels.tolist() == LABELS
    assert (dataset.num_classes, dataset.class_names) == (3, ("0", "1", "2"))


@each_place
@pytest.mark.parametrize("labels", [None, []], ids=["null", "empty"])
def test_shards_of_stylegan_are_no_classes(tmp_path: Path, zipped: bool, labels: object):
    content = stylegan(None) if labels is None else stylegan() | {"dataset.json": b'{"labels": []}'}
    dataset = load(write(tmp_path / "data", content, zipped=zipped))
    assert values(dataset) == [0, 10, 20, 30, 40, 50]
    assert (dataset.labels, dataset.num_classes) == (None, None)


@each_place
def test_shards_of_ffhq_are_no_classes(tmp_path: Path, zipped: bool, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    content = {f"{i // 2 * 1000:05d}/{i // 2 * 1000 + i % 2:05d}.png": png(10 * i) for i in range(6)}
    root = write(tmp_path / "data", content, zipped=zipped)
    assert load(root).num_classes is None
    assert "the folders 00000 to 02000 are parts of one collection, not classes" in caplog.text
    assert load(root, "folders").num_classes == 3


@pytest.mark.parametrize(
    "names",
    [("00001/7.png", "00002/3.png"), ("00001/a.png", "00002/b.png"), ("1/1.png", "2/2.png")],
    ids=["numbers-not-in-order", "no-numbers", "short"],
)
def test_folders_that_are_only_named_by_numbers_are_classes(tmp_path: Path, names: tuple[str, ...]):
    root = write(tmp_path / "data", {name: png(i) for i, name in enumerate(names)}, zipped=False)
    assert load(root).num_classes == 2


def test_a_zipped_folder_has_its_dataset_json_inside(tmp_path: Path):
    content = {f"cats/{name}": data for name, data in stylegan().items()}
    dataset = load(write(tmp_path / "data", content, zipped=True))
    assert (values(dataset), dataset.labels.tolist()) == ([0, 10, 20, 30, 40, 50], LABELS)


@each_place
def test_labels_take_precedence_over_class_folders_and_can_be_left_out(
    tmp_path: Path, zipped: bool, caplog: pytest.LogCaptureFixture
):
    names = ["a/0.png", "a/1.png", "b/2.png", "b/3.png"]
    root = write(tmp_path / "data", stylegan([0, 1, 0, 1], names), zipped=zipped)
    found = {rule: load(root, rule) for rule in ("auto", "json", "folders", "none")}
    for dataset in found.values():
        assert values(dataset) == [0, 10, 20, 30]
    labels = {rule: None if d.labels is None else d.labels.tolist() for rule, d in found.items()}
    assert labels == {"auto": [0, 1, 0, 1], "json": [0, 1, 0, 1], "folders": [0, 0, 1, 1], "none": None}
    assert found["folders"].class_names == ("a", "b")
    assert len({d.fingerprint for d in found.values()}) == 3
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 3
    caplog.clear()
    for rule in found:
        assert values(load(root, rule)) == [0, 10, 20, 30]
    assert not caplog.records, "each rule has its own cache, which is not decoded again"


def test_one_hot_labels_and_backslashes_are_read(tmp_path: Path):
    pairs = [
        [name.replace("/", "\\"), [float(label == c) for c in range(3)]]
        for name, label in zip(NAMES, LABELS, strict=True)
    ]
    content = stylegan() | {"dataset.json": json.dumps({"labels": pairs}).encode()}
    assert load(write(tmp_path / "data", content, zipped=False)).labels.tolist() == LABELS


def test_a_bad_image_needs_no_label(tmp_path: Path):
    content = stylegan() | {"00000/broken.png": b"no image"}
    pairs = [*zip(NAMES, LABELS, strict=True), ("00000/broken.png", 0)]
    content["dataset.json"] = json.dumps({"labels": pairs}).encode()
    dataset = load(write(tmp_path / "data", content, zipped=True), max_bad_fraction=0.5)
    assert values(dataset) == [0, 10, 20, 30, 40, 50]
    assert dataset.labels.tolist() == LABELS


@each_place
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r'dataset\.json of .*data\S* is not of the form \{"labels"'),
        (b"1", "is not of the form"),
        (b'{"labels": [1, 2]}', "is not of the form"),
        (b"[" * 100_000, "is not of the form"),
        (b'{"labels": [["00000/img00000000.png", 1]]}', r"no label for 00000/img00000001\.png \(5 of 6 images\)"),
        (json.dumps({"labels": [[name, 0.5] for name in NAMES]}).encode(), r"the label 0\.5 is neither the number nor"),
        (
            json.dumps({"labels": [[name, [0.5, 0.5]] for name in NAMES]}).encode(),
            r"the label \(0\.5, 0\.5\) is neither",
        ),
        (json.dumps({"labels": [[name, None] for name in NAMES]}).encode(), "the label None is neither"),
    ],
)
def test_a_broken_dataset_json_is_an_error(tmp_path: Path, zipped: bool, content: bytes, message: str):
    root = write(tmp_path / "data", stylegan() | {"dataset.json": content}, zipped=zipped)
    with pytest.raises(DataError, match=message):
        load(root)
    assert load(root, "none").labels is None


def test_another_file_of_this_name_does_not_hide_the_class_folders(tmp_path: Path):
    content = {"a/0.png": png(0), "b/1.png": png(10), "dataset.json": b'{"title": "my photographs"}'}
    root = write(tmp_path / "data", content, zipped=False)
    assert load(root).class_names == ("a", "b")
    with pytest.raises(DataError, match=r"dataset\.labels=json: .* has no labels in dataset\.json"):
        load(root, "json")


def test_labels_that_are_declared_names_have_their_numbers():
    remedy = {"of": "x", "remedy": "correct it"}
    names = ("bee", "ant", "cat")
    for values_, expected in ((["cat", "bee"], [2, 0]), ([2, 1], [2, 1])):
        found = from_values(values_, names, **remedy)
        assert (found.labels.tolist(), found.names) == (expected, names)
    for wrong, message in (
        (["dog"], "the label dog is none of the 3 classes, bee to cat; correct it"),
        ([], "no labels"),
    ):
        with pytest.raises(DataError, match=message):
            from_values(wrong, names, **remedy)


def test_rules_that_find_nothing_are_errors(tmp_path: Path):
    root = write(tmp_path / "data", {"a.png": png(0)}, zipped=False)
    with pytest.raises(DataError, match=r"dataset\.labels=json: .* has no file dataset\.json"):
        load(root, "json")
    with pytest.raises(DataError, match=r"dataset\.labels=folders: .* does not have two folders or more"):
        load(root, "folders")
