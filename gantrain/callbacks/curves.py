"""Draw the curves of the run at its end."""

from typing_extensions import override

from gantrain.callbacks.base import Callback
from gantrain.callbacks.csv import read
from gantrain.evaluation import curves, grids
from gantrain.session.run import Run
from gantrain.train import TrainState


class Curves(Callback):
    """Draw curves.png from metrics.csv, which the callback csv writes, if it has at least 2 rows."""

    @override
    def start(self, run: Run) -> None:
        self.folder = run.folder

    @override
    def finish(self, state: TrainState, status: str) -> None:
        rows = read(self.folder / "metrics.csv")
        picture = curves.curves(rows) if len(rows) >= 2 else None
        if picture is not None:
            grids.save_png(self.folder / "curves.png", picture)
