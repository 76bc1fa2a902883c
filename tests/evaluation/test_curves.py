"""Curves of the logged scalars: panels, legends, and marks, read from the figure that is drawn."""

from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gantrain.evaluation import curves


def drawn(rows: list[dict[str, float]], monkeypatch: pytest.MonkeyPatch) -> dict[str, Axes]:
    """Draw the curves, and return the panels by title."""
    figures: list[Figure] = []

    def keep(figure: Figure) -> Any:
        figures.append(figure)
        FigureCanvasAgg(figure).draw()
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr(curves, "render", keep)
    assert curves.curves(rows) is not None
    return {axes.get_title(): axes for axes in figures[0].axes}


def labels(axes: Axes) -> list[str]:
    legend = axes.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def wasserstein_rows(*, exact: bool, held_out: bool) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    for i in range(1, 9):
        row = {"step": 50.0 * i, "wasserstein/estimate": 2.0 - 0.1 * i}
        if i % 2 == 0:
            row |= {"wasserstein/train": 2.0 - 0.1 * i, "wasserstein/more_trained": 3.0, "wasserstein/lipschitz": 1.5}
            row |= {"wasserstein/normalized": 1.0 - 0.05 * i, "wasserstein/reliable": float(i < 5)}
            row |= {"wasserstein/exact": 1.1} if exact else {}
            row |= {"wasserstein/held_out": 1.8 - 0.1 * i} if held_out else {}
        rows.append(row)
    return rows


def test_the_wasserstein_estimate_has_three_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    panels = drawn(wasserstein_rows(exact=True, held_out=True), monkeypatch)
    assert list(panels) == ["Wasserstein estimate", "Wasserstein distance", "Lipschitz bound of the critic"]
    estimate, distance, bound = panels.values()
    assert labels(estimate) == ["training batch", "training samples", "held-out samples"]
    assert len({line.get_color() for line in estimate.lines}) == 3
    assert labels(distance) == ["exact", "estimate / Lipschitz bound", "the same, not reliable"]
    assert distance.get_ylim()[0] == 0
    assert labels(bound) == []
    np.testing.assert_array_equal(bound.lines[0].get_ydata(), [1.5] * 4)


def test_estimates_that_are_not_reliable_are_crosses(monkeypatch: pytest.MonkeyPatch) -> None:
    distance = drawn(wasserstein_rows(exact=False, held_out=False), monkeypatch)["Wasserstein distance"]
    marked = {line.get_marker(): list(line.get_xdata()) for line in distance.lines if line.get_linestyle() == "None"}
    assert marked == {"o": [100, 200], "x": [300, 400]}
    rows = [{**row, "wasserstein/reliable": 1.0} for row in wasserstein_rows(exact=False, held_out=False)]
    assert "the same, not reliable" not in labels(drawn(rows, monkeypatch)["Wasserstein distance"])


def test_no_legend_covers_a_curve_or_another_text(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {**row, "loss/generator": 1.0, "loss/discriminator": 2.0} for row in wasserstein_rows(exact=True, held_out=True)
    ]
    for axes in drawn(rows, monkeypatch).values():
        if (legend := axes.get_legend()) is not None:
            box = legend.get_window_extent()
            assert box.y1 <= axes.get_window_extent().y0
            assert box.y1 <= axes.xaxis.label.get_window_extent().y0
            assert box.y0 >= 0
            others = [other.title.get_window_extent() for other in axes.figure.axes]
            assert not any(box.overlaps(other) for other in others)


def test_the_standard_deviation_of_a_metric_is_a_band(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"step": float(i), "metric/kid_digits": 5.0 + i, "metric/kid_std_digits": 0.5} for i in (1, 2)]
    panels = drawn(rows, monkeypatch)
    assert list(panels) == ["metric: kid digits"]
    (band,) = panels["metric: kid digits"].collections
    corners = {tuple(vertex) for vertex in band.get_paths()[0].vertices.tolist()}
    assert corners == {(1, 5.5), (1, 6.5), (2, 6.5), (2, 7.5)}


def test_moving_average_keeps_a_line_and_its_length() -> None:
    line = np.arange(50.0)
    np.testing.assert_allclose(curves.moving_average(line, 5)[2:-2], line[2:-2])
    np.testing.assert_allclose(curves.moving_average(np.ones(50), 8), np.ones(50))


def test_curves_have_a_panel_for_each_kind_of_scalar() -> None:
    rows = [{"step": float(i), "images": i, "loss/generator": 1.0, "metric/mean_0": 0.1 * i} for i in range(10)]
    two = curves.curves(rows)
    one = curves.curves([{"step": row["step"], "loss/generator": row["loss/generator"]} for row in rows])
    assert two is not None
    assert one is not None
    assert two.shape[1] == 2 * one.shape[1]
    assert curves.curves([{"step": 1.0, "images": 16.0}, {"step": 2.0, "images": 32.0}]) is None
