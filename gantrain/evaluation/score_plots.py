"""Plot the scores of checkpoints against their step."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gantrain.evaluation.agg import Axes, MaxNLocator
from gantrain.evaluation.grids import Picture
from gantrain.evaluation.plots import GENERATED, LINES, REAL, make_figure, render, spans_decades
from gantrain.evaluation.receipts import PROTOCOL
from gantrain.evaluation.table import Comparison, real_samples


def score_curves(comparisons: Sequence[Comparison]) -> Picture:
    """Draw a panel for each score: its value at each step, the best one, and that of real samples as a line.

    The standard deviation of a score is drawn as error bars.

    Values of different protocols are not connected, and none is marked as the best.
    """
    figure, panels = make_figure(len(comparisons), "")
    for axes, comparison in zip(panels, comparisons, strict=True):
        draw(axes, comparison)
    return render(figure)


def draw(axes: Axes, comparison: Comparison) -> None:
    """Draw one score, with a line for each protocol."""
    steps = np.array([found.step for found in comparison.found], np.float64)
    values = np.array([score.value for score in comparison.all])
    stds = np.array([0.0 if std is None else std.value for std in comparison.stds])
    protocols = [repr([score.receipt.get(key) for key in PROTOCOL]) for score in comparison.all]
    kinds = list(dict.fromkeys(protocols))
    for i, kind in enumerate(kinds):
        chosen = [protocol == kind for protocol in protocols]
        label = f"protocol {i + 1}" if comparison.refusal else None
        color = LINES[i % len(LINES)] if comparison.refusal else GENERATED
        axes.plot(steps[chosen], values[chosen], color=color, marker=".", markersize=8, label=label)
        if comparison.std:
            axes.errorbar(steps[chosen], values[chosen], stds[chosen], fmt="none", ecolor=color, capsize=3)
    if comparison.best is not None:
        i = comparison.best
        style: Any = {"marker": "*", "markersize": 16, "linestyle": "none", "color": GENERATED}
        axes.plot(steps[i], values[i], label=f"best: {values[i]:.4g} at step {int(steps[i]):,}", **style)
    real = comparison.all[0].real
    if real is not None and comparison.refusal is None:
        axes.axhline(real, color=REAL, linestyle="--", label=f"{real_samples(comparison.all[0].receipt)}: {real:.4g}")
    note = "not ranked: protocols differ" if comparison.refusal else ""
    direction = f"{comparison.better} is better" if comparison.better else ""
    axes.set(title=f"{comparison.name}\n{note or direction}", xlabel="generator updates")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    if spans_decades(values):
        axes.set_yscale("log")
    axes.margins(y=0.15)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
