"""task=sample: write samples of a run's generator to a file or a folder."""

import re
from pathlib import Path

from gantrain.command.typed import check_effect, is_typed
from gantrain.config import Config, keys_for_task
from gantrain.config_rules import check_at_least, check_standing_statistics
from gantrain.console import console
from gantrain.engine.device import choose_device
from gantrain.engine.distributed import require_single_process
from gantrain.errors import ConfigError
from gantrain.evaluation.sample_files import is_folder, write_folder, write_grid, write_npz
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
    made = make_samples(config, loaded, num_is_typed=is_typed(job.typed, "num"), device=device)
    if is_folder(str(config.output)):
        write_folder(output, made.blocks, loaded.image_shape, made.num, made.labels)
    elif output.suffix == ".png":
        write_grid(output, made.blocks, loaded.image_shape, made.columns)
    else:
        write_npz(output, made.blocks, loaded.image_shape, made.num, array=config.array)
    console.print(f"{made.num:,} samples of {run} are in {output}", markup=False, soft_wrap=True, highlight=False)


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
