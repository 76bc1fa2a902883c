"""Keep the listing of the decoded files beside a cache, so that a refusal of other data can say what is different."""

import gzip
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gantrain.datasets.untrusted import open_regular, printable
from gantrain.files import atomic_write

_MAX_BYTES = 2**30
_NUM_NAMED = 3


def listing_of(stem: Path) -> Path:
    """Return the file that belongs to the cache <stem>.npy."""
    return Path(f"{stem}.files.gz")


def save_listing(stem: Path, listing: Sequence[object]) -> None:
    """Write the listing of a cache, if it is one of files: the name and facts that change when the file changes."""
    if all(isinstance(entry, list | tuple) and entry and isinstance(entry[0], str) for entry in listing):
        with atomic_write(listing_of(stem)) as file:
            file.write(gzip.compress(json.dumps(listing).encode(), 1, mtime=0))


def describe_change(stem: Path, name: str, is_earlier: Callable[[str], bool]) -> str | None:
    """Say how the files of a cache differ from those of an earlier cache in the same folder; None if it is not known.

    Args:
        stem: of the cache.
        name: of the dataset.
        is_earlier: whether a fingerprint is that of the earlier data.
    """
    new = _read(listing_of(stem))
    found = []
    for manifest in sorted(stem.parent.glob(f"{name}-*.json")):
        fingerprint = _fingerprint(manifest)
        if fingerprint is not None and is_earlier(fingerprint):
            old = _read(listing_of(manifest.with_suffix("")))
            if new is not None and old is not None:
                found.append(_differences(old, new))
    # Copies of the same images have caches of the same fingerprint; those of the run differ least.
    return _describe(min(found, key=lambda differences: sum(map(len, differences.values())))) if found else None


def _differences(old: Mapping[str, object], new: Mapping[str, object]) -> dict[str, list[str]]:
    return {
        "came": [file for file in new if file not in old],
        "went": [file for file in old if file not in new],
        "changed": [file for file in new if file in old and new[file] != old[file]],
    }


def _describe(found: Mapping[str, list[str]]) -> str:
    parts = [f"{len(files):,} {what} ({_some(files)})" for what, files in found.items() if files]
    return f"of the files, {', '.join(parts)}" if parts else "the files are the same, but they are read differently"


def _some(files: Iterable[str]) -> str:
    shown = [printable(file) for file in files]
    return ", ".join(shown[:_NUM_NAMED]) + ", ..." * (len(shown) > _NUM_NAMED)


def _fingerprint(manifest: Path) -> str | None:
    try:
        with open_regular(manifest) as file:
            found: Any = json.load(file)["fingerprint"]
    except Exception:  # a damaged file can raise any exception
        return None
    return found if isinstance(found, str) else None


def _read(path: Path) -> dict[str, object] | None:
    try:
        with open_regular(path) as file, gzip.GzipFile(fileobj=file) as unzipped:
            return {str(name): facts for name, *facts in json.loads(unzipped.read(_MAX_BYTES))}
    except Exception:  # a missing or damaged file can raise any exception
        return None
