"""Pictures of samples and of a run's numbers, as uint8 arrays [h, w, 3]."""

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from io import BytesIO
from math import ceil, isqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy import ndarray
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from gantrain.datasets.batches import to_bytes
from gantrain.files import atomic_write

logger = logging.getLogger(__name__)

Picture = UInt8[ndarray, "height width 3"]
Critic = Callable[[Tensor], Tensor]
"""From points [n, 2] to logits [n], both on the CPU."""

REAL, GENERATED = "#0072b2", "#d55e00"  # told apart by colour-blind eyes too (Okabe and Ito 2008)
LINES = [REAL, GENERATED, "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]
DPI = 100
MAX_PANELS = 12


# Images


def grid(images: Float[Tensor, "n c h w"]) -> Picture:
    """Lay images out in a grid that is about square, white lines between them.

    Brightness is that of [-1, 1] whatever the images hold, so that grids can be compared. Small images are enlarged by
    a whole factor until the grid is 256 pixels wide.
    """
    n, _, _, w = images.shape
    columns = num_columns(n)
    factor = max(1, ceil(256 / (columns * w)))
    pixels = to_bytes(images.detach().float().cpu())
    pixels = pixels.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
    tiled: Tensor = make_grid(pixels, nrow=columns, padding=2, pad_value=255)
    return tiled.permute(1, 2, 0).contiguous().numpy()


def num_columns(n: int) -> int:
    """Choose the columns for n tiles: a divisor of n from its root to twice that, else the root, rounded up."""
    root = 1 + isqrt(n - 1)
    return next((columns for columns in range(root, 2 * root) if n % columns == 0), root)


# Vectors


def distribution(
    real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"] | None, critic: Critic | None, *, title: str
) -> Picture:
    """Show generated against real vectors, in the way that suits their number of coordinates.

    The axes depend on the real sample alone: where it stays the same, a series of pictures can be animated.

    Args:
        fake: generated samples, or None to show the real ones only.
        critic: its level sets are drawn where the vectors have two coordinates.
    """
    if real.shape[1] == 1:
        return _density_against(real)(None if fake is None else fake[:, 0], title=title)
    if real.shape[1] == 2:
        return scatter(real, fake, critic, title=title)
    return histograms(real, fake, title=title)


class Density:
    """Draws histogram and kernel density of generated numbers over those of real ones.

    Whatever stays from picture to picture is drawn once, which is most of the work.
    """

    def __init__(self, real: Float[Tensor, " n"]):
        self.figure, (self.axes,) = _figure(1, "", width=6.4, height=4.4, margins=(0.11, 0.13, 0.97, 0.91))
        canvas: Any = FigureCanvasAgg(self.figure)
        (low, high), self.bins = _frame(real)
        self.x = torch.linspace(low, high, 400)
        density = kernel_density(real, self.x)
        limits: Any = {"xlim": (low, high), "ylim": (0, 2 * float(density.max()))}
        self.axes.set(xlabel="x", ylabel="probability density", **limits)
        self.share = _bars(self.axes, real, self.bins, REAL)
        self.line = _curve(self.axes, self.x, density, REAL, "real" + self.share)
        self.line.set_animated(True)  # it is to lie over the generated numbers' bars
        canvas.draw()
        self.canvas, self.background = canvas, canvas.copy_from_bbox(self.figure.bbox)

    def __call__(self, fake: Float[Tensor, " m"] | None, *, title: str) -> Picture:
        """Draw generated numbers, or none."""
        held = {*self.axes.patches, *self.axes.lines}
        if fake is not None:
            share = _bars(self.axes, fake, self.bins, GENERATED)
            _curve(self.axes, self.x, kernel_density(fake, self.x), GENERATED, "generated" + share)
        new = [artist for artist in (*self.axes.patches, *self.axes.lines) if artist not in held]
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


# A tensor is the same one if it is the same object: a run draws its real numbers once, and shows them in every picture.
@lru_cache(maxsize=1)
def _density_against(real: Tensor) -> Density:
    return Density(real[:, 0])


def histograms(real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"] | None, *, title: str) -> Picture:
    """Draw a histogram and kernel density a coordinate, of the first twelve coordinates."""
    num_panels = min(real.shape[1], MAX_PANELS)
    figure, panels = _figure(num_panels, title)
    for i, axes in enumerate(panels):
        _draw_density(axes, real[:, i], None if fake is None else fake[:, i])
        axes.set(xlabel=f"$x_{{{i}}}$ of {real.shape[1]}" if real.shape[1] > num_panels else f"$x_{{{i}}}$")
    panels[0].set_ylabel("probability density")
    panels[0].legend(loc="upper right", frameon=False)
    return _render(figure)


def scatter(
    real: Float[Tensor, "n 2"], fake: Float[Tensor, "m 2"] | None, critic: Critic | None, *, title: str
) -> Picture:
    """Draw points of the plane over the critic's level sets.

    Source: Gulrajani 2017, figure 2.
    """
    figure, (axes,) = _figure(1, title, width=6.0, height=6.4, margins=(0.1, 0.14, 0.97, 0.95))
    centre, reach = (real.amin(0) + real.amax(0)) / 2, 0.65 * float((real.amax(0) - real.amin(0)).max())
    (left, bottom), (right, top) = (centre - reach).tolist(), (centre + reach).tolist()

    if critic is not None:
        x, y = torch.linspace(left, right, 96), torch.linspace(bottom, top, 96)
        points = torch.cartesian_prod(x, y)
        levels = critic(points).reshape(96, 96).T.numpy()
        axes.contourf(x.numpy(), y.numpy(), levels, 16, cmap="Greys", alpha=0.45)
        axes.contour(x.numpy(), y.numpy(), levels, 16, colors="0.45", linewidths=0.5, linestyles="solid")
        axes.plot([], [], color="0.45", linewidth=0.8, label="critic (darker: more real)")

    for points, colour, label in _series(real, fake):
        inside = ((points >= torch.tensor([left, bottom])) & (points <= torch.tensor([right, top]))).all(1)
        axes.scatter(
            points[:, 0].numpy(),
            points[:, 1].numpy(),
            s=7,
            color=colour,
            alpha=0.6,
            linewidths=0,
            label=label + _share_outside(inside),
        )
    axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal", xlabel="$x_0$", ylabel="$x_1$")
    axes.grid(visible=False)
    figure.legend(loc="lower center", ncols=3, frameon=False, markerscale=3)  # outside: it would hide points
    return _render(figure)


def _series(real: Tensor, fake: Tensor | None) -> list[tuple[Tensor, str, str]]:
    pairs = [(real, REAL, "real"), (fake, GENERATED, "generated")]
    return [(values, colour, label) for values, colour, label in pairs if values is not None]


def _draw_density(axes: Axes, real: Tensor, fake: Tensor | None) -> None:
    (low, high), bins = _frame(real)
    x = torch.linspace(low, high, 400)
    heights = []
    for values, colour, label in _series(real, fake):
        density = kernel_density(values, x)
        heights.append(float(density.max()))
        _curve(axes, x, density, colour, label + _bars(axes, values, bins, colour))
    axes.set(xlim=(low, high), ylim=(0, 2 * heights[0]))


def _frame(real: Tensor) -> tuple[tuple[float, float], ndarray]:
    """Choose the range of the axis, and the edges of the bars in it."""
    low, high = torch.quantile(real, torch.tensor([0.005, 0.995])).tolist()
    margin = 0.5 * (high - low) or 1.0
    return (low - margin, high + margin), np.linspace(low - margin, high + margin, 61)


def _bars(axes: Axes, values: Tensor, bins: ndarray, colour: str) -> str:
    """Draw the histogram; return what to say of the numbers that lie outside."""
    inside = (values >= bins[0]) & (values <= bins[-1])
    # Weights, and not `density=True`, so that what lies outside lowers the bars as it should.
    weights = np.full(int(inside.sum()), 1 / (len(values) * (bins[1] - bins[0])))
    # One outline and not sixty bars, which take ten times as long to draw.
    style: Any = {"histtype": "stepfilled", "color": colour, "alpha": 0.3}
    axes.hist(values[inside].numpy(), bins=bins.tolist(), weights=weights, **style)
    return _share_outside(inside)


def _curve(axes: Axes, x: Tensor, density: Tensor, colour: str, label: str) -> Line2D:
    (line,) = axes.plot(x.numpy(), density.numpy(), color=colour, linewidth=2, label=label)
    return line


def _share_outside(inside: Tensor) -> str:
    share = 1 - inside.float().mean().item()
    return f" ({share:.0%} outside)" if share >= 0.005 else ""


def kernel_density(sample: Float[Tensor, " n"], x: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
    """Estimate the density at x by Gaussian kernels.

    Source: Silverman 1986, equation 3.31, for the bandwidth; never below a 500th of the range of x, so that a
    collapsed sample is a spike and no division by 0.
    """
    quartiles = torch.quantile(sample, torch.tensor([0.25, 0.75]))
    spread = torch.minimum(sample.std(), (quartiles[1] - quartiles[0]) / 1.34)
    bandwidth = torch.maximum(0.9 * spread * len(sample) ** -0.2, (x[-1] - x[0]) / 500)
    offsets = (x[:, None] - sample) / bandwidth
    density: Tensor = torch.exp(-0.5 * offsets**2).mean(1) / (bandwidth * (2 * torch.pi) ** 0.5)
    return density


# Curves


def curves(rows: Sequence[dict[str, float]]) -> Picture | None:
    """Draw the numbers of metrics.csv over the generator's updates: raw faint, smoothed strong.

    Args:
        rows: what was logged, by column; a number that a row lacks is left out.

    Returns:
        A panel for each of losses, Wasserstein estimate, penalties and metrics that there is, or None if there is none.
    """
    panels: dict[str, list[str]] = defaultdict(list)
    for tag in dict.fromkeys(tag for row in rows for tag in row):
        if (panel := _panel(tag)) is not None:
            panels[panel].append(tag)
    if not panels:
        return None
    figure, all_axes = _figure(len(panels), "")
    for axes, (panel, tags) in zip(all_axes, panels.items(), strict=True):
        drawn = []
        for tag, colour in zip(tags, LINES * len(tags), strict=False):
            steps, values = np.array([(row["step"], row[tag]) for row in rows if tag in row]).T
            _draw_curve(axes, steps, values, colour, tag.split("/")[1].replace("_", " "))
            drawn.append(values)
        axes.set(title=panel, xlabel="generator updates", xlim=(0, 1.03 * rows[-1]["step"]))
        if spans_decades(np.concatenate(drawn)):
            axes.set_yscale("log")
        if len(tags) > 1 or not panel.endswith(tags[0].split("/")[1].replace("_", " ")):
            axes.legend(frameon=False)
    return _render(figure)


def _panel(tag: str) -> str | None:
    """Name the panel that a tag belongs in; coordinates of one metric (mean_0, mean_1) share one."""
    kind, _, name = tag.partition("/")
    if kind == "metric":
        return "metric: " + re.sub(r"_\d+$", "", name).replace("_", " ")
    return {"loss": "losses", "wasserstein": "Wasserstein estimate", "penalty": "penalties"}.get(kind)


def _draw_curve(axes: Axes, steps: ndarray, values: ndarray, colour: str, label: str) -> None:
    window = len(values) // 25
    if window < 2:
        axes.plot(steps, values, color=colour, marker=".", label=label)
        return
    axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
    axes.plot(steps, moving_average(values, window), color=colour, linewidth=2, label=label)


def moving_average(values: Float[ndarray, " n"], window: int) -> Float[ndarray, " n"]:
    """Average each value with its neighbours, `window` in all; at the ends with those that there are."""
    kernel = np.ones(window)
    average: ndarray = np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")
    return average


def spans_decades(values: Float[ndarray, " n"]) -> bool:
    """Whether a logarithmic axis shows the values better: all positive, over more than two decades."""
    return bool(values.min() > 0 and values.max() > 100 * values.min())


# Drawing


def _figure(
    num_panels: int,
    title: str,
    *,
    width: float = 4.6,
    height: float = 3.4,
    margins: tuple[float, float, float, float] | None = None,
) -> tuple[Figure, list[Axes]]:
    """Make a figure of panels, three in a row; the width and height, in inches, are a panel's.

    Args:
        margins: where the panels begin and end, left, bottom, right and top, as parts of the figure; None: matplotlib
            finds them, for which it has to draw everything twice.
    """
    columns = min(num_panels, 3)
    num_rows = ceil(num_panels / columns)
    figure = Figure(figsize=(width * columns, height * num_rows), dpi=DPI, layout=None if margins else "constrained")
    if margins:
        figure.subplots_adjust(*margins)
    panels = [figure.add_subplot(num_rows, columns, i + 1) for i in range(num_panels)]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=True, color="0.92")
        axes.set_axisbelow(True)
    if title:
        figure.suptitle(title)
    return figure, panels


def _render(figure: Figure) -> Picture:
    # A canvas of the figure's own: pyplot would keep every figure alive and pick a backend for the process.
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


# Files


def save_png(path: Path, picture: Picture) -> None:
    """Write the picture."""
    with atomic_write(path) as file:
        file.write(png(picture))


def png(picture: Picture) -> bytes:
    """Encode, with the least effort: twice as fast, and a twentieth larger."""
    file = BytesIO()
    Image.fromarray(picture).save(file, format="png", compress_level=1)
    return file.getvalue()


def animation(
    path: Path,
    frames: Sequence[Path],
    *,
    max_frames: int = 200,
    max_width: int = 512,
    frame_ms: int = 100,
    last_ms: int = 2000,
) -> None:
    """Write the picture files as a GIF that repeats, evenly thinned out and scaled down to the given bounds.

    Args:
        frame_ms: how long a frame is shown, in milliseconds; `last_ms` the last.
    """
    chosen = [frame for frame in (frames[i] for i in evenly(len(frames), max_frames)) if _is_whole(frame)]
    if not chosen:
        return
    pictures = _open_frames(chosen, max_width)
    first = next(pictures)
    with atomic_write(path) as file:
        first.save(
            file,
            format="gif",
            save_all=True,
            append_images=pictures,
            duration=[frame_ms] * (len(chosen) - 1) + [last_ms],
            loop=0,
        )


def evenly(num: int, max_num: int) -> list[int]:
    """Choose at most `max_num` of the indices below num, evenly spaced, first and last among them."""
    return sorted(set(np.linspace(0, num - 1, min(num, max_num)).round().astype(int).tolist()))


def _is_whole(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            image.verify()
    except Exception as error:  # broken bytes raise exceptions of every kind
        logger.warning("%s is damaged (%s); the animation goes without it.", path, error)
        return False
    return True


def _open_frames(paths: Sequence[Path], max_width: int) -> Iterator[Image.Image]:
    size = None
    for path in paths:
        with Image.open(path) as image:
            if size is None:
                size = min(max_width, image.width), round(image.height * min(1, max_width / image.width))
            resized = image.convert("RGB").resize(size, Image.Resampling.BOX)
        yield resized.quantize()
