"""task=data: look at the data before training on them."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from rich.table import Table
from rich.text import Text
from torch import Tensor

from gantrain.assemble import build_dataset
from gantrain.command.typed import check_effect
from gantrain.config import Config
from gantrain.config_rules import check_at_least
from gantrain.console import console
from gantrain.datasets.base import ImageDataset
from gantrain.datasets.batches import to_signed
from gantrain.datasets.duplicates import MAX_PAIRS, Duplicates, find_duplicates
from gantrain.datasets.holdout import hold_out
from gantrain.datasets.labels import count_classes
from gantrain.datasets.look import Files, describe_modes, describe_sizes, read_headers, warnings
from gantrain.datasets.untrusted import printable
from gantrain.engine.distributed import require_single_process
from gantrain.engine.memory import require_memory
from gantrain.errors import ConfigError
from gantrain.evaluation.grids import grid, save_png
from gantrain.files import require_new_file
from gantrain.seeding import generator
from gantrain.tasks.job import Job

logger = logging.getLogger(__name__)

READS = {"task", "dataset", "experiment", "num", "seed", "horizontal_flip", "output", "runtime", "trust"}
MAX_CLASSES, MAX_EXAMPLES = 8, 3
RARE = 0.1
"""Share of the images that a class would have if all were equal; a class with less is worth a warning."""


def data(job: Job) -> None:
    """Print what the data consist of: number, sizes, modes, labels, images left out, duplicates.

    Bad images are listed, whatever dataset.max_bad_fraction says. `output` names a .png for a grid of `num` images as
    the networks see them: cropped, resized, and if horizontal_flip is set, half of them mirrored; with labels, a row
    for each class.

    Raises:
        ConfigError: a key has no effect, or the data are drawn anew for every batch, or the output exists, or the grid
            does not fit into memory.
        DataError: the data are missing.
    """
    require_single_process("task=data")
    config = job.config
    check(config, job.typed)
    node = {key: value for key, value in config.dataset.items() if key != "holdout"}
    dataset = build_dataset(node | ({"max_bad_fraction": 1.0} if "max_bad_fraction" in node else {}))
    if not isinstance(dataset, ImageDataset):
        raise ConfigError(
            f"dataset={dataset.name} draws new samples for every batch; task=data looks at stored images."
        )
    originals = dataset.originals
    held_out = hold_out(dataset, config.dataset.get("holdout")).held_out
    dataset.prepare(num_workers=config.runtime.num_workers)
    files = None if originals is None else read_headers(originals, dataset.bad)
    names = None if originals is None else [name for name in originals.files.names if name not in dataset.bad]
    duplicates = find_duplicates(dataset)
    if held_out is not None:
        held_out.prepare(num_workers=config.runtime.num_workers)
    console.print(table(dataset, held_out, files, duplicates, names))
    for warning in [
        *rare_classes(dataset),
        *(warnings(files, dataset.image_shape[-1]) if files and files.sizes else []),
    ]:
        logger.warning(warning)
    if config.output is None:
        hint = "output=FILE.png saves a grid of images as the networks see them."
        console.print(hint, markup=False, soft_wrap=True, highlight=False)
        return
    save_png(Path(config.output), grid(*samples(dataset, config)))


def check(config: Config, typed: list[str]) -> None:
    """Check the options.

    Raises:
        ConfigError: one has no effect, or is out of range, or the output already exists.
    """
    check_effect(typed, READS, task="task=data looks at a dataset")
    check_at_least(config, "num", 1)
    if config.output is not None:
        output = Path(config.output)
        if output.suffix != ".png":
            raise ConfigError(f"output={output}: the name must end in .png (a grid).")
        require_new_file(output, "output")


def samples(dataset: ImageDataset, config: Config) -> tuple[Float[Tensor, "n c h w"], int | None]:
    """Choose images for the grid, and the number of its columns; None: about square."""
    order = torch.randperm(dataset.num_images, generator=generator(config.seed, "look"))
    of_class: list[torch.Tensor] = []
    chosen, columns = order[: config.num], None
    if dataset.labels is not None and dataset.num_classes is not None and 1 < dataset.num_classes <= config.num:
        largest = int(dataset.labels.bincount().max())
        columns = min(config.num // dataset.num_classes, largest)
        of_class = [order[dataset.labels[order] == c][:columns] for c in range(dataset.num_classes)]
        chosen = torch.cat(of_class)
    num_cells = len(chosen) if columns is None else columns * len(of_class)
    # Once as bytes and as numbers, and once in the grid.
    require_memory("num", num_cells, [dataset.image_shape] * 3, torch.device("cpu"), kept="images of a grid")
    images = to_signed(dataset.gather(chosen))
    if config.horizontal_flip:
        images[1::2] = images[1::2].flip(-1)
    if columns is not None:  # white where a class has too few images
        cells = torch.ones(len(of_class), columns, *dataset.image_shape)
        cells[torch.arange(columns) < torch.tensor([[len(indices)] for indices in of_class])] = images
        images = cells.flatten(0, 1)
    return images, columns


def table(
    dataset: ImageDataset,
    held_out: ImageDataset | None,
    files: Files | None,
    duplicates: Duplicates,
    names: Sequence[str] | None,
) -> Table:
    """Format what was found."""
    lines = {"images": f"{dataset.num_images:,} ({dataset.name})"}
    if dataset.bad:
        lines["left out"] = reasons(dataset.bad)
    if held_out is not None:
        what = "the test split" if held_out.split == "test" else "of these, chosen at random"
        lines["held out"] = f"{held_out.num_images:,}: {what}; labels: {labels(held_out)}"
    if files is not None and files.sizes:
        num = len(files.sizes)
        lines["sizes"] = describe_sizes(files) + (f" (of {num:,} files)" if num < dataset.num_images else "")
        lines["modes"] = describe_modes(files)
    c, h, w = dataset.image_shape
    lines["for networks"] = f"{w}x{h}, {'gray' if c == 1 else 'RGB'}"
    lines["labels"] = labels(dataset)
    of = "" if duplicates.num_compared == dataset.num_images else f" (of {duplicates.num_compared:,} compared)"
    lines["same pixels"] = groups(duplicates.exact, names) + of
    lines["nearly same"] = groups(duplicates.near, names) + of
    if not duplicates.is_complete:
        lines["nearly same"] += (
            f"; stopped after {MAX_PAIRS:,} similar pairs of {duplicates.num_compared:,} images: there may be more"
        )
    rows = Table.grid(padding=(0, 2))
    for name, value in lines.items():
        rows.add_row(Text(name, style="bold"), Text(value))
    return rows


def labels(dataset: ImageDataset) -> str:
    """Name the classes with their numbers of images."""
    counts = count_classes(dataset)
    if counts is None:
        return "none"
    names = dataset.class_names or [str(c) for c in range(len(counts))]
    shown = [f"{printable(name)} {num:,}" for name, num in list(zip(names, counts, strict=True))[:MAX_CLASSES]]
    more = f", and {len(counts) - MAX_CLASSES:,} more" if len(counts) > MAX_CLASSES else ""
    return f"{len(counts):,} class{'es' * (len(counts) > 1)}: {', '.join(shown)}{more}"


def rare_classes(dataset: ImageDataset) -> list[str]:
    """Warn if some classes have very few images."""
    counts = count_classes(dataset)
    if counts is None:
        return []
    rare = [c for c, num in enumerate(counts) if num * len(counts) < RARE * dataset.num_images]
    if not rare:
        return []
    names = dataset.class_names or [str(c) for c in range(len(counts))]
    shown = ", ".join(f"{printable(names[c])} ({counts[c]:,})" for c in rare[:MAX_CLASSES])
    return [f"There are few images of {len(rare):,} of {len(counts):,} classes, which are hard to learn: {shown}."]


def reasons(bad: Mapping[str, str]) -> str:
    """Count why images were left out, with an example of each reason."""
    kinds: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for name, reason in bad.items():
        kind = reason.partition(" (")[0]
        kinds[kind] += 1
        examples.setdefault(kind, printable(name))
    listed = [f"{num:,} {kind} ({examples[kind]})" for kind, num in kinds.most_common()]
    return "; ".join(listed) if len(listed) == 1 else f"{len(bad):,}: {'; '.join(listed)}"


def groups(found: Sequence[Sequence[int]], names: Sequence[str] | None) -> str:
    """Count the images that repeat others, with examples."""
    if not found:
        return "none"
    num = sum(len(group) - 1 for group in found)

    def name(i: int) -> str:
        return printable(cast(Any, names)[i]) if names is not None else f"image {i}"

    shown = "; ".join(" = ".join(map(name, group[:4])) for group in found[:MAX_EXAMPLES])
    more = "; ..." if len(found) > MAX_EXAMPLES else ""
    return f"{num:,} of the images repeat{'s' if num == 1 else ''} another: {shown}{more}"
