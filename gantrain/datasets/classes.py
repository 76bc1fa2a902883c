"""Find the classes of images: in a dataset.json, in the names of their folders, or in labels of any kind."""

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64

from gantrain.datasets.image_files import ImageFiles
from gantrain.datasets.untrusted import printable
from gantrain.errors import DataError

logger = logging.getLogger(__name__)
JSON = "dataset.json"
Rule = Literal["auto", "json", "folders", "none"]
MOST_STRAYS = 0.1
"""Share of images beside the folders up to which the folders are likely to be meant as classes."""

# The official tools of FFHQ and StyleGAN put every thousand images into a folder: 00000, 01000 or 00001, and so on.
_SHARD = re.compile(r"\d{5,}")


@dataclass(frozen=True)
class Classes:
    """The classes of images.

    Attributes:
        labels: int64 [n] in [0, len(names)).
        names: the name of each class.
    """

    labels: Int64[np.ndarray, " n"]
    names: tuple[str, ...]


def digest(classes: Classes | None) -> str | None:
    """Return the SHA-256 of the labels, for the key of a cache; None without labels."""
    return None if classes is None else hashlib.sha256(classes.labels.astype("<i8").data).hexdigest()


def find_classes(files: ImageFiles, rule: Rule, option: str = "dataset.labels") -> Classes | None:
    """Return the classes of images; None if they have none.

    Args:
        rule: "json": those of dataset.json. "folders": the first-level folders. "none": none. "auto": those of
            dataset.json if it exists, otherwise the first-level folders, unless these are shards.
        option: name of the option that holds the rule, for messages.

    Raises:
        DataError: there are no classes of the kind that is asked for, or dataset.json is broken.
    """
    if rule == "none":
        return None
    if rule in ("auto", "json"):
        found = files.read_other(JSON)
        entries = None if found is None else _entries(files, found[1], option)
        if found is not None and entries:
            return _from_json(files, found[0], entries, option)
        if rule == "json":
            what = f"has no file {JSON}" if found is None else f"has no labels in {JSON}"
            raise DataError(f"{option}=json: {files.origin} {what}; choose auto, folders or none, or write that file.")
        if entries == {}:
            return None
    classes = by_folder(files)
    if classes is None and rule == "auto":
        _warn_of_strays(files, option)
    if classes is None and rule == "folders":
        raise DataError(
            f"{option}=folders: {files.origin} does not have two folders or more, with every image in one of them; put "
            f"each image into the folder of its class, or set {option}=none."
        )
    if classes is not None and rule == "auto" and _are_shards(files, classes.names):
        logger.info(
            "%s: the folders %s to %s are parts of one collection, not classes; %s=folders takes them as classes.",
            *(files.origin, classes.names[0], classes.names[-1], option),
        )
        return None
    return classes


def by_folder(files: ImageFiles) -> Classes | None:
    """Take the first-level folders as classes, if there are at least two of them and every image is in one."""
    # Unreadable files do not define classes. They get label 0, and are left out later.
    # Split by hand: pathlib takes ten times as long, which is a second for 100,000 images.
    parts = {
        name: tuple(part for part in name.split("/") if part not in ("", "."))
        for name in files.names
        if name not in files.flaws
    }
    if files.origin.is_file() and len({path[0] for path in parts.values()}) == 1:
        parts = {name: path[1:] for name, path in parts.items()}  # the folder that was zipped
    classes = sorted({path[0] for path in parts.values() if path})
    if len(classes) < 2 or any(len(path) < 2 for path in parts.values()):
        return None
    index = {name: i for i, name in enumerate(classes)}
    labels = np.array([index[parts[name][0]] if name in parts else 0 for name in files.names], np.int64)
    return Classes(labels, tuple(classes))


def _warn_of_strays(files: ImageFiles, option: str) -> None:
    # A few images beside folders that look like classes are more likely a mistake than the absence of classes.
    outside = [name for name in files.names if name not in files.flaws and "/" not in name]
    folders = {name.partition("/")[0] for name in files.names if name not in files.flaws and "/" in name}
    if len(folders) > 1 and outside and len(outside) <= MOST_STRAYS * len(files.names):
        logger.warning(
            "%s: the %d folders are not taken for classes, because %d of %s images lie in none of them (%s). Move "
            "these, or set %s=none if there are no classes.",
            *(files.origin, len(folders), len(outside), f"{len(files.names):,}", printable(outside[0]), option),
        )


