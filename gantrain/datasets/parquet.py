"""Parquet files as the hubs publish them: a row for each image, with its encoded content and its label."""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from gantrain.datasets.base import ImageDataset
from gantrain.datasets.classes import Classes, digest, from_values
from gantrain.datasets.image_files import MAX_FILE_BYTES, ImageFiles
from gantrain.datasets.image_folder import check_pictures, pictures
from gantrain.datasets.kinds import remedy
from gantrain.datasets.many_files import list_files, listing_of, load_split, require_root
from gantrain.datasets.spool import Spool
from gantrain.datasets.untrusted import printable, read_regular
from gantrain.errors import ConfigError, DataError
from gantrain.files import WriteError, require_space

logger = logging.getLogger(__name__)
KIND = "a .parquet file, or a folder of them"
IMAGES = ("image", "images", "img", "jpg", "jpeg", "png", "webp", "picture", "photo", "file")
LABELS = ("label", "labels", "class", "class_label", "category", "target", "fine_label", "y")
"""Usual names of the columns, in the order of preference."""

BATCH_ROWS = 32
LABELS_AT_ONCE = 256
MAX_LABEL_BYTES = 10_000
MIN_ROW_BYTES = 32
"""Bytes of memory that a row takes, whatever is in it."""

MAX_EXPANSION = 100
"""Most bytes for each stored byte; encoded images hardly become smaller, so more is an attack."""


def parquet(
    *,
    root: str | None,
    split: str,
    image_column: str | None,
    label_column: str | None,
    labels: bool,
    image_size: int,
    channels: int,
    cache_dir: str,
    max_bad_fraction: float,
) -> ImageDataset:
    """Load encoded images from Parquet files, as squares of image_size pixels, as image_folder does.

    The image column holds the content of image files, or structs {bytes, path}; a path without bytes names a file below
    the folder of the Parquet file.

    Args:
        split: of files whose paths name splits (train-00000-of-00002.parquet, test/0.parquet), those to train on.
        image_column: None: the column of images, by its type and name.
        label_column: None: the column that is declared to hold classes, or has a usual name (label, class, ...).
        labels: whether the images have labels.

    Raises:
        ConfigError: an option is out of range, or pyarrow is missing.
        DataError: the files or columns are missing or broken, or too many images are bad.
    """
    if find_spec("pyarrow") is None:
        raise ConfigError("dataset=parquet needs the package pyarrow: pip install 'gantrain[parquet]'")
    check_pictures(image_size, channels, max_bad_fraction)
    folder = require_root(root, KIND, "data/train.parquet")
    paths = list_files(folder, (".parquet",), KIND)
    options: Any = {"image_size": image_size, "channels": channels, "cache_dir": cache_dir}
    options |= {"max_bad_fraction": max_bad_fraction}

    def load(chosen: list[Path]) -> ImageDataset:
        return Table.of(chosen, folder, image_column, label_column, labels=labels).dataset(labels=labels, **options)

    return load_split(paths, folder, split, load)


