"""model=auto: choose a recipe and its settings for a folder of pictures.

The choices become ordinary overrides, so the config of the run, and what is saved in its folder, do not depend on this
file. docs/experiments.md has the table of the choices, with its evidence.
"""

import logging
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from gantrain.command.folders import register
from gantrain.command.overrides import key_of, saved_overrides, value_of
from gantrain.command.paths import expand_in
from gantrain.config import CONF, Config
from gantrain.console import console
from gantrain.errors import ConfigError
from gantrain.session.saved import holds_run

if TYPE_CHECKING:
    from gantrain.datasets.base import ImageDataset
    from gantrain.session.step_memory import StepMemory

RECIPES = ("lightweight_folder", "stylegan2_ada_folder", "r3gan_folder")
RECIPE_FOR_CPU = "dcgan_folder"
FEWEST = (1_000, 20_000)
"""The number of pictures from which on the second and the third recipe are chosen."""

SIZES = (32, 64, 128, 256)
LARGEST_ON_CPU = 64

WITH_DIGITS = ("digits", "mnist", "stacked_mnist", "svhn")
"""Datasets that must not be mirrored."""

NUM_HEADERS = 200
"""Pictures whose size is read."""

SHARE_LARGE_ENOUGH = 0.9
"""Share of the pictures that need not be enlarged to the chosen size."""

FIXED_IN_SWEEPS = ("dataset", "model", "batch_size", "accumulate", "network", "latent", "packing")
"""Keys and groups on which the choices depend."""

SHARE_TO_PLAN = 0.6
"""Share of the device's memory for which a step is planned; libraries and fragmentation need the rest."""

SHARE_TO_PLAN_ON_CPU = 0.45
"""The same for a CPU, where the C library has kept up to 2.1 times the memory of a step's tensors."""


@dataclass(frozen=True)
class Choice:
    """What model=auto chose: overrides, and the reason for each choice; no reasons if nothing was chosen now."""

    overrides: list[str]
    reasons: list[str]


def with_chosen_recipe(typed: Sequence[str], folders: Sequence[Path] = (CONF,)) -> Choice:
    """Replace model=auto in overrides by the recipe that suits the pictures and the device, and say why.

    For a run that exists in run_dir, what was chosen at its start is kept.

    Args:
        folders: the folders of configs.

    Raises:
        ConfigError: the other overrides leave nothing to choose, or do not name a folder of pictures.
        DataError: the pictures cannot be read.
    """
    wanted = {key_of(override): value_of(override) for override in typed}
    models = [override.partition("=")[2].strip("'\"") for override in typed if key_of(override) == "model"]
    if not any("auto" in model.split(",") for model in models):
        return Choice(list(typed), [])
    if models != ["auto"]:
        raise ConfigError(
            f"model={' model='.join(models)}: model=auto cannot be combined with other models; use it alone, or name "
            "the models."
        )
    check_sweep(typed)
    check(wanted)
    rest = [override for override in typed if key_of(override) != "model"]
    saved = saved_choices(Path(wanted.get("run_dir", "")).expanduser(), {key_of(override) for override in rest})
    choice = Choice(saved, []) if saved else choose(wanted, rest, folders)
    console.print("model=auto", style="bold", highlight=False)
    for reason in choice.reasons or ["as chosen when the run started"]:
        console.print(f"  {reason}", markup=False, soft_wrap=True, highlight=False)
    return Choice([*choice.overrides, *rest], choice.reasons)


def check(wanted: dict[str, str]) -> None:
    """Check that there is something to choose, and pictures to look at.

    Raises:
        ConfigError: there is not.
    """
    for key in ("experiment", "network"):
        if key in wanted:
            raise ConfigError(f"model=auto {key}={wanted[key]}: auto chooses the {key}; leave one of them out.")
    if "dataset" not in wanted:
        raise ConfigError(
            "model=auto looks at the pictures: type dataset=image_folder dataset.root=FOLDER, or another dataset."
        )
    if not (size := wanted.get("dataset.image_size", "0")).isdecimal():
        raise ConfigError(
            f"dataset.image_size={size}: must be a number of pixels, for example 64; or leave it out, and model=auto "
            "chooses it."
        )
    if int(size) and int(size) not in (*SIZES, 2 * SIZES[-1]):
        raise ConfigError(
            f"dataset.image_size={size}: the recipes of model=auto take {', '.join(map(str, SIZES))} or "
            f"{2 * SIZES[-1]} pixels; choose one of these, or leave it out."
        )


def check_sweep(typed: Sequence[str]) -> None:
    """Check that nothing is swept on which the choices depend.

    Raises:
        ConfigError: something is.
    """
    for override in typed:
        if key_of(override).split(".")[0] in FIXED_IN_SWEEPS and is_sweep(override):
            raise ConfigError(
                f"{override}: model=auto chooses once for all runs of a sweep, by the data and the networks; sweep "
                "other keys, or start a run for each value."
            )


