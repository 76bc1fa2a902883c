"""Datasets that consist of several files of one format: list them, and choose those of a split."""

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

from gantrain.datasets.base import ImageDataset
from gantrain.datasets.kinds import holds_pictures
from gantrain.datasets.left_out import LeftOut, without_system_and_runs
from gantrain.datasets.metadata import SAMPLE_BY_GANTRAIN
from gantrain.datasets.untrusted import open_regular
from gantrain.datasets.walk import walk
from gantrain.errors import ConfigError, DataError

logger = logging.getLogger(__name__)
SPLITS = {"train": "train", "training": "train", "test": "test", "val": "validation", "valid": "validation"}
SPLITS |= {"validation": "validation", "dev": "validation"}
"""Words in the paths of files that name the split of their images."""

SAMPLE_MARK = SAMPLE_BY_GANTRAIN.encode()
"""The comment at the end of an .npz of samples."""


def require_root(root: str | None, kind: str, example: str) -> Path:
    """Return the path that dataset.root names.

    Raises:
        ConfigError: it is not set.
        DataError: there is no such path.
    """
    if root is None:
        raise ConfigError(f"dataset.root is not set: {kind}, for example dataset.root={example}")
    path = Path(root).expanduser()
    if not path.exists():
        raise DataError(f"{path} does not exist; set dataset.root to {kind}.")
    return path


def list_files(root: Path, suffixes: tuple[str, ...], kind: str) -> list[Path]:
    """List the files with one of the suffixes, in upper or lower case, below a folder, sorted; or the file itself.

    Skips hidden files, folders that systems make, runs, and samples that gantrain made, unless there is nothing else.

    Raises:
        DataError: there are none, or a file or folder cannot be read.
    """
    if not root.is_dir():
        return [root]
    flaws: dict[str, str] = {}
    skipped = LeftOut()
    try:
        names = [name for name, *_ in walk(root, flaws, skipped, "dataset.root")]
    except OSError as error:
        raise DataError(f"{error.filename} cannot be listed: {error.strerror}.") from error
    kept, left_out = without_system_and_runs(names, lambda name, num_bytes: _read(root / name, 0, num_bytes))
    left_out.system |= skipped.system
    kept = [name for name in kept if name.lower().endswith(suffixes) or name.endswith("/")]
    if wrong := [name for name in kept if name in flaws]:
        raise DataError(f"{root / wrong[0]} {flaws[wrong[0]]}; correct that, or take it out of {root}.")
    found = sorted(root / name for name in kept)
    own = [path for path in found if _read(path, -len(SAMPLE_MARK), len(SAMPLE_MARK)) == SAMPLE_MARK]
    if len(own) < len(found):
        found = [path for path in found if path not in own]
        left_out.made |= {path.relative_to(root).as_posix(): None for path in own}
    if not found:
        others = f", only what is no data: {left_out}" if left_out else ""
        of_pictures = "; for a folder of pictures, use dataset=image_folder" if holds_pictures(root) else ""
        raise DataError(
            f"{root} holds no {' or '.join(suffixes)} files{others}; set dataset.root to {kind}{of_pictures}."
        )
    if left_out:
        logger.info("%s files in %s; left out: %s.", f"{len(found):,}", root, left_out)
    return found


def _read(path: Path, start: int, num_bytes: int) -> bytes:
    # So many bytes from a place that counts from the end if it is negative; b"" if they cannot be read.
    try:
        with open_regular(path) as file:
            file.seek(start, os.SEEK_END if start < 0 else os.SEEK_SET)
            return file.read(num_bytes)
    except OSError:
        return b""


def listing_of(paths: list[Path], root: Path) -> list[tuple[str, int, int]]:
    """Return name, size and modification time of each file; they change when the file changes."""
    base = root if root.is_dir() else root.parent
    status = [(path, path.stat()) for path in paths]
    return [(path.relative_to(base).as_posix(), s.st_size, s.st_mtime_ns) for path, s in status]


def load_split(paths: list[Path], root: Path, split: str, load: Callable[[list[Path]], ImageDataset]) -> ImageDataset:
    """Load the files of a split, and say that there are others; those of the split test can be held out.

    Raises:
        DataError: the paths name other splits only.
    """
    chosen = of_split(paths, root, split)
    dataset = load(chosen)
    if len(chosen) < len(paths):
        logger.info(
            "%s: %s of %s files are of the split %s; the others are not trained on.",
            *(root, f"{len(chosen):,}", f"{len(paths):,}", split),
        )
    if split != "test" and (test := [path for path in paths if split_in(path, root) == "test"]):
        dataset.load_test_split = lambda: load(test)
    return dataset


def of_split(paths: list[Path], root: Path, split: str) -> list[Path]:
    """Return the files of a split: those that have its name as a word in their path; all if no path names a split.

    Raises:
        DataError: the paths name other splits only.
    """
    named = {path: split_in(path, root) for path in paths}
    known = {name for name in named.values() if name is not None}
    if not known:
        return paths
    chosen = [path for path, name in named.items() if name == SPLITS.get(split, split)]
    if not chosen:
        raise DataError(
            f"dataset.split={split}: the files in {root} are of the splits {', '.join(sorted(known))}; name one."
        )
    return chosen


def split_in(path: Path, root: Path) -> str | None:
    """Return the split that the path of a file names below the root; None if it names none, or is the root."""
    return split_of(path.relative_to(root).as_posix()) if root.is_dir() else None


def split_of(name: str) -> str | None:
    """Return the split that a path names: train in data/train-00000-of-00002.parquet; None if it names none."""
    for word in re.split(r"[^A-Za-z]+", name.rpartition(".")[0]):
        if word.lower() in SPLITS:
            return SPLITS[word.lower()]
    return None
