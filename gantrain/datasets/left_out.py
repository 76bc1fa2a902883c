"""Decide which files below a root are not part of the data: those of systems, those that gantrain made, other files."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from gantrain.datasets.images import HEIC_REMEDY, HEIC_SUFFIXES, READS_HEIC, SUFFIXES
from gantrain.datasets.metadata import MADE_BY_GANTRAIN, SAMPLE_BY_GANTRAIN
from gantrain.datasets.untrusted import printable

HIDDEN_MARK = ".hydra/config.yaml"

_SYSTEM_FOLDERS = {
    *("__macosx", "found.000", "lost+found"),  # zips of macOS; repaired disks of Windows and Linux
    *("$recycle.bin", "recycler", "recycled", "system volume information"),  # Windows
    *("@eadir", "@tmp", "#recycle", "#snapshot"),  # Synology
    *("@recycle", "@recently-snapshot", "@__thumb"),  # QNAP
    *("~snapshot", "__pycache__"),
}
"""Folders in which systems put thumbnails, deleted files and copies, in lower case; further ones start with a dot."""

_UNREAD_PICTURES = {
    *HEIC_SUFFIXES,
    *(".avif", ".jp2", ".j2k", ".jpx", ".jxl", ".psd", ".svg", ".tga", ".pcx", ".ico", ".exr", ".hdr", ".pfm", ".dds"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".raw"),
}
"""Suffixes of images that gantrain cannot read, or reads only where SUFFIXES has them too: AVIF and HEIC."""

RUN_MARKS = {"run.json": b'"gantrain"', HIDDEN_MARK: b"gantrain."}
"""A folder with one of these files is the folder of a run, if the first bytes of the file contain this text."""

_HEAD_BYTES = 2**16
_RUN_PICTURES = re.compile(r"samples/(step_\d+|real)\.png|samples\.gif|curves\.png")
_SAMPLE = re.compile(r"\d{6,}(_class\d+)?\.png")
_SAMPLE_MARK = "\0".join((MADE_BY_GANTRAIN[0], SAMPLE_BY_GANTRAIN)).encode()
_SAMPLE_BYTES = 100  # the mark is right behind the header of a PNG

_CACHE = re.compile(r"(?:.*/)?\w+-[0-9a-f]{16}\.(npy|json|files\.gz)", re.DOTALL)
_NUM_NAMED, _NUM_SUFFIXES = 2, 8

Head = Callable[[str, int], bytes]


@dataclass
class LeftOut:
    """What lies below a root and is not part of the data.

    Attributes:
        made: the names of folders and files that gantrain made, as keys: a dict keeps their order, and each once.
        system: the names of folders that systems make, as keys.
        suffixes: the number of other files, by suffix.
    """

    made: dict[str, None] = field(default_factory=dict)
    system: dict[str, None] = field(default_factory=dict)
    suffixes: Counter[str] = field(default_factory=Counter)

    def __bool__(self) -> bool:
        return bool(self.made or self.system or self.suffixes)

    @property
    def has_pictures(self) -> bool:
        """Whether there are images among the other files."""
        return any(suffix in _UNREAD_PICTURES for suffix in self.suffixes)

    def __str__(self) -> str:
        parts = []
        if self.suffixes:
            shown = self.suffixes.most_common(_NUM_SUFFIXES)
            num_more = self.suffixes.total() - sum(num for _, num in shown)
            counted = ", ".join(f"{num:,} {printable(suffix)}" for suffix, num in shown)
            counted += f", {num_more:,} others" if num_more else ""
            has_heic = not READS_HEIC and any(suffix in HEIC_SUFFIXES for suffix in self.suffixes)
            parts.append(counted + f" ({HEIC_REMEDY})" * has_heic)
        if self.made:
            parts.append(f"what gantrain made ({_some(self.made)})")
        if self.system:
            parts.append(f"folders that systems make ({_some(self.system)})")
        return ", ".join(parts)


def _some(names: Iterable[str]) -> str:
    shown = [printable(name) for name in names]
    return ", ".join(shown[:_NUM_NAMED]) + f" and {len(shown) - _NUM_NAMED:,} more" * (len(shown) > _NUM_NAMED)


def select(names: Sequence[str], head: Head, *, is_zip: bool) -> tuple[list[str], LeftOut]:
    """Return the names of the images among all files below a root, in their order, and what is left out.

    What lies directly in the root is not left out because of the root's own name, or because it holds samples: a user
    who names such a folder wants it. If a zip has a single folder at its top, that folder is the root.

    Args:
        names: paths relative to the root, with forward slashes; one that ends with a slash is a folder that cannot be
            listed, which is kept.
        head: from a name and a number to so many first bytes of the file; b"" if it cannot be read.
    """
    left_out = LeftOut()
    kept = [name for name in names if is_visible(name)]
    if is_zip:
        kept = _without_system(kept, left_out)
    tops = {name.partition("/")[0] for name in kept if "/" in name} if is_zip else set()
    root = f"{tops.pop()}/" if len(tops) == 1 and all("/" in name for name in kept) else ""
    kept = _without_runs(kept, root, _run_folders(names, head), left_out)
    made = LeftOut()
    others = _without_samples(kept, root, head, made)
    if any(map(is_image, others)):  # otherwise the samples are what the user wants
        kept = others
        left_out.made |= made.made
    images = [name for name in kept if is_image(name) or name.endswith("/")]
    used = {*images, f"{root}dataset.json"}
    rest = (name for name in kept if name not in used and not _CACHE.fullmatch(name))
    left_out.suffixes.update(suffix_of(name) or "without a suffix" for name in rest)
    return images, left_out


def without_system_and_runs(names: Sequence[str], head: Head) -> tuple[list[str], LeftOut]:
    """Return the names of visible files that are neither in folders that systems make nor in runs below the root."""
    left_out = LeftOut()
    kept = _without_system([name for name in names if is_visible(name)], left_out)
    return _without_runs(kept, "", _run_folders(names, head), left_out), left_out


def is_system(folder_name: str) -> bool:
    """Return whether a folder is one in which systems put files of their own, such as thumbnails."""
    return folder_name.lower() in _SYSTEM_FOLDERS


def is_visible(name: str) -> bool:
    """Return whether no part of a path is hidden, that is starts with a dot and is neither "." nor ".."."""
    return _HIDDEN.search(name) is None


_HIDDEN = re.compile(r"(^|[/\\])\.(?!\.?([/\\]|$))")


def is_image(name: str) -> bool:
    """Return whether a file is an image by its suffix."""
    return suffix_of(name) in SUFFIXES


def is_unread_picture(name: str) -> bool:
    """Return whether a file is an image by its suffix, but of a kind that gantrain cannot read."""
    suffix = suffix_of(name)
    return suffix in _UNREAD_PICTURES and suffix not in SUFFIXES


def suffix_of(name: str) -> str:
    """Return the suffix in lower case; "" if there is none."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 (twenty times as fast as pathlib)


