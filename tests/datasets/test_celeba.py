import zipfile
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image
from torchvision.transforms import functional as F

from gantrain.datasets import celeba as module
from gantrain.datasets.celeba import celeba
from gantrain.errors import ConfigError, DataError

NAMES = [f"{i:06d}.jpg" for i in range(1, 4)]


def write(folder: Path) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in NAMES:
        blocks = Image.fromarray(rng.integers(0, 256, (11, 9, 3), dtype=np.uint8))
        blocks.resize((178, 218)).save(folder / name, quality=88)


def load(
    root: Path,
    cache: Path,
    *,
    image_size: int = 64,
    crop: int | None = 178,
    download: bool = False,
    attributes: list[str] | None = None,
):
    dataset = celeba(
        root=str(root),
        download=download,
        attributes=attributes,
        image_size=image_size,
        crop=crop,
        cache_dir=str(cache),
        max_bad_fraction=0.0,
    )
    dataset.prepare()
    return dataset


def expected(folder: Path, crop: int | None) -> np.ndarray:
    def one(name: str) -> np.ndarray:
        image = Image.open(folder / name)
        if crop is not None:
            image = F.center_crop(image, crop)
        return np.asarray(F.resize(image, [64, 64])).transpose(2, 0, 1)

    return np.stack([one(name) for name in NAMES])


@pytest.mark.parametrize("crop", [178, 108, 121, None])
def test_pixels_equal_torchvision(tmp_path: Path, crop: int | None):
    folder = tmp_path / "celeba/img_align_celeba"
    write(folder)
    dataset = load(tmp_path, tmp_path / "cache", crop=crop)
    np.testing.assert_array_equal(dataset.images.numpy(), expected(folder, crop))
    assert (dataset.name, dataset.labels, dataset.image_shape) == ("celeba", None, (3, 64, 64))


@pytest.mark.parametrize("where", ["celeba", "."])
def test_folder_and_zip_give_the_same(tmp_path: Path, where: str):
    write(tmp_path / "a" / where / "img_align_celeba")
    (tmp_path / "b" / where).mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(tmp_path / "b" / where / "img_align_celeba.zip", "w") as archive:
        archive.writestr("img_align_celeba/", "")
        for name in NAMES:
            archive.write(tmp_path / "a" / where / "img_align_celeba" / name, f"img_align_celeba/{name}")
    first, second = (load(tmp_path / root, tmp_path / "cache") for root in "ab")
    assert first.fingerprint == second.fingerprint
    as_root = [tmp_path / "a" / where / "img_align_celeba", tmp_path / "b" / where / "img_align_celeba.zip"]
    assert {load(root, tmp_path / "cache").fingerprint for root in as_root} == {first.fingerprint}


def test_number_of_images_found_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch):
    write(tmp_path / "celeba/img_align_celeba")
    load(tmp_path, tmp_path / "cache")
    assert "Found 3 of 202,599 CelebA images" in next(r.message for r in caplog.records if r.levelname == "WARNING")
    caplog.clear()
    monkeypatch.setattr(module, "_NUM_PUBLISHED", 3)
    load(tmp_path, tmp_path / "cache")
    assert not [r for r in caplog.records if r.levelname == "WARNING"]


def test_missing_files_are_an_error(tmp_path: Path):
    with pytest.raises(DataError, match=r"img_align_celeba\.zip, in .*/celeba\. Put them there.*download=true"):
        load(tmp_path, tmp_path / "cache")


def test_failed_download_names_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*args: object) -> None:
        raise RuntimeError("too many users have viewed this file")

    monkeypatch.setattr("torchvision.datasets.utils.download_file_from_google_drive", fail)
    with pytest.raises(DataError, match=r"The download failed \(too many users.*by hand"):
        load(tmp_path, tmp_path / "cache", download=True)


def test_torchvision_still_lists_the_zip():
    assert [entry[2] for entry in torchvision.datasets.CelebA.file_list].count("img_align_celeba.zip") == 1


def test_crop_larger_than_the_images_is_refused(tmp_path: Path):
    write(tmp_path / "celeba/img_align_celeba")
    with pytest.raises(DataError, match=r"000001\.jpg is 178x218, too small for a crop of 200x200"):
        load(tmp_path, tmp_path / "cache", crop=200)


def test_crop_of_0_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"dataset\.crop=0 must be a whole number of at least 1"):
        load(tmp_path, tmp_path / "cache", crop=0)
