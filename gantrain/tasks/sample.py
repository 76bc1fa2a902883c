"""task=sample: write samples of a run's generator to a file."""

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor, nn

from gantrain.build import build_device, build_generator, build_latent
from gantrain.checkpoint import find
from gantrain.cli import Job
from gantrain.config import SAMPLE_ONLY, Node, at_least
from gantrain.console import console
from gantrain.datasets.batches import to_bytes
from gantrain.errors import ConfigError, DataError
from gantrain.files import atomic_write, require_new_file, require_space
from gantrain.models.latent import Latent
from gantrain.pictures import grid, save_png
from gantrain.processes import require_alone
from gantrain.resume import load_config, require_plain
from gantrain.sampling import sample_blocks

READ_BY_SAMPLE = {*SAMPLE_ONLY, "task", "seed", "runtime", "batch_size", "trust"}


def sample(job: Job) -> None:
    """Write `num` samples of the run `run` to `output`; sample i depends on the seed and i alone.

    A .npz holds one array, `images` uint8 [n, h, w, c] (`samples` float32 [n, d] for vectors); a .png holds a grid.
    Memory is bounded for .npz, whatever num is. batch_size changes nothing: the generator always runs on blocks of
    one size, because another size would round differently.

    Raises:
        ConfigError: a key is missing or has no meaning here, or the output exists already.
        DataError: the run has no checkpoint.
    """
    require_alone("task=sample")
    config = job.config
    _check(config, job.typed)
    output, run = Path(config["output"]), Path(config["run"])
    G, latent, image_shape, device = load_generator(run, build_device(config["runtime"]))
    blocks = sample_blocks(G, latent, config["num"], device=device, key=(config["seed"], "sample"))
    if output.suffix == ".png":
        _write_png(output, blocks, image_shape)
    else:
        _write_npz(output, blocks, image_shape, config["num"])
    console.print(f"{config['num']:,} samples of {run} are in {output}", markup=False, soft_wrap=True)


def _check(config: Node, typed: list[str]) -> None:
    for key in ("run", "output"):
        if not config[key]:
            example = {"run": "outputs/2026-01-31/12-00-00", "output": "samples.npz"}[key]
            raise ConfigError(f"{key} is not set: task=sample needs run and output, for example {key}={example}.")
    for override in typed:
        key = override.lstrip("+~").split("=")[0].split("@")[0]
        if key.split(".")[0].split("/")[0] not in READ_BY_SAMPLE:
            raise ConfigError(
                f"{override}: task=sample takes its networks from the run and reads only "
                f"{', '.join(sorted(READ_BY_SAMPLE))}; leave it out."
            )
    at_least(config, "num", 1)
    output = Path(config["output"])
    if output.suffix not in (".npz", ".png"):
        raise ConfigError(f"output={output}: the name must end in .npz (an array) or .png (a grid).")
    require_new_file(output, "output")


def load_generator(place: Path, device: torch.device) -> tuple[nn.Module, Latent, tuple[int, ...], torch.device]:
    """Rebuild a run's generator, the averaged one where there is one, from its newest checkpoint or the given one.

    Args:
        place: the folder of a run, or a checkpoint in it.

    Raises:
        ConfigError: the folder is not that of a run.
        DataError: it holds no checkpoint, or only damaged ones.
    """
    folder = place.absolute().parents[1] if place.is_file() else place
    if not (folder / ".hydra" / "config.yaml").is_file():
        raise ConfigError(f"run={place} is not the folder of a run: it has no .hydra/config.yaml.")
    require_plain(folder)
    config = load_config(folder)
    path, checkpoint = find(place)
    latent, image_shape = build_latent(config), tuple(checkpoint["image_shape"])
    G = build_generator(config, image_shape, latent).to(device)
    try:
        G.load_state_dict(checkpoint["G_ema"] or checkpoint["G"])
    except (RuntimeError, TypeError, AttributeError) as error:
        raise DataError(f"{path} does not fit the network of {folder}: {error}") from error
    return G, latent, image_shape, device


def _write_png(output: Path, blocks: Iterable[Float[Tensor, "n *shape"]], image_shape: tuple[int, ...]) -> None:
    if len(image_shape) != 3:
        raise ConfigError(f"output={output}: vectors make no picture; write an array, output={output.stem}.npz.")
    save_png(output, grid(torch.cat(list(blocks))))


def _write_npz(
    output: Path, blocks: Iterable[Float[Tensor, "n *shape"]], image_shape: tuple[int, ...], num: int
) -> None:
    is_image = len(image_shape) == 3
    shape = (image_shape[1], image_shape[2], image_shape[0]) if is_image else image_shape
    dtype, name = (np.dtype(np.uint8), "images") if is_image else (np.dtype(np.float32), "samples")
    require_space(output, num * int(np.prod(shape)) * dtype.itemsize, f"output={output}")
    # An .npz is a zip of .npy files: header first, then the rows as they come.
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
    """Floats in [-1, 1] to rows of pixels, channels last."""
    pixels: ndarray[Any, Any] = to_bytes(images).permute(0, 2, 3, 1).numpy()
    return pixels
