"""LSUN: scenes and objects, in LMDB files as published, or in folders of images."""

from pathlib import Path

from gantrain.datasets.base import ImageDataset
from gantrain.datasets.image_files import ImageFiles, open_image_files
from gantrain.datasets.image_folder import check_pictures, pictures
from gantrain.datasets.lmdb_file import values
from gantrain.datasets.many_files import listing_of
from gantrain.datasets.slices import Slices
from gantrain.datasets.untrusted import printable
from gantrain.errors import DataError


def lsun(
    *, root: str, category: str, image_size: int, channels: int, cache_dir: str, max_bad_fraction: float
) -> ImageDataset:
    """Load the images of a category of LSUN, as squares of image_size pixels, as image_folder does.

    Args:
        category: with its split, for example "bedroom_train": the folder <category>_lmdb with its data.mdb, or else the
            folder or zip <category> of images, in root or in its folder lsun.

    Raises:
        ConfigError: an option is out of range, or the cache cannot be written.
        DataError: the files are missing or broken, or too many images are bad.

    Source: Yu, Seff, Zhang, Song, Funkhouser, Xiao 2015, "LSUN".
    """
    check_pictures(image_size, channels, max_bad_fraction)
    path = _find(Path(root).expanduser(), category)
    files = _open_lmdb(path) if path.suffix == ".mdb" else open_image_files(path)
    return pictures(
        "lsun",
        files,
        None,
        image_size=image_size,
        channels=channels,
        cache_dir=cache_dir,
        max_bad_fraction=max_bad_fraction,
        facts={},
    )


def _find(root: Path, category: str) -> Path:
    for folder in (root / "lsun", root):
        for name in (f"{category}_lmdb/data.mdb", f"{category}_lmdb.mdb", category, f"{category}.zip"):
            if (folder / name).exists():
                return folder / name
    if (root / "data.mdb").exists():
        return root / "data.mdb"
    raise DataError(
        f"LSUN needs the folder {category}_lmdb with its data.mdb, or the folder {category} with images, in "
        f"{root / 'lsun'}; download and unzip {category}_lmdb.zip, or set dataset.root and dataset.category."
    )


def _open_lmdb(path: Path) -> ImageFiles:
    slices, names = Slices([path]), []
    for key, offset, num_bytes in values(path):
        names.append(printable(key.decode("latin1")))
        slices.places.append((0, offset, num_bytes))
    if not names:
        raise DataError(f"{path} holds no images; replace it.")
    return ImageFiles(path, names, listing_of([path], path), {}, slices.read)
