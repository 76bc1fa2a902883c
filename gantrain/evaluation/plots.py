"""Plot distributions of vectors, and draw figures of several panels."""

from collections.abc import Callable
from functools import lru_cache
from math import ceil
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from gantrain.evaluation.agg import Axes, Figure, FigureCanvasAgg, Line2D
from gantrain.evaluation.grids import Picture

Critic = Callable[[Tensor], Tensor]
"""From points [n, 2] to logits [n], both on the CPU."""

REAL, GENERATED = "#0072b2", "#d55e00"  # colors of Okabe and Ito 2008, which color-blind people can distinguish
LINES = [REAL, GENERATED, "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]
DPI = 100
MAX_PANELS = 12


# Distributions


def distribution(
    real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"] | None, critic: Critic | None, *, title: str
) -> Picture:
    """Draw real and generated vectors: densities for 1 coordinate, a scatter plot for 2, histograms for more.

    The axes depend only on the real sample, so that the pictures of a run can be animated.

    Args:
        fake: generated samples; None: draw only the real ones.
        critic: its level sets are drawn if the vectors have 2 coordinates.
    """
    if real.shape[1] == 1:
        return _density_against(real)(None if fake is None else fake[:, 0], title=title)
    if real.shape[1] == 2:
        return scatter(real, fake, critic, title=title)
    return histograms(real, fake, title=title)


class Density:
    """Draws histogram and kernel density of generated numbers over those of real ones.

    The axes and the real numbers are the same in every picture, so they are drawn only once; they are most of the work.
    """

    def __init__(self, real: Float[Tensor, " n"]):
        self.figure, (self.axes,) = make_figure(1, "", width=6.4, height=4.4, margins=(0.7, 0.57, 0.19, 0.4))
        canvas: Any = FigureCanvasAgg(self.figure)
        (low, high), self.bins = _frame(real)
        self.x = torch.linspace(low, high, 400)
        density = kernel_density(real, self.x)
        limits: Any = {"xlim": (low, high), "ylim": (0, 2 * float(density.max()))}
        self.axes.set(xlabel="x", ylabel="probability density", **limits)
        self.share = _bars(self.axes, real, self.bins, REAL)
        self.line = _curve(self.axes, self.x, density, REAL, "real" + self.share)
        self.line.set_animated(True)  # not part of the background: it is drawn over the bars of the generated numbers
        canvas.draw()
        self.canvas, self.background = canvas, canvas.copy_from_bbox(self.figure.bbox)

    def __call__(self, fake: Float[Tensor, " m"] | None, *, title: str) -> Picture:
        """Draw generated and real numbers; None: only the real ones."""
        existing = {*self.axes.patches, *self.axes.lines}
        if fake is not None:
            share = _bars(self.axes, fake, self.bins, GENERATED)
            _curve(self.axes, self.x, kernel_density(fake, self.x), GENERATED, "generated" + share)
        new = [artist for artist in (*self.axes.patches, *self.axes.lines) if artist not in existing]
        legend = self.axes.legend(loc="upper right", frameon=False)
        heading = self.figure.suptitle(title)
        self.canvas.restore_region(self.background)
        for artist in sorted([self.line, *new], key=lambda artist: artist.zorder):  # bars under curves
            self.axes.draw_artist(artist)
        for artist in (legend, heading):
            artist.draw(self.canvas.get_renderer())
        picture = np.asarray(self.canvas.buffer_rgba())[..., :3].copy()
        for artist in new:
            artist.remove()
        return picture


# The cache compares tensors by identity, which is enough: a run uses the same real sample in every picture.
@lru_cache(maxsize=1)
def _density_against(real: Tensor) -> Density:
    return Density(real[:, 0])


def histograms(real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"] | None, *, title: str) -> Picture:
    """Draw histogram and kernel density of each of the first twelve coordinates."""
    num_panels = min(real.shape[1], MAX_PANELS)
    figure, panels = make_figure(num_panels, title)
    for i, axes in enumerate(panels):
        _draw_density(axes, real[:, i], None if fake is None else fake[:, i])
        axes.set(xlabel=f"$x_{{{i}}}$ of {real.shape[1]}" if real.shape[1] > num_panels else f"$x_{{{i}}}$")
    panels[0].set_ylabel("probability density")
    panels[0].legend(loc="upper right", frameon=False)
    return render(figure)


def scatter(
    real: Float[Tensor, "n 2"], fake: Float[Tensor, "m 2"] | None, critic: Critic | None, *, title: str
) -> Picture:
    """Draw a scatter plot of points in the plane over the level sets of the critic.

    Source: Gulrajani 2017, figure 2.
    """
    figure, (axes,) = make_figure(1, title, width=6.0, height=6.4, margins=(0.6, 0.9, 0.18, 0.32))
    center, reach = (real.amin(0) + real.amax(0)) / 2, 0.65 * float((real.amax(0) - real.amin(0)).max())
    (left, bottom), (right, top) = (center - reach).tolist(), (center + reach).tolist()

    if critic is not None:
        x, y = torch.linspace(left, right, 96), torch.linspace(bottom, top, 96)
        points = torch.cartesian_prod(x, y)
        levels = critic(points).reshape(96, 96).T.numpy()
        axes.contourf(x.numpy(), y.numpy(), levels, 16, cmap="Greys", alpha=0.45)
        axes.contour(x.numpy(), y.numpy(), levels, 16, colors="0.45", linewidths=0.5, linestyles="solid")
        axes.plot([], [], color="0.45", linewidth=0.8, label="critic (darker: more real)")

    for points, color, label in _series(real, fake):
        inside = ((points >= torch.tensor([left, bottom])) & (points <= torch.tensor([right, top]))).all(1)
        axes.scatter(
            points[:, 0].numpy(),
            points[:, 1].numpy(),
            s=7,
            color=color,
            alpha=0.6,
            linewidths=0,
            label=label + _share_outside(inside),
        )
    axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal", xlabel="$x_0$", ylabel="$x_1$")
    axes.grid(visible=False)
    figure.legend(loc="lower center", ncols=3, frameon=False, markerscale=3)  # outside the axes, to hide no points
    return render(figure)


def _series(real: Tensor, fake: Tensor | None) -> list[tuple[Tensor, str, str]]:
    pairs = [(real, REAL, "real"), (fake, GENERATED, "generated")]
    return [(values, color, label) for values, color, label in pairs if values is not None]


def _draw_density(axes: Axes, real: Tensor, fake: Tensor | None) -> None:
    (low, high), bins = _frame(real)
    x = torch.linspace(low, high, 400)
    heights = []
    for values, color, label in _series(real, fake):
        density = kernel_density(values, x)
        heights.append(float(density.max()))
        _curve(axes, x, density, color, label + _bars(axes, values, bins, color))
    axes.set(xlim=(low, high), ylim=(0, 2 * heights[0]))


def _frame(real: Tensor) -> tuple[tuple[float, float], ndarray]:
    """Return the range of the axis, and the edges of the histogram's bins."""
    low, high = torch.quantile(real, torch.tensor([0.005, 0.995])).tolist()
    margin = 0.5 * (high - low) or 1.0
    return (low - margin, high + margin), np.linspace(low - margin, high + margin, 61)


def _bars(axes: Axes, values: Tensor, bins: ndarray, color: str) -> str:
    """Draw a histogram; return a label with the share of values outside its range, or "" if it is under 0.5 %."""
    inside = (values >= bins[0]) & (values <= bins[-1])
    # Weights instead of density=True, which would normalize without the values outside the range.
    weights = np.full(int(inside.sum()), 1 / (len(values) * (bins[1] - bins[0])))
    # A single outline is drawn ten times as fast as sixty bars.
    style: Any = {"histtype": "stepfilled", "color": color, "alpha": 0.3}
    axes.hist(values[inside].numpy(), bins=bins.tolist(), weights=weights, **style)
    return _share_outside(inside)


def _curve(axes: Axes, x: Tensor, density: Tensor, color: str, label: str) -> Line2D:
    (line,) = axes.plot(x.numpy(), density.numpy(), color=color, linewidth=2, label=label)
    return line


def _share_outside(inside: Tensor) -> str:
    share = 1 - inside.float().mean().item()
    return f" ({share:.0%} outside)" if share >= 0.005 else ""


def kernel_density(sample: Float[Tensor, " n"], x: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
    """Estimate the probability density at x with Gaussian kernels.

    The bandwidth is that of Silverman 1986, equation 3.31, but at least 1/500 of the range of x, so that a collapsed
    sample gives a spike and not a division by 0.
    """
    quartiles = torch.quantile(sample, torch.tensor([0.25, 0.75]))
    spread = torch.minimum(sample.std(), (quartiles[1] - quartiles[0]) / 1.34)
    bandwidth = torch.maximum(0.9 * spread * len(sample) ** -0.2, (x[-1] - x[0]) / 500)
    offsets = (x[:, None] - sample) / bandwidth
    density: Tensor = torch.exp(-0.5 * offsets**2).mean(1) / (bandwidth * (2 * torch.pi) ** 0.5)
    return density


# Drawing


def make_figure(
    num_panels: int,
    title: str,
    *,
    width: float = 4.6,
    height: float = 3.4,
    margins: tuple[float, float, float, float] | None = None,
) -> tuple[Figure, list[Axes]]:
    """Make a figure of panels, at most three in a row.

    Args:
        width, height: size of a panel with its margins, in inches.
        margins: space to the left of each panel, below, to the right and above, in inches; None: matplotlib computes
            it, which takes as long as drawing.
    """
    columns = min(num_panels, 3)
    num_rows = ceil(num_panels / columns)
    figure = Figure(figsize=(width * columns, height * num_rows), dpi=DPI, layout=None if margins else "constrained")
    if margins:
        left, bottom, right, top = margins
        inner_width, inner_height = width - left - right, height - bottom - top
        figure.subplots_adjust(
            left=left / (width * columns),
            bottom=bottom / (height * num_rows),
            right=1 - right / (width * columns),
            top=1 - top / (height * num_rows),
            wspace=(left + right) / inner_width,
            hspace=(bottom + top) / inner_height,
        )
    panels = [figure.add_subplot(num_rows, columns, i + 1) for i in range(num_panels)]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=True, color="0.92")
        axes.set_axisbelow(True)
    if title:
        figure.suptitle(title)
    return figure, panels


def spans_decades(values: Float[ndarray, " n"]) -> bool:
    """Return whether a logarithmic axis suits the values: they are positive and span more than two decades."""
    return bool(values.min() > 0 and values.max() > 100 * values.min())


def render(figure: Figure) -> Picture:
    """Draw a figure."""
    # Not with pyplot, which would keep every figure in memory and choose a backend for the process.
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
