import math
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from gantrain.callbacks.base import Callbacks
from gantrain.callbacks.csv import MetricsCSV, read
from gantrain.callbacks.curves import Curves
from gantrain.callbacks.log import Log
from gantrain.session.run import Run

MakeRun = Callable[..., tuple[Run, Callbacks]]
Complete = Callable[..., None]


def publish(run: Run, step: int, **scalars: float) -> None:
    run.state.step, run.state.batches_seen = step, 2 * step
    run.publish_scalars({tag.replace("__", "/"): value for tag, value in scalars.items()})


def test_numbers_are_read_back_exactly_and_new_tags_add_columns(make_run: MakeRun) -> None:
    run, callbacks = make_run(MetricsCSV())
    callbacks.start()
    publish(run, 1, loss__generator=math.pi, loss__discriminator=1e-300)
    publish(run, 2, loss__generator=0.1 + 0.2, loss__discriminator=1.0)
    publish(run, 3, loss__generator=2.0, loss__discriminator=1.0, metric__fid=12.5)
    publish(run, 4, loss__discriminator=7.0)
    path = run.folder / "metrics.csv"
    assert path.read_text().splitlines()[0] == "step,images,seconds,loss/generator,loss/discriminator,metric/fid"
    rows = read(path)
    seconds = [row.pop("seconds") for row in rows]
    assert rows == [
        {"step": 1, "images": 32, "loss/generator": math.pi, "loss/discriminator": 1e-300},
        {"step": 2, "images": 64, "loss/generator": 0.1 + 0.2, "loss/discriminator": 1.0},
        {"step": 3, "images": 96, "loss/generator": 2.0, "loss/discriminator": 1.0, "metric/fid": 12.5},
        {"step": 4, "images": 128, "loss/discriminator": 7.0},
    ]
    assert seconds == sorted(seconds)
    assert 0 <= seconds[0] <= seconds[-1] < 60
    assert [p.name for p in run.folder.iterdir()] == ["metrics.csv"]


def test_rows_after_the_step_of_a_rewind_are_removed(make_run: MakeRun) -> None:
    run, callbacks = make_run(MetricsCSV())
    callbacks.start()
    for step in (1, 2, 3):
        publish(run, step, loss__generator=float(step))
    run.state.step = 2
    callbacks.rewind()
    publish(run, 3, loss__generator=30.0)
    assert [row["loss/generator"] for row in read(run.folder / "metrics.csv")] == [1, 2, 30]


@pytest.mark.parametrize("steps", [1, 40])
def test_curves_are_drawn_from_two_rows_or_more(make_run: MakeRun, complete: Complete, steps: int) -> None:
    run, callbacks = make_run(Log(every=1), MetricsCSV(), Curves(), steps=steps)
    complete(run, callbacks)
    assert len(read(run.folder / "metrics.csv")) == steps
    if steps == 1:
        assert not (run.folder / "curves.png").exists()
    else:
        with Image.open(run.folder / "curves.png") as image:
            picture = np.asarray(image)
        assert picture.shape == (340, 2 * 460, 3)  # losses, and the gap between logits
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20


def test_no_curves_are_drawn_without_metrics_csv(make_run: MakeRun, complete: Complete) -> None:
    run, callbacks = make_run(Curves(), steps=1)
    complete(run, callbacks)
    assert list(run.folder.iterdir()) == []
