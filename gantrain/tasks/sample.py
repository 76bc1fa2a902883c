"""task=sample: write samples of a run's generator to a file or a folder."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from gantrain.command.typed import check_effect, is_typed
from gantrain.config import Config, keys_for_task
from gantrain.config_rules import check_at_least, check_standing_statistics
from gantrain.console import console
from gantrain.engine.device import choose_device
from gantrain.engine.distributed import require_single_process
from gantrain.engine.memory import is_out_of_memory, require_memory
from gantrain.errors import ConfigError, GantrainError
from gantrain.evaluation.sample_files import is_folder, require_images, write_folder, write_grid, write_npz
from gantrain.files import require_new_file, require_new_folder
from gantrain.session.loading import load_generator, prepared
from gantrain.tasks.job import Job
from gantrain.tasks.samples import make_samples

READ_BY_SAMPLE = {*keys_for_task("sample"), "task", "seed", "runtime", "trust", "latent"}
IGNORED_BY_SAMPLE = {"batch_size"}
"""Keys that are accepted, but have no effect."""


def sample(job: Job) -> None:
    """Write `num` samples of the run `run` to the file or the folder `output`.

    Sample i depends only on the weights, the latent, the seed, its label and i.

    A .npz file has one array, `images` uint8 [n, h, w, c], or for vectors `samples` float32 [n, d], or with the name
    `array`; a .png file is a grid; a folder has a PNG for each sample. For .npz and folders the memory does not grow
    with num. batch_size has no effect: the generator always runs on blocks of the same size, because another size would
    round differently.

    Raises:
        ConfigError: a key is missing or has no effect for this task, or the output already exists.
        DataError: the run has no checkpoint, or only damaged ones.
    """
    require_single_process("task=sample")
    config = job.config
    _check(config, job.typed)
    output, run = Path(str(config.output)), Path(str(config.run))
    device = choose_device(config.runtime.device)
    loaded = prepared(load_generator(run, device), config, job.typed, device=device)
    if output.suffix == ".png" and not is_folder(str(config.output)):
        require_images(output, loaded.image_shape)
        shapes = [loaded.image_shape] * 2  # once in blocks, and once together
        require_memory("num", config.num, shapes, torch.device("cpu"), kept="samples of a grid")
    made = make_samples(config, loaded, num_is_typed=is_typed(job.typed, "num"), device=device)
    if is_folder(str(config.output)):
        write_folder(output, made.blocks, loaded.image_shape, made.num, made.labels)
    elif output.suffix == ".png":
        with explain_memory(made.num):
            write_grid(output, made.blocks, loaded.image_shape, made.columns)
    else:
        write_npz(output, made.blocks, loaded.image_shape, made.num, array=config.array)
    console.print(f"{made.num:,} samples of {run} are in {output}", markup=False, soft_wrap=True, highlight=False)


@contextmanager
def explain_memory(num: int) -> Iterator[None]:
    """Turn an error for lack of memory while a grid is made into a message.

    Raises:
        GantrainError: there was not enough memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise GantrainError(
            f"num={num}: memory ran out, because a grid is made as a whole; use a smaller num, or write a folder or a "
            ".npz, which are written block by block."
        ) from error


def _check(config: Config, typed: list[str]) -> None:
    for key, value in (("run", config.run), ("output", config.output)):
        if not value:
            example = {"run": "outputs/2026-01-31/12-00-00", "output": "samples.npz"}[key]
            raise ConfigError(f"{key} is not set: task=sample needs run and output, for example {key}={example}.")
    check_effect(
        *(typed, READ_BY_SAMPLE),
        task="task=sample loads the networks of the run",
        ignores=IGNORED_BY_SAMPLE,
    )
    check_at_least(config, "num", 1)
    check_standing_statistics(config)
    output, folder = Path(str(config.output)), is_folder(str(config.output))
    if not folder and output.suffix not in (".npz", ".png"):
        raise ConfigError(
            f"output={output}: the name must end in .npz (an array), .png (a grid) or / (a folder with a PNG for each "
            "sample)."
        )
    if config.array is not None and (folder or output.suffix != ".npz"):
        raise ConfigError(f"array={config.array}: only a .npz file has an array; leave it out, or set output=x.npz.")
    if config.array is not None and not re.fullmatch(r"\w+", config.array):
        raise ConfigError(f"array={config.array}: must consist of letters, digits and _, for example array=arr_0.")
    (require_new_folder if folder else require_new_file)(output, "output")
