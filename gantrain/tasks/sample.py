"""task=sample: write samples of a run's generator to a file."""

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor, nn

from gantrain.assemble import build_generator, build_latent
from gantrain.config import Config, from_saved, keys_for_task
from gantrain.config_rules import check_at_least
from gantrain.console import console
from gantrain.datasets.batches import to_bytes
from gantrain.engine.device import choose_device
from gantrain.engine.distributed import require_single_process
from gantrain.errors import ConfigError, DataError
from gantrain.evaluation.grids import grid, save_png
from gantrain.evaluation.sampling import LabelFunction, labels_by_row, labels_like_data, sample_blocks
from gantrain.files import atomic_write, require_new_file, require_space
from gantrain.models.interface import takes_labels
from gantrain.models.latent import Latent
from gantrain.session.checkpoint import find
from gantrain.session.saved import load_config, require_regular_files
from gantrain.tasks.job import Job

READ_BY_SAMPLE = {*keys_for_task("sample"), "task", "seed", "runtime", "trust"}
IGNORED_BY_SAMPLE = {"batch_size"}
"""Keys that are accepted, but have no effect."""


@dataclass(frozen=True)
class LoadedGenerator:
    """The generator of a run, loaded from a checkpoint.

    Attributes:
        G: the generator with averaged weights (EMA), if the run has them.
        class_counts: number of samples of each class in the run's data; None if G is unconditional.
    """

    G: nn.Module
    latent: Latent
    image_shape: tuple[int, ...]
    class_counts: list[int] | None


def sample(job: Job) -> None:
    """Write `num` samples of the run `run` to the file `output`.

    Sample i depends only on the weights, the seed, its label and i.

    A .npz file has one array, `images` uint8 [n, h, w, c], or for vectors `samples` float32 [n, d]; a .png file is a
    grid. For .npz the memory does not grow with num. batch_size has no effect: the generator always runs on blocks of
    the same size, because another size would round differently.

    Raises:
        ConfigError: a key is missing or has no effect for this task, or the output already exists.
        DataError: the run has no checkpoint, or only damaged ones.
    """
    require_single_process("task=sample")
    config = job.config
    _check(config, job.typed)
    output, run = Path(str(config.output)), Path(str(config.run))
    device, key = choose_device(config.runtime.device), (config.seed, "sample")
    loaded = load_generator(run, device)
    classes = chosen_classes(config.labels, loaded)
    num = config.num
    if classes is not None and num % len(classes):
        if "num" in {override.lstrip("+").split("=")[0] for override in job.typed}:
            raise ConfigError(
                f"num={num}: must be a multiple of {len(classes)}, because each class of labels={config.labels} has a "
                f"row; for example num={8 * len(classes)}."
            )
        num = 8 * len(classes)
    labels: LabelFunction | None = None
    if loaded.class_counts is not None:
        labels = labels_like_data(loaded.class_counts, key) if classes is None else labels_by_row(classes, num)
    blocks = sample_blocks(loaded.G, loaded.latent, num, device=device, key=key, labels=labels)
    if output.suffix == ".png":
        # A row for each class; a grid of a single class is square, as one of random classes.
        columns = num // len(classes) if classes is not None and len(classes) > 1 else None
        _write_png(output, blocks, loaded.image_shape, columns)
    else:
        _write_npz(output, blocks, loaded.image_shape, num)
    console.print(f"{num:,} samples of {run} are in {output}", markup=False, soft_wrap=True, highlight=False)


def _check(config: Config, typed: list[str]) -> None:
    for key, value in (("run", config.run), ("output", config.output)):
        if not value:
            example = {"run": "outputs/2026-01-31/12-00-00", "output": "samples.npz"}[key]
            raise ConfigError(f"{key} is not set: task=sample needs run and output, for example {key}={example}.")
    for override in typed:
        key = override.lstrip("+~").split("=")[0].split("@")[0]
        if key.split(".")[0].split("/")[0] not in READ_BY_SAMPLE | IGNORED_BY_SAMPLE:
            raise ConfigError(
                f"{override}: task=sample loads the networks of the run and reads only the keys "
                f"{', '.join(sorted(READ_BY_SAMPLE))}; leave it out."
            )
    check_at_least(config, "num", 1)
    output = Path(str(config.output))
    if output.suffix not in (".npz", ".png"):
        raise ConfigError(f"output={output}: the name must end in .npz (an array) or .png (a grid).")
    require_new_file(output, "output")


