"""task=sample: write samples of a run's generator to a file or a folder."""

import re
from pathlib import Path
from typing import Any

from gantrain.command.typed import check_effect, is_typed
from gantrain.config import Config, keys_for_task
from gantrain.config_rules import check_at_least
from gantrain.console import console
from gantrain.engine.device import choose_device
from gantrain.engine.distributed import require_single_process
from gantrain.errors import ConfigError
from gantrain.evaluation.sample_files import is_folder, write_folder, write_grid, write_npz
from gantrain.evaluation.sampling import LabelFunction, labels_by_row, labels_like_data, sample_blocks
from gantrain.files import require_new_file, require_new_folder
from gantrain.session.loading import LoadedGenerator, load_generator
from gantrain.tasks.job import Job

READ_BY_SAMPLE = {*keys_for_task("sample"), "task", "seed", "runtime", "trust"}
IGNORED_BY_SAMPLE = {"batch_size"}
"""Keys that are accepted, but have no effect."""


def sample(job: Job) -> None:
    """Write `num` samples of the run `run` to the file or the folder `output`.

    Sample i depends only on the weights, the seed, its label and i.

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
    device, key = choose_device(config.runtime.device), (config.seed, "sample")
    loaded = load_generator(run, device)
    classes = chosen_classes(config.labels, loaded)
    num = config.num
    if classes is not None and num % len(classes):
        if is_typed(job.typed, "num"):
            raise ConfigError(
                f"num={num}: must be a multiple of {len(classes)}, because each class of labels={config.labels} has a "
                f"row; for example num={8 * len(classes)}."
            )
        num = 8 * len(classes)
    labels: LabelFunction | None = None
    if loaded.class_counts is not None:
        labels = labels_like_data(loaded.class_counts, key) if classes is None else labels_by_row(classes, num)
    blocks = sample_blocks(loaded.G, loaded.latent, num, device=device, key=key, labels=labels)
    if is_folder(str(config.output)):
        write_folder(output, blocks, loaded.image_shape, num, None if classes is None else labels)
    elif output.suffix == ".png":
        # A row for each class; a grid of a single class is square, as one of random classes.
        columns = num // len(classes) if classes is not None and len(classes) > 1 else None
        write_grid(output, blocks, loaded.image_shape, columns)
    else:
        write_npz(output, blocks, loaded.image_shape, num, array=config.array)
    console.print(f"{num:,} samples of {run} are in {output}", markup=False, soft_wrap=True, highlight=False)


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