def saved_choices(run: Path, typed: set[str]) -> list[str]:
    """Return what was chosen for the run in a folder, except for keys that are typed; [] if it holds no such run."""
    if run == Path() or not holds_run(run):
        return []
    saved = saved_overrides(run)
    if not any(f"experiment={recipe}" in saved for recipe in (*RECIPES, RECIPE_FOR_CPU)):
        return []
    return [override for override in saved if key_of(override) not in typed]


def choose(wanted: dict[str, str], rest: list[str], folders: Sequence[Path]) -> Choice:
    """Choose for the pictures and the device.

    Args:
        wanted: the typed values by key.
        rest: the typed overrides without model=auto.

    Raises:
        ConfigError: the dataset has no pictures whose size can be chosen, or a step does not fit into memory.
    """
    from gantrain.engine.device import choose_device

    dataset = find_pictures(wanted["dataset"], rest, folders)
    device = choose_device(wanted.get("runtime.device", "auto"))
    recipe, why = choose_recipe(dataset.num_images, device.type)
    reasons = [f"experiment={recipe}: {why}"]
    if "dataset.image_size" in wanted:
        size = int(wanted["dataset.image_size"])
        if device.type == "cpu" and size > SIZES[-1]:
            raise ConfigError(f"dataset.image_size={size}: without a GPU model=auto takes at most {SIZES[-1]} pixels.")
    else:
        sides = shorter_sides(dataset)
        size, why = choose_size(sides, largest=LARGEST_ON_CPU if device.type == "cpu" else SIZES[-1])
        reasons.append(f"dataset.image_size={size}: {why}")
    chosen = [f"experiment={recipe}", f"dataset.image_size={size}"]
    if "accumulate" not in wanted:
        chosen, of_memory = fit_to_memory(chosen, rest, device, folders, channels=dataset.image_shape[0])
        reasons += of_memory
    if "horizontal_flip" not in wanted and wanted["dataset"] in WITH_DIGITS:
        chosen.append("horizontal_flip=false")
        reasons.append("horizontal_flip=false: digits must not be mirrored")
    elif "horizontal_flip" not in wanted:
        reasons.append("horizontal_flip=true: half of the pictures are mirrored; type false for writing and the like")
    typed = {key_of(override) for override in rest}
    return Choice([override for override in chosen if key_of(override) not in typed], reasons)


def choose_recipe(num: int, device: str) -> tuple[str, str]:
    """Choose the experiment for a number of pictures and a kind of device, and say why."""
    kind = bisect_right(FEWEST, num)
    why = f"{num:,} picture{'s' if num > 1 else ''}"
    why += f" ({('fewer than 1,000', '1,000 to 20,000', '20,000 or more')[kind]})"
    if device != "cpu":
        return RECIPES[kind], why
    why = f"small networks, because the run is on the CPU, where {RECIPES[kind]}, the choice for {why} on a GPU, takes "
    return RECIPE_FOR_CPU, f"{why}weeks"


def find_pictures(name: str, rest: list[str], folders: Sequence[Path]) -> "ImageDataset":
    """Return the dataset that was typed, without decoding it.

    Raises:
        ConfigError: it has no pictures whose size can be chosen.
    """
    from gantrain.assemble import build_dataset
    from gantrain.datasets.base import ImageDataset

    typed = [override for override in rest if key_of(override).split(".")[0] in ("dataset", "trust")]
    whole = composed(typed, folders).dataset
    node = {key: value for key, value in whole.items() if key != "holdout"}
    with quiet("gantrain.datasets"):  # the run says the same again
        dataset = build_dataset(node)
    if not isinstance(dataset, ImageDataset) or "image_size" not in node:
        raise ConfigError(f"model=auto chooses for pictures of any size, but dataset={name} has none; name a model.")
    return dataset


@contextmanager
def quiet(name: str) -> Iterator[None]:
    """Show no messages of the loggers below a name while the block runs."""
    parent = logging.getLogger(name)
    level = parent.level
    parent.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        parent.setLevel(level)


def shorter_sides(dataset: "ImageDataset") -> list[int]:
    """Return the shorter sides of some pictures, in pixels, sorted; pictures that cannot be read are left out."""
    from gantrain.datasets.images import BadImageError, size_and_color

    if (originals := dataset.originals) is None:  # arrays
        return [min(dataset.image_shape[1:])]
    sides, num = [], len(originals.files.names)
    with originals.opened():
        for i in range(0, num, max(1, ceil(num / NUM_HEADERS))):
            try:
                sides.append(min(originals.part_used(*size_and_color(originals.files.read(i))[:2])))
            except BadImageError:
                continue
    return sorted(sides)