@dataclass(frozen=True)
class Table:
    """The rows of Parquet files of one schema.

    Attributes:
        class_names: as the files declare them, or ().
    """

    root: Path
    paths: list[Path]
    num_rows: list[int]
    image_column: str
    label_column: str | None
    class_names: Sequence[str]

    @classmethod
    def of(
        cls, paths: list[Path], root: Path, image_column: str | None, label_column: str | None, *, labels: bool
    ) -> "Table":
        """Read the schema and the numbers of rows, and find the columns."""
        declared: dict[str, Any] = {}
        num_rows, image, label = [], image_column, label_column
        for path in paths:
            with opened(path) as file:
                schema = file.schema_arrow
                if path == paths[0]:
                    declared = declared_features(schema)
                    image = image_column or find_image_column(schema, declared, path)
                    label = label_column or find_label_column(schema, declared)
                require_columns(schema, [image, label], path)
                if not is_image_type(schema.field(image).type):
                    raise DataError(f"{path}: the column {image} holds {schema.field(image).type}, not images.")
                num_rows.append(file.metadata.num_rows)
                check_expansion(path, num_rows[-1] * MIN_ROW_BYTES)
        if not sum(num_rows):
            raise DataError(f"{paths[0]} has no rows; replace it.")
        assert image is not None
        if label is None and labels:
            say_why_no_labels(schema, image, root)
        names = declared.get(label, {}).get("names") if label else None
        return cls(root, paths, num_rows, image, label, list(map(str, names)) if isinstance(names, list) else ())

    def dataset(self, *, labels: bool, cache_dir: str, **options: Any) -> ImageDataset:
        """Make the dataset."""
        spool = Spool(Path(cache_dir).expanduser(), self.fill)
        listing = listing_of(self.paths, self.root)
        several = len(self.paths) > 1
        names = [
            f"{name} row {i}" if several else f"row {i}"
            for (name, *_), num in zip(listing, self.num_rows, strict=True)
            for i in range(num)
        ]
        classes = self.classes() if labels else None
        facts = {"column": self.image_column, "labels": digest(classes)}
        files = ImageFiles(self.root, names, listing, {}, spool.read)
        return pictures("parquet", files, classes, cache_dir=cache_dir, facts=facts, opened=spool.opened, **options)

    def classes(self) -> Classes | None:
        """Read the label column."""
        if self.label_column is None:
            return None
        source = f"{self.root}, column {self.label_column}"
        how = "choose another column with dataset.label_column, or set dataset.labels=false"
        values: list[object] = []
        for path in self.paths:
            # Rows that share a text share its memory, or a page of text would be copied for each of them.
            with opened(path, read_dictionary=[self.label_column]) as file:
                for batch in file.iter_batches(LABELS_AT_ONCE, columns=[self.label_column], use_threads=False):
                    if batch.nbytes > LABELS_AT_ONCE * MAX_LABEL_BYTES:
                        raise DataError(f"{source}: the values are too long for names of classes; {how}.")
                    values += batch.column(0).to_pylist()
        return from_values(values, self.class_names, of=source, remedy=how)

    def fill(self, spool: Spool) -> None:
        """Copy the images of all rows into the spool."""
        for path in self.paths:
            with opened(path) as file:
                start, num_bytes = spool.ends[-1], self.num_bytes(file)
                check_expansion(path, num_bytes)
                require_space(spool.folder, num_bytes, f"A temporary copy of the images in {path}")
                for batch in file.iter_batches(BATCH_ROWS, columns=[self.image_column], use_threads=False):
                    copy_images(batch.column(0), path.parent, spool)
                    check_expansion(path, spool.ends[-1] - start)  # many rows may share a large value

    def num_bytes(self, file: Any) -> int:
        """Return the bytes of the image column, as the file declares them."""
        total = 0
        for group in range(file.metadata.num_row_groups):
            row_group = file.metadata.row_group(group)
            for i in range(row_group.num_columns):
                column = row_group.column(i)
                if column.path_in_schema.split(".")[0] == self.image_column:
                    total += column.total_uncompressed_size
        return total


@contextmanager
def opened(path: Path, **options: Any) -> Iterator[Any]:
    """Open a Parquet file; what pyarrow raises in the block becomes a DataError that names the file.

    Args:
        options: of pyarrow's ParquetFile.
    """
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        if not path.is_file():
            raise DataError(f"{path} is not a regular file; replace it.")
        # Buffered, because a column of a row group may be larger than the memory.
        with ParquetFile(path, buffer_size=2**20, **options) as file:
            yield file
    except WriteError:  # of a copy
        raise
    except (ArrowException, UnicodeDecodeError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else printable(error)
        raise DataError(f"{path} is not a readable Parquet file ({reason}); {remedy(path, 'parquet')}.") from error


def check_expansion(path: Path, num_bytes: int) -> None:
    """Check that the images in a file do not take far more bytes than the file.

    Raises:
        DataError: they do.
    """
    if num_bytes > MAX_EXPANSION * (size := path.stat().st_size):
        raise DataError(f"{path} takes {size:,} bytes, but expands to {num_bytes:,} or more; do not trust it.")


def copy_images(column: Any, folder: Path, spool: Spool) -> None:
    """Append the images of a column to the spool."""
    import pyarrow as pa

    first, paths = len(spool.ends) - 1, None
    if pa.types.is_struct(column.type):
        has_path = column.type.get_field_index("path") >= 0
        paths = column.field("path").to_pylist() if has_path and column.field("bytes").null_count else None
        column = column.field("bytes")
    column = column.cast(pa.large_binary())
    if column.null_count == 0:
        _, offsets, content = column.buffers()
        ends = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1]
        spool.write(memoryview(content)[int(ends[0]) : int(ends[-1])], np.diff(ends))
        return
    for i, value in enumerate(column.to_pylist()):
        if value is None:
            try:
                value = read_beside(folder, paths[i] if paths else None)
            except (OSError, ValueError) as error:
                spool.flaws[first + i] = str(getattr(error, "strerror", None) or error)
        spool.write(memoryview(value or b""), np.array([len(value or b"")]))


