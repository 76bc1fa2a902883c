"""Write the scalars to a CSV file."""

import csv
import io
import math
from pathlib import Path

from typing_extensions import override

from gantrain.callbacks.base import Callback
from gantrain.files import append, atomic_write, sync
from gantrain.session.run import Run
from gantrain.train import TrainState

FIXED = ("step", "images", "seconds")
"""The columns that every row has."""

MAX_LINE = 100_000
"""Maximum length of a line, in characters; longer ones are damaged."""


class MetricsCSV(Callback):
    """Write metrics.csv: a row for each logged step, a column for each scalar; empty cells if a step lacks a scalar."""

    @override
    def start(self, run: Run) -> None:
        self.path = run.folder / "metrics.csv"
        self.columns = list(FIXED)
        if run.previous is None:
            self.rewrite([])

    @override
    def rewind(self, state: TrainState) -> None:
        rows = []
        for row in read_cells(self.path):
            step = int(row["step"])
            if any(self.run.survives_rewind(step, tag) for tag in row.keys() - FIXED):
                survivors = [tag for tag in row if tag in FIXED or self.run.survives_rewind(step, tag)]
                rows.append({tag: row[tag] for tag in survivors})
        self.columns = list(dict.fromkeys([*FIXED, *(tag for row in rows for tag, cell in row.items() if cell)]))
        self.rewrite(rows)

    @override
    def scalars(self, state: TrainState, scalars: dict[str, float]) -> None:
        new = [tag for tag in scalars if tag not in self.columns]
        if new:
            self.columns += new
            self.rewrite(read_cells(self.path))
        row = {"step": state.step, "images": self.run.images_seen, "seconds": self.run.seconds, **scalars}
        append(self.path, self.line({column: repr(value) for column, value in row.items()}).encode())

    @override
    def flush(self) -> None:
        sync(self.path)

    def rewrite(self, rows: list[dict[str, str]]) -> None:
        """Replace the file by the header and these rows."""
        lines = [self.line({column: column for column in self.columns}), *map(self.line, rows)]
        with atomic_write(self.path) as file:
            file.write("".join(lines).encode())

    def line(self, cells: dict[str, str]) -> str:
        """Format one row in the order of the columns."""
        text = io.StringIO()
        csv.DictWriter(text, self.columns, restval="", lineterminator="\n").writerow(cells)
        return text.getvalue()


def read_cells(path: Path) -> list[dict[str, str]]:
    """Read the non-empty cells of every valid row; return [] if there is no file.

    Rows with content that is not a number are skipped, and so is a last line without a line break, which was truncated
    when the process was killed.
    """
    if not path.exists():
        return []
    lines = path.read_text(errors="replace").splitlines(keepends=True)
    complete = [line for line in lines if line.endswith("\n") and len(line) < MAX_LINE and "\0" not in line]
    rows = [{tag: cell for tag, cell in row.items() if cell} for row in csv.DictReader(complete)]
    return [row for row in rows if _is_row(row)]


def _is_row(row: dict[str, str]) -> bool:
    try:
        return None not in row and math.isfinite(sum(map(float, row.values()))) and int(row["step"]) >= 0
    except (ValueError, TypeError, LookupError):
        return False


def read(path: Path) -> list[dict[str, float]]:
    """Read every valid row as numbers, without empty cells."""
    return [{column: float(cell) for column, cell in row.items()} for row in read_cells(path)]
