"""task=evaluate: compute metrics of the checkpoints of a run, or of images that gantrain did not make."""

import logging
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch

from gantrain.assemble import build_dataset, build_evaluator, build_metrics, prepare_data
from gantrain.command.overrides import key_of
from gantrain.command.typed import check_effect, config_of_run, is_typed
from gantrain.config import Config
from gantrain.config_rules import check_one_of, check_standing_statistics
from gantrain.console import console
from gantrain.datasets.base import Dataset
from gantrain.engine.device import choose_device
from gantrain.engine.distributed import SINGLE_PROCESS, require_single_process
from gantrain.errors import ConfigError
from gantrain.evaluation.evaluator import Evaluator, numbered
from gantrain.evaluation.given_images import given_images
from gantrain.evaluation.given_scores import require_fit, require_no_labels, score_images, use_all_images
from gantrain.evaluation.grids import save_png
from gantrain.evaluation.sampling import BLOCK_SIZE, labels_like_data, sample_blocks
from gantrain.evaluation.score_plots import score_curves
from gantrain.evaluation.table import Scores, compare, table, write_json
from gantrain.files import require_new_file
from gantrain.session.loading import (
    LoadedGenerator,
    arithmetic_of,
    config_of,
    load_generators,
    prepared,
    require_data_of_its_shape,
)
from gantrain.tasks.job import Job

logger = logging.getLogger(__name__)

READS = {"task", "metric", "features", "statistics_dir", "output", "trust"}
READS |= {"runtime.device", "runtime.num_workers", "runtime.spin"}
OF_DATASET = {"dataset", "metric_split"}


def evaluate(job: Job) -> None:
    """Compute the metrics of a run's last, best or all checkpoints, or of `images`; print a table.

    `output` names a .json file for the scores with their receipts; with checkpoints=all, a plot of the scores against
    the step is written beside it, as .png.

    Raises:
        ConfigError: a key is missing or has no effect, or the metrics do not apply.
        DataError: the run has no such checkpoint, or only damaged ones, or images cannot be used.
    """
    require_single_process("task=evaluate")
    config = job.config
    check(config, job.typed)
    found, evaluator, criterion = evaluate_run(job) if config.images is None else evaluate_images(job)
    comparisons = compare(found, evaluator.better)
    console.print(table(comparisons, criterion=criterion), soft_wrap=True, highlight=False)
    if config.output is not None:
        write_json(Path(config.output), found)
        if len(found) > 1:
            save_png(Path(config.output).with_suffix(".png"), score_curves(comparisons))


def check(config: Config, typed: list[str]) -> None:
    """Check that the options fit together and have an effect, and that the output does not exist.

    Raises:
        ConfigError: they do not, or it does.
    """
    check_one_of(config, "checkpoints", ("last", "best", "all"))
    check_one_of(config, "metric_split", ("train", "held_out"))
    check_standing_statistics(config)
    if bool(config.run) == bool(config.images):
        both = f"run={config.run} and images={config.images} exclude each other" if config.run else "run is not set"
        raise ConfigError(f"{both}: task=evaluate needs either run=FOLDER, or images=PATH and real=PATH.")
    if config.run:
        reads = READS | OF_DATASET | {"run", "checkpoints", "seed", "latent", "standing_statistics"}
        check_effect(typed, reads, task="task=evaluate run=... loads the networks of the run")
        if Path(config.run).is_file() and is_typed(typed, "checkpoints"):
            raise ConfigError(f"checkpoints={config.checkpoints}: run={config.run} is a checkpoint; leave one out.")
    elif config.real:
        check_effect(typed, READS | {"images", "real"}, task="task=evaluate images=... real=... compares these two")
    else:
        check_effect(typed, READS | OF_DATASET | {"images", "real"}, task="task=evaluate images=... does not use a run")
        if not is_typed(typed, "dataset"):
            what = "what are they compared with? Set real=PATH (a folder, a zip or a .npz) or dataset=NAME"
            raise ConfigError(f"images={config.images}: {what}.")
    if config.output is not None:
        output = Path(config.output)
        if output.suffix != ".json":
            raise ConfigError(f"output={output}: the name must end in .json.")
        require_new_file(output, "output")
        if config.checkpoints == "all":
            require_new_file(output.with_suffix(".png"), "output")


def evaluate_run(job: Job) -> tuple[list[Scores], Evaluator, str | None]:
    """Evaluate checkpoints; return their scores by step, the evaluator, and the score that checkpoint.best names."""
    run = Path(str(job.config.run)).expanduser()
    saved = config_of(run)
    config = config_of_run(job.config, saved, job.typed)
    if not (metrics := build_metrics(config.metric)):
        raise ConfigError(f"run={run} was trained without metrics; choose some, for example metric=[fid].")
    device, dataset = choose_device(config.runtime.device), build_dataset(config.dataset)
    evaluator = build_evaluator(config, metrics, dataset, device, SINGLE_PROCESS)
    found: list[Scores] = []
    for loaded in load_generators(run, config.checkpoints, device):
        if not found:
            require_data_of_its_shape(loaded, dataset)
            prepare_data(dataset, config.runtime, SINGLE_PROCESS)
            evaluator.check(conditional=loaded.class_counts is not None)
            if config.dataset == saved.dataset and dataset.fingerprint != loaded.fingerprint:
                logger.warning("dataset=%s: these are not the data that the run was trained on.", dataset.name)
        with arithmetic_of(loaded):
            found.append(score(evaluator, prepared(loaded, config, job.typed, device=device), device, config.seed))
    return found, evaluator, saved.checkpoint.best


def score(evaluator: Evaluator, loaded: LoadedGenerator, device: torch.device, seed: int) -> Scores:
    """Compute the metrics of a generator, of the same samples as during training."""
    key = (seed, "evaluate")
    labels = None if loaded.class_counts is None else labels_like_data(loaded.class_counts, key)
    blocks = sample_blocks(loaded.G, loaded.latent, evaluator.num_samples, device=device, key=key, labels=labels)
    scores = evaluator(numbered(blocks, labels, block_size=BLOCK_SIZE), ema=loaded.is_ema, seed=seed)
    if loaded.sampling is not None:
        for name, score in scores.items():
            scores[name] = replace(score, receipt=score.receipt | {"sampling": loaded.sampling})
    return Scores(loaded.path, loaded.step, scores)


def evaluate_images(job: Job) -> tuple[list[Scores], Evaluator, None]:
    """Evaluate given images against other given ones or a dataset; return their scores, the evaluator, and None."""
    config, given = job.config, str(job.config.images)
    if not (metrics := build_metrics(config.metric)):
        raise ConfigError(f"images={given}: choose metrics, for example metric=[fid].")
    require_no_labels(metrics)
    device, num_workers = choose_device(config.runtime.device), config.runtime.num_workers
    with ExitStack() as stack:
        images = stack.enter_context(given_images("images", given, num_workers=num_workers))
        use_all_images(metrics, images.num_images, {*map(key_of, job.typed)})
        if config.real:
            dataset: Dataset = stack.enter_context(given_images("real", config.real, num_workers=num_workers))
        else:
            dataset = build_dataset(config.dataset)
        evaluator = build_evaluator(config, metrics, dataset, device, SINGLE_PROCESS)
        require_fit(images, dataset, evaluator)
        prepare_data(dataset, config.runtime, SINGLE_PROCESS)
        evaluator.check(conditional=False)
        scores = score_images(evaluator, images, given, real=config.real)
    return [Scores(Path(given), None, scores)], evaluator, None
