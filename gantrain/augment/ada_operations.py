"""The operations of ADA's augmentation (Karras 2020) as functions of random numbers that are given."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import grid_sample

Images = Float[Tensor, "n channels height width"]
Values = Float[Tensor, " n"]
Matrices = Float[Tensor, "n rows columns"]
Open = dict[str, Bool[Tensor, "n *bands"]]
"""For each operation, the samples to which it is applied; for the filter, those for each of its bands."""

Draws = dict[str, Float[Tensor, "n count"]]
"""For each operation, its random numbers for each sample."""

UNIFORM = {
    "xflip": 1,
    "rotate90": 1,
    "xint": 2,
    "rotate_pre": 1,
    "rotate_post": 1,
    "lumaflip": 1,
    "hue": 1,
    "cutout": 2,
}
"""Numbers of draws from U[0, 1) for each sample, by operation."""

NORMAL = {"scale": 1, "aniso": 1, "xfrac": 2, "brightness": 1, "contrast": 1, "saturation": 1, "noise": 1}
"""Numbers of draws from N(0, 1) for each sample, by operation."""

GEOMETRY = ("xflip", "rotate90", "xint", "scale", "rotate", "aniso", "xfrac")
COLOR = ("brightness", "contrast", "lumaflip", "hue", "saturation")
CORRUPTION = ("noise", "cutout")

SYM6 = (
    *(0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633),
    *(0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252),
    *(-0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148),
)
"""The low-pass filter of the wavelet sym6, with the sum sqrt(2) (Daubechies 1992, table 6.3)."""

TAPS = len(SYM6)


def change_geometry(x: Images, draws: Draws, is_open: Open, ranges: dict[str, float]) -> Images:
    """Apply all geometric operations by one resampling, in which edges are reflected and high frequencies kept.

    Source: Karras 2020 (StyleGAN2-ADA), appendix B: upsampling by the wavelet filter, bilinear sampling,
    downsampling. The edges are always reflected by as much as possible, so that the operations depend on no value.
    """
    return resample(x, inverse_transform(draws, is_open, ranges, height=x.shape[2], width=x.shape[3]))


def inverse_transform(
    draws: Draws, is_open: Open, ranges: dict[str, float], *, height: int, width: int
) -> Float[Tensor, "n 3 3"]:
    """Return the affine maps from output to input coordinates, in pixels from the center of the image.

    Args:
        ranges: "xint" and "xfrac": translations as fractions of the image's size; "scale" and "aniso": standard
            deviations of the binary logarithm of the scale; "rotate": largest angle as a fraction of pi.
    """

    def value(name: str, neutral: float, made: Tensor) -> Tensor:
        return torch.where(is_open[name], made, neutral)

    def normal_scale(name: str) -> Tensor:
        return value(name, 1.0, torch.exp2(ranges[name] * draws[name][:, 0]))

    def angle(name: str) -> Tensor:
        return value(name, 0.0, (2 * draws[name][:, 0] - 1) * math.pi * ranges["rotate"])

    mirror = value("xflip", 1.0, 1 - 2 * torch.floor(2 * draws["xflip"][:, 0]))
    quarters = value("rotate90", 0.0, torch.floor(4 * draws["rotate90"][:, 0]))
    scale, aniso = normal_scale("scale"), normal_scale("aniso")
    integer = [(2 * u - 1) * ranges["xint"] for u in draws["xint"].unbind(1)]
    fraction = [e * ranges["xfrac"] for e in draws["xfrac"].unbind(1)]
    sizes = (width, height)
    integer = [value("xint", 0.0, torch.round(t * size)) for t, size in zip(integer, sizes, strict=True)]
    fraction = [value("xfrac", 0.0, t * size) for t, size in zip(fraction, sizes, strict=True)]
    one = torch.ones_like(mirror)
    transform = scaling(1 / mirror, one)
    for factor in (
        rotation(quarters * (math.pi / 2)),
        translation(-integer[0], -integer[1]),
        scaling(1 / scale, 1 / scale),
        rotation(angle("rotate_pre")),
        scaling(1 / aniso, aniso),
        rotation(angle("rotate_post")),
        translation(-fraction[0], -fraction[1]),
    ):
        transform = product(transform, factor)
    return transform


def resample(x: Images, transform: Float[Tensor, "n 3 3"]) -> Images:
    """Return the images whose value at a point p is that of x at transform(p), without aliasing."""
    height, width = x.shape[2:]
    up_rows, up_columns = (resampling_matrix("up", size, x) for size in (height, width))
    down_rows, down_columns = (resampling_matrix("down", size, x) for size in (height, width))
    with without_tf32():
        large = up_rows @ (x @ up_columns.T)
    # Where to sample, in pixels of x from its center, half a pixel apart. The wavelet's center is half a tap before
    # that of its 12 taps, so the content of the large image is a quarter of a pixel before the centers of its pixels.
    early = 0.25
    rows, columns = (
        (torch.arange(2 * size + TAPS - 2, dtype=x.dtype, device=x.device) + 0.5 - TAPS / 2 + 1) / 2 - size / 2 + early
        for size in (height, width)
    )
    a, b = transform[:, 0, :, None, None], transform[:, 1, :, None, None]  # [n, 3, 1, 1]
    at_x = a[:, 0] * columns + a[:, 1] * rows[:, None] + a[:, 2] - early
    at_y = b[:, 0] * columns + b[:, 1] * rows[:, None] + b[:, 2] - early
    grid = torch.stack([at_x * (2 / (3 * width - 2)), at_y * (2 / (3 * height - 2))], dim=-1)
    sampled = grid_sample(large, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    with without_tf32():
        return down_rows @ (sampled @ down_columns.T)


@contextmanager
def without_tf32() -> Iterator[None]:
    """Multiply matrices in full float32 while the block runs: TF32 would change pixels by up to 0.001 even at p = 0."""
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, False
    try:
        yield
    finally:
        matmul.allow_tf32 = before


def resampling_matrix(kind: str, size: int, like: Tensor) -> Float[Tensor, "rows columns"]:
    """Return the matrix of a resampling along one axis, in the precision and on the device of a tensor.

    "up": reflects the edges of `size` samples by size - 1 and interpolates to twice as many, [6 size - 4, size].
    "down": the filter, at every second of 2 size + 10 samples, [size, 2 size + 10].
    """
    return _resampling_matrix(kind, size, like.dtype, like.device)


@cache
def _resampling_matrix(kind: str, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    # Computed once, because a captured update must not copy from the host.
    matrix = torch.zeros(size, 2 * size + TAPS - 2, dtype=torch.float64)
    taps = torch.tensor(SYM6, dtype=torch.float64) / math.sqrt(2)
    if kind == "down":
        for i in range(size):
            matrix[i, 2 * i : 2 * i + TAPS] = taps
    else:
        padded = 3 * size - 2
        matrix = torch.zeros(2 * padded, size, dtype=torch.float64)
        for i in range(padded):
            source = abs(i - (size - 1))
            source = min(source, 2 * (size - 1) - source)
            for k, tap in enumerate(taps):
                if 0 <= (j := 2 * i + k - TAPS // 2 + 1) < 2 * padded:
                    matrix[j, source] += 2 * tap
    return matrix.to(dtype).to(device)


def change_color(x: Images, draws: Draws, is_open: Open, ranges: dict[str, float]) -> Images:
    """Apply all color operations to images [n, 3, h, w] or [n, 1, h, w], by one affine map of the channels.

    Source: Karras 2020 (StyleGAN2-ADA), appendix B.
    """
    transform = color_transform(draws, is_open, ranges, is_gray=x.shape[1] == 1)
    if x.shape[1] == 1:
        transform = transform[:, :3].mean(1, keepdim=True)
        matrix, offset = transform[:, :, :3].sum(2, keepdim=True), transform[:, :, 3:]
    else:
        matrix, offset = transform[:, :3, :3], transform[:, :3, 3:]
    with without_tf32():
        return (matrix @ x.flatten(2) + offset).view_as(x)


def color_transform(draws: Draws, is_open: Open, ranges: dict[str, float], *, is_gray: bool) -> Float[Tensor, "n 4 4"]:
    """Return the affine maps of (red, green, blue, 1).

    Args:
        ranges: "brightness": standard deviation of what is added; "contrast" and "saturation": standard deviations of
            the binary logarithms of the factors; "hue": largest angle as a fraction of pi.
        is_gray: whether hue and saturation are left out.
    """

    def value(name: str, neutral: float, made: Tensor) -> Tensor:
        return torch.where(is_open[name], made, neutral)[:, None, None]

    first = draws["brightness"][:, 0]
    identity = torch.eye(4, dtype=first.dtype, device=first.device)
    rgb = 1 - identity[3]
    colors = identity * rgb
    of_one = identity - colors  # keeps the fourth element
    luma = rgb[:, None] * rgb / 3  # projects onto the gray axis (1, 1, 1)
    shift = rgb[:, None] * identity[3]  # adds the fourth element to each color

    brightness = value("brightness", 0.0, ranges["brightness"] * first)
    contrast = value("contrast", 1.0, torch.exp2(ranges["contrast"] * draws["contrast"][:, 0]))
    flip = value("lumaflip", 0.0, torch.floor(2 * draws["lumaflip"][:, 0]))
    transform = identity + brightness * shift
    transform = product(of_one + contrast * colors, transform)
    transform = product(identity - 2 * flip * luma, transform)
    if is_gray:
        return transform
    angle = value("hue", 0.0, (2 * draws["hue"][:, 0] - 1) * math.pi * ranges["hue"])
    saturation = value("saturation", 1.0, torch.exp2(ranges["saturation"] * draws["saturation"][:, 0]))
    # Rodrigues' formula for the rotation about the gray axis; the cross product is a difference of two cyclic shifts.
    cycle = torch.roll(colors[:3, :3], 1, 0)
    cross = torch.nn.functional.pad((cycle - cycle.T) * 3**-0.5, (0, 1, 0, 1))
    turn = luma + torch.cos(angle) * (colors - luma) + torch.sin(angle) * cross
    transform = product(of_one + turn, transform)
    return product(of_one + luma + saturation * (colors - luma), transform)


def add_noise(x: Images, draws: Draws, is_open: Open, ranges: dict[str, float], noise: Images) -> Images:
    """Add noise N(0, 1), scaled by the absolute value of a draw from N(0, ranges["noise"]^2) for each image."""
    std = torch.where(is_open["noise"], draws["noise"][:, 0].abs() * ranges["noise"], 0.0)
    return x + noise * std[:, None, None, None]


def cut_out(x: Images, draws: Draws, is_open: Open, ranges: dict[str, float]) -> Images:
    """Set a rectangle of each image to 0; ranges["cutout"] is its height and width, as a fraction of the image's."""
    half = torch.where(is_open["cutout"], 0.5 * ranges["cutout"], 0.0).to(x.dtype)[:, None]
    inside = []
    for size, center in zip((x.shape[3], x.shape[2]), draws["cutout"].unbind(1), strict=True):
        middle = (torch.arange(size, dtype=x.dtype, device=x.device) + 0.5) / size
        inside.append((middle - center[:, None]).abs() < half)
    columns, rows = inside
    return x * (~(rows[:, None, :, None] & columns[:, None, None, :])).to(x.dtype)


def product(one: Matrices, other: Matrices) -> Matrices:
    """Multiply small matrices element by element, so that no lower precision of matrix products applies."""
    return (one.unsqueeze(-1) * other.unsqueeze(-3)).sum(-2)


def scaling(sx: Values, sy: Values) -> Float[Tensor, "n 3 3"]:
    """Return the matrices of (x, y) -> (sx x, sy y)."""
    zero, one = torch.zeros_like(sx), torch.ones_like(sx)
    return torch.stack([sx, zero, zero, zero, sy, zero, zero, zero, one], dim=1).view(-1, 3, 3)


def translation(tx: Values, ty: Values) -> Float[Tensor, "n 3 3"]:
    """Return the matrices of (x, y) -> (x + tx, y + ty)."""
    zero, one = torch.zeros_like(tx), torch.ones_like(tx)
    return torch.stack([one, zero, tx, zero, one, ty, zero, zero, one], dim=1).view(-1, 3, 3)


def rotation(angle: Values) -> Float[Tensor, "n 3 3"]:
    """Return the matrices of a rotation by an angle in radians."""
    cos, sin, zero, one = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], dim=1).view(-1, 3, 3)