def chosen_classes(labels: Any, loaded: LoadedGenerator) -> list[int] | None:
    """Return the classes that the option `labels` names; None if it is not set.

    Raises:
        ConfigError: the generator is unconditional, or a class does not exist.
    """
    if labels is None:
        return None
    if loaded.class_counts is None:
        raise ConfigError(f"labels={labels}: the generator of this run is unconditional; leave labels out.")
    num_classes = len(loaded.class_counts)
    if labels == "all":
        return list(range(num_classes))
    classes = labels if isinstance(labels, list) else [labels]
    is_known = [isinstance(c, int) and not isinstance(c, bool) and 0 <= c < num_classes for c in classes]
    if not classes or not all(is_known):
        raise ConfigError(
            f"labels={labels}: must be all, or a list of classes from 0 to {num_classes - 1}, for example labels=[3]."
        )
    return classes


def load_generator(run: Path, device: torch.device) -> LoadedGenerator:
    """Load the generator of a run from its newest checkpoint or the given one.

    Args:
        run: the folder of a run, or a checkpoint in it.

    Raises:
        ConfigError: the folder does not hold a run.
        DataError: it has no checkpoint, or only damaged ones, or the checkpoint does not fit the config.
    """
    folder = run.absolute().parents[1] if run.is_file() else run
    if not (folder / ".hydra" / "config.yaml").is_file():
        raise ConfigError(f"run={run} is not the folder of a run: it has no .hydra/config.yaml.")
    require_regular_files(folder)
    config = from_saved(load_config(folder))
    path, checkpoint = find(run)
    latent, image_shape = build_latent(config.latent), tuple(checkpoint["image_shape"])
    class_counts = checkpoint.get("class_counts")
    num_classes = len(class_counts) if class_counts else None
    G = build_generator(config.model["generator"], image_shape, latent, num_classes).to(device)
    try:
        G.load_state_dict(checkpoint["G_ema"] or checkpoint["G"])
    except (RuntimeError, TypeError, AttributeError) as error:
        raise DataError(f"{path} does not fit the network of {folder}: {error}") from error
    return LoadedGenerator(G, latent, image_shape, class_counts if takes_labels(G) else None)


def _write_png(
    output: Path, blocks: Iterable[Float[Tensor, "n *shape"]], image_shape: tuple[int, ...], columns: int | None
) -> None:
    if len(image_shape) != 3:
        raise ConfigError(f"output={output}: vectors cannot be drawn; write an array with output={output.stem}.npz.")
    save_png(output, grid(torch.cat(list(blocks)), columns))


def _write_npz(
    output: Path, blocks: Iterable[Float[Tensor, "n *shape"]], image_shape: tuple[int, ...], num: int
) -> None:
    is_image = len(image_shape) == 3
    shape = (image_shape[1], image_shape[2], image_shape[0]) if is_image else image_shape
    dtype, name = (np.dtype(np.uint8), "images") if is_image else (np.dtype(np.float32), "samples")
    require_space(output, num * int(np.prod(shape)) * dtype.itemsize, f"output={output}")
    # An .npz is a zip archive of .npy files: write the header first, then block after block.
    with (
        atomic_write(output) as file,
        zipfile.ZipFile(file, "w") as archive,
        archive.open(f"{name}.npy", "w", force_zip64=True) as member,
    ):
        header = {"shape": (num, *shape), "fortran_order": False, "descr": np.lib.format.dtype_to_descr(dtype)}
        np.lib.format.write_array_header_1_0(member, header)
        for block in blocks:
            rows: ndarray[Any, Any] = to_pixels(block) if is_image else block.numpy()
            member.write(rows.tobytes())


def to_pixels(images: Float[Tensor, "n c h w"]) -> UInt8[ndarray, "n h w c"]:
    """Convert floats in [-1, 1] to bytes 0 to 255, channels last."""
    pixels: ndarray[Any, Any] = to_bytes(images).permute(0, 2, 3, 1).numpy()
    return pixels