def _are_shards(files: ImageFiles, folders: Sequence[str]) -> bool:
    # All images are numbered through: those of one folder come after those of the folder before it.
    if not all(_SHARD.fullmatch(folder) for folder in folders):
        return False
    numbers = []
    for name in files.names:
        digits = re.findall(r"\d+", name.rpartition("/")[2].rpartition(".")[0])
        if name in files.flaws:
            continue
        if not digits or len(digits[-1]) > 18:
            return False
        numbers.append(int(digits[-1]))
    return all(a < b for a, b in pairwise(numbers))


def from_values(values: Sequence[object], names: Sequence[str] = (), *, of: str, remedy: str) -> Classes:
    """Number the classes of labels: whole numbers and texts in their order, one-hot vectors by their position.

    Args:
        values: one label per image.
        names: names of the classes, if the labels are these or their indices.
        of: the source of the labels, for messages.
        remedy: what to do if they are no classes, for messages.

    Raises:
        DataError: the labels are something else, such as fractions, or are of several kinds.
    """
    if not len(values):
        raise DataError(f"{of} has no labels; {remedy}.")
    values = [_position(value) if isinstance(value, list | tuple | np.ndarray) else value for value in values]
    kinds = {int if isinstance(value, int | np.integer) else type(value) for value in values}
    if len(kinds) != 1 or not kinds <= {int, str}:
        other = [value for value in values if not isinstance(value, int | np.integer | str)]
        found = (other or [value for value in values if isinstance(value, str)])[0]
        raise DataError(
            f"{of}: the label {printable(found)} is neither the number nor the name of a class, as all must be; "
            f"{remedy}."
        )
    distinct: Any = sorted(set(values))
    known: Any = (names if kinds == {str} else range(len(names))) if names else distinct
    index = {value: i for i, value in enumerate(known)}
    if unknown := [value for value in distinct if value not in index]:
        span = f"{printable(known[0])} to {printable(known[-1])}"
        raise DataError(
            f"{of}: the label {printable(unknown[0])} is none of the {len(known)} classes, {span}; {remedy}."
        )
    labels = np.array([index[value] for value in values], np.int64)
    return Classes(labels, tuple(printable(name) for name in names or distinct))


def _position(vector: Any) -> object:
    # The position of the 1 in a one-hot vector, or of the number in a vector of one number.
    numbers = list(vector)
    if len(numbers) == 1 and isinstance(numbers[0], int | np.integer):
        return numbers[0]
    is_one_hot = sum(1 for x in numbers if x == 1) == 1 and sum(1 for x in numbers if x == 0) == len(numbers) - 1
    return numbers.index(1) if is_one_hot else tuple(numbers)


def _entries(files: ImageFiles, content: bytes, option: str) -> dict[str, Any] | None:
    # The labels by name; {} if the tool found none, None if the file was not written by such a tool.
    # Source: Karras 2020 (StyleGAN2-ADA), dataset_tool.py: {"labels": [[name, label], ...]}, or null.
    try:
        described = json.loads(content)
        if "labels" not in described:
            return None
        return {str(name).replace("\\", "/"): label for name, label in described["labels"] or ()}
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(
            f'{JSON} of {files.origin} is not of the form {{"labels": [["name.png", 0], ...]}}; {_remedy(option)}.'
        ) from error


def _from_json(files: ImageFiles, folder: str, given: dict[str, Any], option: str) -> Classes:
    where, remedy = f"{JSON} of {files.origin}", _remedy(option)
    known = [name for name in files.names if name not in files.flaws]
    missing = [name for name in known if name.removeprefix(folder) not in given]
    if missing:
        raise DataError(
            f"{where} has no label for {printable(missing[0])} ({len(missing):,} of {len(known):,} images); {remedy}."
        )
    found = from_values([given[name.removeprefix(folder)] for name in known], of=where, remedy=remedy)
    by_name = dict(zip(known, found.labels.tolist(), strict=True))
    # Unreadable files get label 0, and are left out later.
    return Classes(np.array([by_name.get(name, 0) for name in files.names], np.int64), found.names)


def _remedy(option: str) -> str:
    return f"correct it, or set {option} to folders or none"
