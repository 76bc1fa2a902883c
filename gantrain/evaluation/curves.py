"""Plot the logged scalars of a run."""

import re
from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from gantrain.evaluation.agg import Axes
from gantrain.evaluation.grids import Picture
from gantrain.evaluation.plots import GENERATED, LINES, REAL, make_figure, render, spans_decades
from gantrain.evaluation.table import std_names

Rows = Sequence[dict[str, float]]
"""Logged values by column of metrics.csv; a row may lack columns."""

KINDS = {"loss": "losses", "logits/gap": "logits, real minus fake", "penalty": "penalties"}
"""Titles of panels, by tag or by the first part of the tag."""

ESTIMATE, DISTANCE, BOUND = "Wasserstein estimate", "Wasserstein distance", "Lipschitz bound of the critic"
WASSERSTEIN = {
    "estimate": (ESTIMATE, "training batch"),
    "train": (ESTIMATE, "training samples"),
    "held_out": (ESTIMATE, "held-out samples"),
    "exact": (DISTANCE, "exact"),
    "normalized": (DISTANCE, "estimate / Lipschitz bound"),
    "lipschitz": (BOUND, BOUND),
}
"""Title of the panel and label of the tags wasserstein/...; the others are not drawn."""


def curves(rows: Rows) -> Picture | None:
    """Draw the scalars of metrics.csv over generator updates, as faint raw values and strong moving averages.

    The estimate of the Wasserstein distance that is divided by the Lipschitz bound has a dot where it is reliable, and
    a cross where it is not. The standard deviation of a metric is drawn as a band around it.

    Returns:
        a picture with one panel each for losses, Wasserstein estimates, the distance, the Lipschitz bound, the logit
        gap, penalties, and each metric; None if the rows have none of these.
    """
    tags = list(dict.fromkeys(tag for row in rows for tag in row))
    stds = std_names(tags, ())
    panels = find_panels([tag for tag in tags if tag not in stds.values()])
    if not panels:
        return None
    legend_rows = max(ceil(len(labels) / 2) for labels in panels.values())
    figure, all_axes = make_figure(len(panels), "", margins=(0.75, 0.55 + 0.25 * legend_rows, 0.1, 0.35))
    for axes, (title, labels) in zip(all_axes, panels.items(), strict=True):
        draw_panel(axes, rows, title, labels, stds)
    return render(figure)


def find_panels(tags: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the label of each tag that is drawn, by the title of its panel."""
    estimates = [tag for name in WASSERSTEIN if (tag := f"wasserstein/{name}") in tags]
    panels: dict[str, dict[str, str]] = {}
    for first in tags:
        for tag in estimates if first in estimates else [first]:
            if (panel := panel_of(tag)) is not None:
                title, label = panel
                panels.setdefault(title, {})[tag] = label
    return panels


def panel_of(tag: str) -> tuple[str, str] | None:
    """Return the title of a tag's panel, and its label there; the coordinates of a metric share a panel."""
    kind, _, name = tag.partition("/")
    words = name.replace("_", " ")
    if kind == "wasserstein":
        return WASSERSTEIN.get(name)
    if kind == "metric":
        return "metric: " + re.sub(r" \d+$", "", words), words
    title = KINDS.get(tag) or KINDS.get(kind)
    return None if title is None else (title, words)


def draw_panel(axes: Axes, rows: Rows, title: str, labels: dict[str, str], stds: dict[str, str]) -> None:
    """Draw a panel, with its legend below it, where it covers no curve.

    Args:
        labels: by tag.
        stds: the tag of the standard deviation, by tag.
    """
    drawn = []
    for (tag, label), color in zip(labels.items(), LINES * len(labels), strict=False):
        steps, values = series(rows, tag)
        if tag == "wasserstein/normalized":
            draw_normalized(axes, rows, label)
        elif tag == "wasserstein/exact":
            axes.plot(steps, values, color="black", label=label)
        else:
            draw_curve(axes, steps, values, color, label)
        if tag == "wasserstein/held_out":
            axes.lines[-1].set_linestyle("--")  # because it often covers that on training samples
        if tag in stds:
            draw_band(axes, rows, tag, stds[tag], color)
        drawn.append(values)
    axes.set(title=title, xlabel="generator updates", xlim=(0, 1.03 * rows[-1]["step"]))
    if spans_decades(np.concatenate(drawn)):
        axes.set_yscale("log")
    elif title == DISTANCE:
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))  # because a distance is compared with 0
    if len(labels) > 1 or not title.endswith(tuple(labels.values())):
        axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)


def series(rows: Rows, tag: str) -> tuple[Float[ndarray, " n"], Float[ndarray, " n"]]:
    """Return the steps at which a tag was logged, and its values."""
    steps, values = np.array([(row["step"], row[tag]) for row in rows if tag in row], np.float64).T
    return steps, values


def draw_curve(axes: Axes, steps: Float[ndarray, " n"], values: Float[ndarray, " n"], color: str, label: str) -> None:
    """Draw values and their moving average; few values as dots that are connected."""
    window = len(values) // 25
    if window < 2:
        axes.plot(steps, values, color=color, marker=".", label=label)
        return
    axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
    axes.plot(steps, moving_average(values, window), color=color, linewidth=2, label=label)


def draw_normalized(axes: Axes, rows: Rows, label: str) -> None:
    """Draw the estimate divided by the Lipschitz bound: dots where it is reliable, crosses where it is not."""
    tag = "wasserstein/normalized"
    axes.plot(*series(rows, tag), color=REAL, alpha=0.4)
    for is_reliable, marker, color in ((True, "o", REAL), (False, "x", GENERATED)):
        chosen = [row for row in rows if tag in row and bool(row.get("wasserstein/reliable", 1)) == is_reliable]
        if chosen:
            style: Any = {"marker": marker, "markersize": 5, "linestyle": "none", "color": color}
            axes.plot(*series(chosen, tag), label=label if is_reliable else "the same, not reliable", **style)


def draw_band(axes: Axes, rows: Rows, tag: str, std: str, color: str) -> None:
    """Draw the standard deviation of a metric around its values."""
    both = [row for row in rows if tag in row and std in row]
    (steps, values), (_, stds) = series(both, tag), series(both, std)
    axes.fill_between(steps, values - stds, values + stds, color=color, alpha=0.15, linewidth=0)


def moving_average(values: Float[ndarray, " n"], window: int) -> Float[ndarray, " n"]:
    """Average each value with its neighbours over `window` values, fewer at the ends."""
    kernel = np.ones(window)
    average: ndarray = np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")
    return average
