"""Recognize files that another dataset reads, so that the message for the wrong one names the right one."""

from pathlib import Path

from gantrain.datasets.images import SUFFIXES
from gantrain.datasets.untrusted import open_regular

_STARTS = {
    b"PAR1": "it is a Parquet file: use dataset=parquet",
    b"\x93NUMPY": "it is a single array: make an .npz of it with np.savez('images.npz', images=np.load('FILE.npy'))",
    b"PK\x03\x04": "it is a zip: of pictures, use dataset=image_folder; of arrays, dataset=npz",
}
_TAR, _TAR_PLACE = b"ustar", 257


def remedy(path: Path, dataset: str) -> str:
    """Return what to do with a file that a dataset cannot read: use another dataset, or replace the file.

    Args:
        dataset: the one that cannot read it; a file of its own kind is broken.
    """
    if path.suffix.lower() in SUFFIXES:
        how = "" if dataset == "image_folder" else ", with dataset=image_folder"
        return f"it is a picture: set dataset.root to its folder{how}"
    other = _kind(path)
    return "replace it" if other is None or f"dataset={dataset}" in other else other


def _kind(path: Path) -> str | None:
    try:
        with open_regular(path) as file:
            start = file.read(_TAR_PLACE + len(_TAR))
    except OSError:
        start = b""
    if start[_TAR_PLACE:] == _TAR:
        return "it is a tar: use dataset=webdataset"
    return next((what for mark, what in _STARTS.items() if start.startswith(mark)), None)


def holds_pictures(folder: Path) -> bool:
    """Return whether pictures lie directly in a folder or one below it."""
    found = (path for pattern in ("*", "*/*") for path in folder.glob(pattern))
    return any(path.suffix.lower() in SUFFIXES for path in found)