def choose_size(sides: Sequence[int], *, largest: int) -> tuple[int, str]:
    """Choose the image size from the sorted shorter sides of pictures, and say why."""
    if not sides:
        return SIZES[0], "no picture could be read"
    side = sides[len(sides) - ceil(SHARE_LARGE_ENOUGH * len(sides))]
    possible = [size for size in SIZES if size <= min(side, largest)]
    size = possible[-1] if possible else SIZES[0]
    why = f"{SHARE_LARGE_ENOUGH:.0%} of the pictures have at least {side} pixels on the shorter side"
    if side < size:
        return size, f"{why}; they are enlarged, because {size} is the smallest size of these recipes"
    if size == largest and side >= 2 * size:
        why += "; larger ones need more memory and time" if largest == SIZES[-1] else "; there is no GPU"
    return size, why


def fit_to_memory(
    chosen: list[str], rest: list[str], device: Any, folders: Sequence[Path], *, channels: int
) -> tuple[list[str], list[str]]:
    """Add the batch size and the number of micro-batches with which a step fits into the device's memory.

    Returns:
        the overrides, and the reasons.

    Raises:
        ConfigError: a step does not fit with one picture at a time.
    """
    from gantrain.engine.memory import total_bytes
    from gantrain.engine.torchrun import process_rank
    from gantrain.files import format_bytes
    from gantrain.session.step_memory import step_memory

    ranks = process_rank().world_size
    available = total_bytes(device) // (ranks if device.type == "cpu" else 1)
    planned = (SHARE_TO_PLAN_ON_CPU if device.type == "cpu" else SHARE_TO_PLAN) * available
    config = composed([*chosen, *(override for override in rest if not is_sweep(override)), "accumulate=1"], folders)
    overrides, size = [*chosen, f"batch_size={config.batch_size}"], f"batch_size={config.batch_size}"
    try:
        with quiet("gantrain.engine.runtime"):  # the run says the same again
            divided, memory = divide(config, lambda tried: step_memory(tried, channels, device, ranks), planned, ranks)
    except (RuntimeError, NotImplementedError) as error:  # the user's own part, which reads values of tensors
        reason = (str(error) or type(error).__name__).splitlines()[0]
        return overrides, [f"{size}: the memory of a step is unknown, because {reason}"]
    if memory.total > planned:
        raise ConfigError(
            f"model=auto: {device} has {format_bytes(available)}, but a step with one picture at a time needs about "
            f"{format_bytes(memory.total)}; choose a smaller dataset.image_size, or smaller networks."
        )
    micro, reasons = config.batch_size // ranks // divided.accumulate, []
    if divided.runtime != config.runtime:
        overrides.append("runtime.acceleration=eager")
        reasons.append("runtime.acceleration=eager: the CUDA graphs of all updates together need too much memory")
    why = f"{size} accumulate={divided.accumulate}: a step needs about {format_bytes(memory.total)} of "
    why += format_bytes(available)
    if memory.group > 1 and micro < memory.group:
        why += f"; a micro-batch of {micro} is smaller than the groups of {memory.group} of the minibatch standard "
        why += "deviation"
    return [*overrides, f"accumulate={divided.accumulate}"], [why, *reasons]


def divide(
    config: Config, estimate: Callable[[Config], "StepMemory"], planned: float, num_processes: int
) -> tuple[Config, "StepMemory"]:
    """Divide batches into micro-batches until a step fits into memory, without CUDA graphs if it does not with them.

    Args:
        estimate: estimates the memory of a step.
        planned: bytes that a step may need.

    Returns:
        the config, and the memory of a step, which is more than planned if not even one picture at a time fits.
    """
    from gantrain.session.trials import fitting_accumulate

    memory = estimate(config)
    if memory.total > planned and memory.num_graphs and config.runtime.acceleration == "auto":
        config = replace(config, runtime=replace(config.runtime, acceleration="eager"))
        memory = replace(memory, num_graphs=0)
    per_process = config.batch_size // num_processes
    while memory.total > planned and config.accumulate < per_process // config.packing:
        # No more rows than this can fit, because a part of the memory does not depend on their number.
        rows = per_process // config.accumulate * (planned - memory.state) / (memory.total - memory.state)
        found = fitting_accumulate(config, int(rows), num_processes=num_processes, group=memory.group)
        config = replace(config, accumulate=found or per_process // config.packing)
        memory = estimate(config)
    return config, memory


def is_sweep(override: str) -> bool:
    """Return whether an override has several values."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_override(override).is_sweep_override()


def composed(overrides: list[str], folders: Sequence[Path]) -> Config:
    """Compose a config as the command does.

    Args:
        folders: the folders of configs, the shipped one first.
    """
    register(fixed_run_dir=False)
    own = ", ".join(f"file://{folder.resolve()}" for folder in folders[1:])
    with initialize_config_dir(str(folders[0]), version_base="1.3"):
        searched = [f"hydra.searchpath=[{own}]"] if own else []
        node: Any = OmegaConf.to_container(compose("train", [*overrides, *searched]), resolve=True)
    expand_in(node)
    config: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), node))
    return config  # type: ignore[no-any-return]