def read_beside(folder: Path, name: str | None) -> bytes:
    """Read an image file that a row names.

    Raises:
        OSError, ValueError: the row has none, or it cannot be read, or is not below the folder.
    """
    if not name:
        raise ValueError("has neither bytes nor a path")
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"names the file {printable(name)}, which is not below {folder}")
    try:
        return read_regular(str(path), max_bytes=MAX_FILE_BYTES)
    except OSError as error:
        raise ValueError(f"names the file {printable(name)}, which cannot be read ({error.strerror})") from error


def declared_features(schema: Any) -> dict[str, Any]:
    """Return what the library `datasets` writes about the columns: types, and names of classes."""
    try:
        found = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in found.items() if isinstance(feature, dict)}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def is_image_type(kind: Any) -> bool:
    """Return whether a column of this type can hold images: bytes, or structs with bytes."""
    import pyarrow as pa

    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def find_image_column(schema: Any, declared: dict[str, Any], path: Path) -> str:
    """Return the column of images.

    Raises:
        DataError: there is none, or several that may be meant.
    """
    possible = [field.name for field in schema if is_image_type(field.type)]
    marked = [name for name in possible if declared.get(name, {}).get("_type") == "Image"]
    usual = [name for name in IMAGES if name in possible]
    for names in (marked, possible, usual[:1]):
        if len(names) == 1:
            return names[0]
    columns = ", ".join(printable(f"{field.name} ({field.type})") for field in list(schema)[:12])
    what = f"several columns may hold the images: {', '.join(possible)}" if possible else "no column holds images"
    raise DataError(f"{path}: {what} (columns: {columns}); name one with dataset.image_column.")


def find_label_column(schema: Any, declared: dict[str, Any]) -> str | None:
    """Return the column of labels, or None."""
    possible = [field.name for field in schema if is_label_type(field.type)]
    marked = [name for name in possible if declared.get(name, {}).get("_type") == "ClassLabel"]
    usual = [name for name in LABELS if name in possible]
    return next(iter([*(name for name in usual if name in marked), *marked, *usual]), None)


def is_label_type(kind: Any) -> bool:
    """Return whether a column of this type can hold labels: whole numbers or texts."""
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind))


def say_why_no_labels(schema: Any, image: str, root: Path) -> None:
    """Warn of a column that is called like labels but has another type, or name the columns that could be labels."""
    others = {field.name: field.type for field in schema if field.name != image}
    if called := [name for name in LABELS if name in others]:
        logger.warning(
            "%s: the column %s holds %s, neither whole numbers nor texts, so there are no labels; convert it, or name "
            "another column with dataset.label_column.",
            *(root, called[0], others[called[0]]),
        )
    elif possible := [printable(name) for name, kind in others.items() if is_label_type(kind)]:
        logger.info(
            "%s: there are no labels, since no column is called label, class or similar; to take one of %s, name it "
            "with dataset.label_column.",
            *(root, ", ".join(possible[:8])),
        )


def require_columns(schema: Any, names: list[str | None], path: Path) -> None:
    """Check that the file has the columns.

    Raises:
        DataError: it does not.
    """
    for name in names:
        if name is not None and name not in schema.names:
            known = ", ".join(printable(known) for known in schema.names[:12])
            raise DataError(
                f"{path} has no column {name}, only {known}; set dataset.image_column and dataset.label_column."
            )