def _without_system(names: list[str], left_out: LeftOut) -> list[str]:
    kept = []
    for name in names:
        parts = re.split(r"[/\\]", name)[:-1]
        place = next((i for i, part in enumerate(parts) if is_system(part)), None)
        if place is None:
            kept.append(name)
        else:
            left_out.system["/".join(parts[: place + 1])] = None
    return kept


def _run_folders(names: Sequence[str], head: Head) -> set[str]:
    return {
        name.removesuffix(mark)
        for mark, word in RUN_MARKS.items()
        for name in names
        if (name == mark or name.endswith(f"/{mark}")) and word in head(name, _HEAD_BYTES)
    }


def _without_runs(names: list[str], root: str, runs: set[str], left_out: LeftOut) -> list[str]:
    if not runs:
        return names
    kept = []
    for name in names:
        folders = ["", *(name[: slash.end()] for slash in re.finditer("/", name))]
        # The user's own pictures may lie in the folder of a run.
        run = next((folder for folder in folders if folder in runs and _is_of_run(name, folder, root)), None)
        if run is None:
            kept.append(name)
        else:
            left_out.made[name if run == root else run.rstrip("/")] = None
    return kept


def _is_of_run(name: str, run: str, root: str) -> bool:
    of_run = name.removeprefix(run)
    return is_run_picture(of_run) or (run != root and not is_image(name))


def is_run_picture(name: str) -> bool:
    """Return whether the callbacks of a run write a file of this name, relative to the folder of the run."""
    return _RUN_PICTURES.fullmatch(name) is not None


def _without_samples(names: list[str], root: str, head: Head, left_out: LeftOut) -> list[str]:
    # The first, the middle and the last tell whether the others must be opened: there may be 70,000 of them.
    numbered: dict[str, list[str]] = {}
    for name in names:
        folder, slash, file = name.rpartition("/")
        if folder + slash != root and _SAMPLE.fullmatch(file):
            numbered.setdefault(folder, []).append(name)
    samples: set[str] = set()
    for folder, files in numbered.items():
        files.sort()
        if any(_SAMPLE_MARK in head(name, _SAMPLE_BYTES) for name in {files[0], files[len(files) // 2], files[-1]}):
            marked = [name for name in files if _SAMPLE_MARK in head(name, _SAMPLE_BYTES)]
            left_out.made |= dict.fromkeys([folder] if len(marked) == len(files) else marked)
            samples.update(marked)
    return [name for name in names if name not in samples] if samples else names
