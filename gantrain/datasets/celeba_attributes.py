"""The 40 attributes of CelebA's faces, such as Male and Smiling, as labels."""

import csv
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np

from gantrain.datasets.classes import Classes
from gantrain.datasets.untrusted import open_regular, printable
from gantrain.errors import ConfigError, DataError

MAX_BYTES = 2**28
MAX_ATTRIBUTES = 10
NAMES = ("list_attr_celeba.txt", "list_attr_celeba.csv")


def attribute_classes(attributes: Sequence[str], names: Sequence[str], folders: Sequence[Path]) -> Classes:
    """Return a class for each combination of some attributes: bit k of a label says whether attribute k is present.

    Args:
        names: of the image files; folders in them do not matter.
        folders: where list_attr_celeba.txt, or Kaggle's .csv, may be.

    Raises:
        ConfigError: an attribute does not exist or is named twice, or there are too many.
        DataError: the file of attributes is missing or broken, or lacks an image.
    """
    if isinstance(attributes, str):  # a single one without brackets
        attributes = [attributes]
    if not 1 <= len(attributes) <= MAX_ATTRIBUTES or len({*attributes}) < len(attributes):
        raise ConfigError(
            f"dataset.attributes={list(attributes)} must be 1 to {MAX_ATTRIBUTES} different attributes, for example "
            "dataset.attributes=[Male]."
        )
    path = next((folder / name for folder in folders for name in NAMES if (folder / name).exists()), None)
    if path is None:
        raise DataError(
            f"dataset.attributes needs {' or '.join(NAMES)} in {folders[0]}; put it there, or set "
            "dataset.attributes=null."
        )
    known, rows = _read(path)
    if unknown := [attribute for attribute in attributes if attribute not in known]:
        typed = f"[{','.join(attributes)}]"
        meant = next((f" Did you mean {name}?" for name in known if name.lower() == unknown[0].lower()), "")
        raise ConfigError(f"dataset.attributes={typed}: {unknown[0]} is none of {', '.join(known)}.{meant}")
    columns = [known.index(attribute) for attribute in attributes]
    labels = np.zeros(len(names), np.int64)
    try:
        for i, name in enumerate(names):
            row = rows[name.rpartition("/")[2]]
            labels[i] = sum((row[column] == "1") << k for k, column in enumerate(columns))
    except KeyError as error:
        raise DataError(f"{path} has no attributes of {printable(name)}; replace it.") from error
    combinations = [tuple(reversed(choice)) for choice in product(["not ", ""], repeat=len(attributes))]
    texts = [", ".join(sign + text for sign, text in zip(choice, attributes, strict=True)) for choice in combinations]
    return Classes(labels, tuple(texts))


def _read(path: Path) -> tuple[list[str], dict[str, list[str]]]:
    # The names of the attributes, and the values of each image: "1" or "-1".
    try:
        with open_regular(path, max_bytes=MAX_BYTES) as file:
            lines = file.read().decode().splitlines()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a text; replace it.") from error
    is_csv = path.suffix == ".csv"
    table = [row for row in (csv.reader(lines) if is_csv else map(str.split, lines)) if row]
    header, rows = (table[:1], table[1:]) if is_csv else (table[1:2], table[2:])  # a .txt starts with a number
    if not rows:
        raise DataError(f"{path} holds no attributes; replace it.")
    known = header[0][1:] if is_csv else header[0]
    for row in rows:
        if len(row) != len(known) + 1 or not {*row[1:]} <= {"1", "-1"}:
            raise DataError(
                f"{path}: the line {printable(' '.join(row))} is not a name with {len(known)} values 1 or -1; "
                "replace it."
            )
    return known, {row[0]: row[1:] for row in rows}
