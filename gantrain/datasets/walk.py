"""List the files below a folder of data."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from gantrain.datasets.left_out import HIDDEN_MARK, LeftOut, is_system, is_visible
from gantrain.errors import DataError

MAX_FOLDERS = 1_000_000


def walk(root: Path, flaws: dict[str, str], left_out: LeftOut, option: str) -> Iterator[tuple[str, int, int]]:
    """Yield name, size and modification time of each visible file below a folder.

    Follows links, because datasets are often folders of links, but not into a folder that contains the link.

    Args:
        flaws: gets the reason, by name, for each file that cannot be read, and for each folder that cannot be listed;
            the name of such a folder is yielded, and ends with a slash.
        left_out: gets the folders that systems make, which are skipped.
        option: name of the option that holds the root, for messages.

    Raises:
        DataError: there are too many folders.
        OSError: the root cannot be listed.
    """
    pending: list[tuple[Path, str, frozenset[tuple[int, int]]]] = [(root, "", frozenset())]
    num_folders = 0
    while pending:
        folder, prefix, above = pending.pop()
        try:
            status = folder.stat()
            with os.scandir(folder) as found:
                entries = list(found)
        except OSError as error:
            if not prefix:
                raise
            flaws[prefix] = f"cannot be listed ({error.strerror})"
            yield prefix, 0, 0
            continue
        itself = (status.st_dev, status.st_ino)
        if itself in above:
            continue
        num_folders += 1
        if num_folders > MAX_FOLDERS:
            raise DataError(
                f"{option}={root} leads into more than {MAX_FOLDERS:,} folders, "
                "perhaps through links; choose a folder with fewer."
            )
        for entry in entries:
            name = prefix + entry.name
            if entry.name == Path(HIDDEN_MARK).parts[0]:
                yield prefix + HIDDEN_MARK, 0, 0
            if not is_visible(name):
                continue
            try:
                status = entry.stat()
            except OSError as error:  # a broken link, or a file that was just deleted
                flaws[name] = f"cannot be read ({error.strerror})"
                yield name, 0, 0
                continue
            if stat.S_ISDIR(status.st_mode):
                if is_system(entry.name):
                    left_out.system[name] = None
                else:
                    pending.append((Path(entry.path), f"{name}/", above | {itself}))
                continue
            if not stat.S_ISREG(status.st_mode):
                flaws[name] = "is not a regular file"
            yield name, status.st_size, status.st_mtime_ns
