"""Write the scalars as a table that any program reads."""

import csv
import io
import time
from pathlib import Path

from typing_extensions import override

from gantrain.callbacks.base import Callback
from gantrain.files import atomic_write
from gantrain.run import Run
from gantrain.train import TrainState


class MetricsCSV(Callback):
    """metrics.csv: one row a logged step, one column a scalar; a cell is empty where the step had no such number."""

    @override
    def start(self, run: Run) -> None:
        self.run, self.path = run, run.folder / "metrics.csv"
        self.columns = ["step", "images", "seconds"]
        # A resumed run replaces what an earlier one wrote after the step that it continues from.
        kept = [row for row in read_cells(self.path) if int(row["step"]) <= run.state.step]
        self.columns += [column for column in (kept[0] if kept else ()) if column not in self.columns]
        self.rewrite(kept)

    @override
    def scalars(self, state: TrainState, scalars: dict[str, float]) -> None:
        new = [tag for tag in scalars if tag not in self.columns]
        if new:
            self.columns += new
            self.rewrite(read_cells(self.path))
        seconds = time.time() - self.run.started
        row = {"step": state.step, "images": self.run.images_seen, "seconds": seconds, **scalars}
        with self.path.open("a") as file:
            file.write(self.line({column: repr(value) for column, value in row.items()}))

    def rewrite(self, rows: list[dict[str, str]]) -> None:
        """Write the header and the rows anew."""
        lines = [self.line({column: column for column in self.columns}), *map(self.line, rows)]
        with atomic_write(self.path) as file:
            file.write("".join(lines).encode())

    def line(self, cells: dict[str, str]) -> str:
        """Write one row in the order of the columns."""
        text = io.StringIO()
        csv.DictWriter(text, self.columns, restval="", lineterminator="\n").writerow(cells)
        return text.getvalue()


def read_cells(path: Path) -> list[dict[str, str]]:
    """Read the table as it stands, without rows where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def read(path: Path) -> list[dict[str, float]]:
    """Read the table's numbers; empty cells are left out."""
    return [{column: float(cell) for column, cell in row.items() if cell} for row in read_cells(path)]
