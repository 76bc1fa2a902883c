"""What the files of a dataset hold, before they are decoded: sizes, color modes, and what is cut away."""

import statistics
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from gantrain.datasets.image_files import Originals
from gantrain.datasets.images import BadImageError, color_mode, size_and_color
from gantrain.datasets.progress import track

MAX_FILES = 20_000
"""Files whose headers are read; of more files, evenly spaced ones."""

LARGE_CUT = 0.3
"""Share of the pixels of an image from which on a crop is worth a warning."""

MANY = 0.1
"""Share of the images from which on a property is worth a warning."""


@dataclass(frozen=True)
class Files:
    """The headers of image files.

    Attributes:
        sizes: width and height of each image, upright.
        modes: how many images have each mode of Pillow: RGB, L (gray), RGBA, ...
        cut: for each image, the share of its pixels that the crop cuts away.
        sides: for each image, the shorter side of the part that is used.
    """

    sizes: list[tuple[int, int]]
    modes: Counter[str]
    cut: list[float]
    sides: list[int]


def read_headers(originals: Originals, skip: Collection[str] = ()) -> Files:
    """Read the headers of the files.

    Args:
        skip: names of files that are not used.
    """
    num = len(originals.files.names)
    found = Files([], Counter(), [], [])
    with originals.opened():
        step = max(1, -(-num // MAX_FILES))
        for i in track(range(0, num, step), total=len(range(0, num, step)), what="Reading headers"):
            if originals.files.names[i] in skip:
                continue
            try:
                content = originals.files.read(i)
                width, height, _ = size_and_color(content)
                mode = color_mode(content)
            except (BadImageError, OSError):
                continue
            used = originals.part_used(width, height)
            found.sizes.append((width, height))
            found.modes[mode] += 1
            found.cut.append(max(0.0, 1 - used[0] * used[1] / (width * height)))
            found.sides.append(min(used))
    return found


def describe_sizes(files: Files) -> str:
    """Name the commonest sizes, and the range of the shorter sides."""
    common = Counter(files.sizes).most_common(4)
    named = [f"{w}x{h} ({num / len(files.sizes):.0%})" for (w, h), num in common]
    if len({*files.sizes}) == 1:
        return f"all {files.sizes[0][0]}x{files.sizes[0][1]}"
    sides = sorted(map(min, files.sizes))
    more = f", and {len({*files.sizes}) - len(common):,} more" if len({*files.sizes}) > len(common) else ""
    median = statistics.median_low(sides)
    return f"{', '.join(named)}{more}; shorter side {sides[0]} to {sides[-1]}, median {median} px"


def describe_modes(files: Files) -> str:
    """Name the color modes with their shares."""
    total = sum(files.modes.values())
    return ", ".join(f"{mode} ({num / total:.0%})" for mode, num in files.modes.most_common())


def warnings(files: Files, image_size: int) -> list[str]:
    """Say what is lost or made up by the preprocessing, if it is much."""
    total, found = len(files.sizes), []
    num_cut = sum(cut > LARGE_CUT for cut in files.cut)
    if num_cut >= max(1, MANY * total):
        found.append(
            f"The crop cuts away more than {LARGE_CUT:.0%} of {num_cut:,} of {total:,} images "
            f"(of the median image {statistics.median(files.cut):.0%}). Crop these to about a square around what "
            "matters, or leave them out."
        )
    num_small = sum(side < image_size for side in files.sides)
    if num_small >= max(1, MANY * total):
        found.append(
            f"{num_small:,} of {total:,} images are enlarged to {image_size} px (the smallest has {min(files.sides)}); "
            "enlarged images are blurred, and the networks learn that; choose a smaller dataset.image_size."
        )
    return found
