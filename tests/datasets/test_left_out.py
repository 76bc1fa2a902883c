"""Which files below a root are not part of the data, and what is said about them; a folder and a zip are alike."""

import io
import logging
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence
from PIL.PngImagePlugin import PngInfo

from gantrain.datasets import image_files, images, left_out
from gantrain.datasets.image_files import ImageFiles, open_image_files
from gantrain.datasets.image_folder import image_folder
from gantrain.errors import DataError

COLORS = np.stack(np.meshgrid(np.arange(8) * 30, np.arange(8) * 30, 90), -1)[:, :, 0].astype(np.uint8)  # a gradient


def encoded(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(COLORS).save(buffer, kind, **options)
    return buffer.getvalue()


def marked(software: str) -> bytes:
    info = PngInfo()
    info.add_text("Software", software)
    return encoded("PNG", pnginfo=info)


PNG, SAMPLE = encoded("PNG"), marked("gantrain sample")
RUN = b'{"name": "x", "versions": {"gantrain": "0.1.0"}}'
CONFIG = b"model:\n  generator:\n    _target_: gantrain.models.dcgan.Generator\n"


@pytest.fixture(params=["folder", "zip", "zip of a folder"])
def files_of(request: pytest.FixtureRequest, tmp_path: Path):
    """Write files below a root, and list its images."""

    def write(content: dict[str, bytes]) -> ImageFiles:
        if request.param == "folder":
            for name, data in content.items():
                (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / "photos" / name).write_bytes(data)
            return open_image_files(tmp_path / "photos")
        top = "photos/" if request.param == "zip of a folder" else ""
        with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
            for name, data in content.items():
                archive.writestr(top + name, data)
        return open_image_files(tmp_path / "photos.zip")

    return write


def names(files: ImageFiles) -> list[str]:
    return [name.removeprefix("photos/") for name in files.names]


SYSTEM = [
    *("@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", "cat/@eaDir/1.png/x.png", ".thumbnails/normal/0a.png", "__MACOSX/._a.png"),
    *("$RECYCLE.BIN/S-1-5/$RA.png", "lost+found/1.png", "#recycle/cat/1.png", "System Volume Information/x.png"),
    *(".Trash-1000/files/x.png", "@Recycle/x.png", "RECYCLER/x.png", "cat/@eadir/x.png", ".ipynb_checkpoints/x.png"),
]


def test_folders_that_systems_make_are_neither_pictures_nor_classes(files_of, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    files = files_of(dict.fromkeys(("cat/1.png", "dog/2.png", "thumbnails/3.png", *SYSTEM), PNG))
    assert names(files) == ["cat/1.png", "dog/2.png", "thumbnails/3.png"]
    assert "left out: folders that systems make (" in caplog.messages[-1]
    assert re.search(r" and \d more\)", caplog.messages[-1])
    assert caplog.records[-1].levelno == logging.INFO


def test_every_system_folder_is_recognized_in_every_case(files_of):
    listed = {f"{name}/x.png": PNG for known in left_out._SYSTEM_FOLDERS for name in (known, known.upper())}
    assert names(files_of({"a.png": PNG, **listed})) == ["a.png"]


@pytest.mark.parametrize("mark", [{"run.json": RUN}, {".hydra/config.yaml": CONFIG}], ids=["record", "config"])
def test_runs_below_the_root_are_left_out(files_of, mark: dict[str, bytes], caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    pictures = {f"{folder}/samples/real.png": PNG for folder in ("outputs/a", "outputs/b", "photos of run.json")}
    marks = {f"outputs/{run}/{name}": content for run in "ab" for name, content in mark.items()}
    files = files_of({"a.png": PNG, **pictures, **marks})
    assert names(files) == ["a.png", "photos of run.json/samples/real.png"]
    assert "what gantrain made (" in caplog.messages[-1]
    assert all(run in caplog.messages[-1] for run in ("outputs/a", "outputs/b"))


def test_runs_of_other_programs_are_data(files_of):
    other = {"x/run.json": b'{"name": "other"}', "x/.hydra/config.yaml": b"seed: 0\n", "x/samples/1.png": PNG}
    assert names(files_of(other)) == ["x/samples/1.png"]


def test_root_that_is_a_run_keeps_its_own_pictures(files_of):
    own = ("samples/real.png", "samples/step_00000010.png", "samples.gif", "curves.png")
    kept = ("a.png", "samples/portrait.png", "deep/curves.png")
    assert names(files_of({"run.json": RUN, **dict.fromkeys((*own, *kept), PNG)})) == sorted(kept)


def test_folder_of_samples_is_left_out_unless_it_is_the_root(files_of):
    numbered = {"fake/000000.png": SAMPLE, "fake/000001_class3.png": SAMPLE, "fake/mine.png": PNG}
    assert names(files_of({"a.png": PNG, "000000.png": PNG, "real/000000.png": PNG, **numbered})) == [
        *("000000.png", "a.png", "fake/mine.png", "real/000000.png")
    ]


@pytest.mark.parametrize("place", ["0", "2", "4"])
def test_a_sample_among_the_users_own_numbered_pictures_takes_none_of_them_away(files_of, caplog, place: str):
    caplog.set_level("INFO")
    own = {f"mine/00000{i}.png": PNG for i in range(5)}
    assert names(files_of({"a.png": PNG} | own | {f"mine/00000{place}.png": SAMPLE})) == [
        "a.png",
        *(name for name in own if place not in name.removeprefix("mine/00000")),
    ]
    assert re.search(rf"left out: what gantrain made \((photos/)?mine/00000{place}\.png\)", caplog.text)


def test_samples_at_the_root_are_data(files_of):
    assert names(files_of({"000000.png": SAMPLE, "000001.png": SAMPLE})) == ["000000.png", "000001.png"]


def test_other_files_are_counted_by_suffix(files_of, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    others = {f"{i}.TXT": b"" for i in range(12)} | {"x.mp4": b"", "deep/README": b"", ".hidden.png": b""}
    cache = {"data/cache/image_folder-0123456789abcdef.npy": b"", "dataset.json": b"{}"}
    assert names(files_of({"a.png": PNG, **others, **cache})) == ["a.png"]
    assert caplog.messages[-1].startswith("1 images in ")
    assert caplog.messages[-1].endswith("; left out: 12 .txt, 1 .mp4, 1 without a suffix.")
    assert caplog.records[-1].levelno == logging.INFO


def test_nothing_is_said_where_nothing_is_left_out(files_of, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    files_of({"a.png": PNG, "b/c.png": PNG})
    assert not caplog.messages


def test_pictures_that_cannot_be_read_are_a_warning(files_of, caplog: pytest.LogCaptureFixture, monkeypatch):
    monkeypatch.setattr(left_out, "SUFFIXES", (".png",))
    monkeypatch.setattr(left_out, "READS_HEIC", False)
    files_of({"a.png": PNG, **{f"{i}.HEIC": b"" for i in range(3)}, "x.cr2": b""})
    assert "left out: 3 .heic, 1 .cr2 (pip install 'gantrain[heic]' reads HEIC)." in caplog.messages[-1]
    assert caplog.records[-1].levelno == logging.WARNING


def test_only_what_gantrain_made_is_an_error_that_says_so(files_of):
    with pytest.raises(DataError, match=r"holds no PNG, .* only others: .*what gantrain made \(.*outputs/a\)"):
        files_of({"outputs/a/run.json": RUN, "outputs/a/curves.png": PNG})


def load(root: Path, **changes: object):
    options = {"labels": "auto", "image_size": 8, "channels": 3, "max_bad_fraction": 0.0} | changes
    dataset = image_folder(root=str(root), cache_dir=str(root.parent / "cache"), **options)
    dataset.prepare()
    return dataset


def test_grids_of_samples_are_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_bytes(PNG)
    alone = load(tmp_path / "photos").fingerprint
    (tmp_path / "photos/grid.png").write_bytes(marked("gantrain"))
    (tmp_path / "photos/b.png").write_bytes(marked("an editor"))
    dataset = load(tmp_path / "photos")
    assert dataset.num_images == 2
    assert "were made by gantrain: grid.png. They are left out." in caplog.messages[-1]
    (tmp_path / "photos/b.png").unlink()
    assert load(tmp_path / "photos").fingerprint == alone
    (tmp_path / "photos/a.png").unlink()
    with pytest.raises(DataError, match=r"were made by gantrain: grid\.png\. None is left to train on"):
        load(tmp_path / "photos")


def test_folder_that_cannot_be_listed_is_a_bad_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("cat/1.png", "dog/2.png", "private/3.png", "lost+found/4.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(PNG)
    listing = os.scandir

    def scandir(folder: Path):
        if Path(folder).name in ("private", "lost+found"):
            raise PermissionError(13, "Permission denied", str(folder))
        return listing(folder)

    monkeypatch.setattr(image_files.os, "scandir", scandir)
    with pytest.raises(DataError, match=r"1 of 3 images .* private/ cannot be listed \(Permission denied\)"):
        load(tmp_path / "photos")
    dataset = load(tmp_path / "photos", max_bad_fraction=0.4)
    assert (dataset.num_images, dataset.labels.tolist(), dataset.class_names) == (2, [0, 1], ("cat", "dog"))


FORMATS = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jif", ".jfif", ".JFIF"), ("JPEG", {"quality": 95})),
    **dict.fromkeys((".tif", ".tiff"), ("TIFF", {})),
    **dict.fromkeys((".ppm", ".pnm"), ("PPM", {})),
    **{".png": ("PNG", {}), ".webp": ("WEBP", {"lossless": True}), ".gif": ("GIF", {}), ".bmp": ("BMP", {})},
    **({".avif": ("AVIF", {"quality": 95})} if ".avif" in images.SUFFIXES else {}),
    **({".heic": ("HEIF", {"quality": 95})} if images.READS_HEIC else {}),
}


def test_every_format_is_read(tmp_path: Path):
    (tmp_path / "photos").mkdir()
    for suffix, (kind, options) in FORMATS.items():
        (tmp_path / f"photos/{suffix[1:]}{suffix}").write_bytes(encoded(kind, **options))
    (tmp_path / "photos/gray.pgm").write_bytes(b"P5 8 8 255\n" + COLORS[..., 0].tobytes())
    (tmp_path / "photos/bits.pbm").write_bytes(b"P4 8 8\n" + bytes(8))
    dataset = load(tmp_path / "photos")
    found = dict(zip(sorted(path.name for path in (tmp_path / "photos").iterdir()), dataset.images, strict=True))
    assert len(found) == len(FORMATS) + 2
    for name, image in found.items():
        with Image.open(tmp_path / "photos" / name) as original:
            expected = np.asarray(original.convert("RGB")).transpose(2, 0, 1)
        np.testing.assert_array_equal(image.numpy(), expected)
        if not name.endswith((".pgm", ".pbm")):
            assert np.abs(expected.astype(int) - COLORS.transpose(2, 0, 1)).mean() < 12


def test_first_frame_of_a_gif_is_taken(tmp_path: Path):
    (tmp_path / "photos").mkdir()
    frames = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (50, 200)]
    frames[0].save(tmp_path / "photos/x.gif", save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / "photos/x.gif") as image:
        assert sum(1 for _ in ImageSequence.Iterator(image)) == 2
    assert load(tmp_path / "photos").images.unique().tolist() == [50]


def test_suffixes_are_those_that_pillow_knows():
    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in images._FORMATS}
    ours = set(images.SUFFIXES) - {".jif"}  # an old suffix of JPEG
    assert ours <= known | {".hif"}
