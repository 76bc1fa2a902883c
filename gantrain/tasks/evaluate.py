"""task=evaluate: compute metrics of the checkpoints of a run."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table

from gantrain.assemble import build_dataset, build_evaluator, build_metrics, prepare_data
from gantrain.config import Config, from_saved
from gantrain.config_rules import check_one_of
from gantrain.console import console
from gantrain.engine.device import choose_device
from gantrain.engine.distributed import SINGLE_PROCESS, require_single_process
from gantrain.errors import ConfigError, DataError
from gantrain.evaluation.evaluator import Evaluator, Score, numbered
from gantrain.evaluation.grids import save_png
from gantrain.evaluation.plots import curves
from gantrain.evaluation.receipts import in_words
from gantrain.evaluation.sampling import BLOCK_SIZE, labels_like_data, sample_blocks
from gantrain.files import atomic_write, require_new_file
from gantrain.session import checkpoint
from gantrain.session.saved import load_config, require_regular_files
from gantrain.tasks.job import Job
from gantrain.tasks.sample import load_generator

Scores = dict[str, Score]


def evaluate(job: Job) -> None:
    """Compute the metrics of the run `run`, for its last, its best or all of its checkpoints; print a table.

    `output` names a .json file for the scores with their receipts; with several checkpoints, a plot of the scores
    against the step is written beside it, as .png.

    Raises:
        ConfigError: a key is missing or has no effect, or the metrics do not apply to the run.
        DataError: the run has no such checkpoint, or only damaged ones.
    """
    require_single_process("task=evaluate")
    config = job.config
    output = check(config)
    folder, paths = chosen_checkpoints(Path(str(config.run)), config.checkpoints)
    saved = from_saved(load_config(folder))
    device = choose_device(config.runtime.device)
    dataset = build_dataset(config.dataset if is_typed(job.typed, "dataset") else saved.dataset)
    prepare_data(dataset, config.runtime, SINGLE_PROCESS)
    metrics = build_metrics(config.metric if is_typed(job.typed, "metric") else saved.metric)
    if not metrics:
        raise ConfigError(f"run={folder} was trained without metrics; choose some, for example metric=[fid].")
    features = config.features if is_typed(job.typed, "features") else saved.features
    evaluator = build_evaluator(replace(config, features=features), metrics, dataset, device, SINGLE_PROCESS)
    found = {path: score_checkpoint(evaluator, path, device, config.seed) for path in paths}
    console.print(table(list(found.values())))
    if output is not None:
        write(output, [(step, scores) for step, scores in found.values()])


def check(config: Config) -> Path | None:
    """Check the options; return the output, or None if nothing is to be written."""
    check_one_of(config, "checkpoints", ("last", "best", "all"))
    if not config.run:
        raise ConfigError("run is not set: task=evaluate needs it, for example run=outputs/2026-01-31/12-00-00.")
    if config.output is None:
        return None
    output = Path(config.output)
    if output.suffix != ".json":
        raise ConfigError(f"output={output}: the name must end in .json.")
    require_new_file(output, "output")
    return output


def is_typed(typed: Sequence[str], group: str) -> bool:
    """Return whether the user typed an override of a group."""
    return any(override.lstrip("+~").split("=")[0].split(".")[0].split("@")[0] == group for override in typed)


def chosen_checkpoints(run: Path, which: str) -> tuple[Path, list[Path]]:
    """Return the folder of the run, and the checkpoints to evaluate.

    Raises:
        ConfigError: the folder does not hold a run.
        DataError: there is no such checkpoint.
    """
    folder = run.absolute().parents[1] if run.is_file() else run
    if not (folder / ".hydra" / "config.yaml").is_file():
        raise ConfigError(f"run={run} is not the folder of a run: it has no .hydra/config.yaml.")
    require_regular_files(folder)
    if run.is_file():
        return folder, [run]
    best = folder / "checkpoints" / "best.pt"
    paths = {"last": checkpoint.paths(folder)[-1:], "best": [best] * best.exists(), "all": checkpoint.paths(folder)}
    if not paths[which]:
        hint = "; checkpoint.best keeps one while training" if which == "best" else ""
        raise DataError(f"checkpoints={which}: {folder} has no such checkpoint{hint}.")
    return folder, paths[which]


def score_checkpoint(evaluator: Evaluator, path: Path, device: Any, seed: int) -> tuple[int, Scores]:
    """Return the step of a checkpoint, and its scores."""
    loaded = load_generator(path, device)
    evaluator.check(conditional=loaded.class_counts is not None)
    content = checkpoint.read(path)
    key = (seed, "evaluate")
    labels = None if loaded.class_counts is None else labels_like_data(loaded.class_counts, key)
    num = evaluator.num_samples
    blocks = sample_blocks(loaded.G, loaded.latent, num, device=device, key=key, labels=labels)
    scores = evaluator(
        numbered(blocks, labels, block_size=BLOCK_SIZE), ema=content["G_ema"] is not None, seed=seed
    )
    return int(content["step"]), scores


def table(found: Sequence[tuple[int, Scores]]) -> Table:
    """Return a table with a row for each checkpoint and score."""
    made = Table("step", "score", "value", "real images", "protocol", box=None)
    for step, scores in found:
        for name, score in scores.items():
            real = "" if score.real is None else f"{score.real:.5g}"
            made.add_row(f"{step:,}", name, f"{score.value:.5g}", real, in_words(score.receipt))
    return made


def write(output: Path, found: Sequence[tuple[int, Scores]]) -> None:
    """Write the scores of the last checkpoint as {"metrics": {name: ...}}, and those of all under "checkpoints"."""
    listed = [
        {"step": step, "metrics": {name: as_json(score) for name, score in scores.items()}} for step, scores in found
    ]
    with atomic_write(output) as file:
        file.write(json.dumps({**listed[-1], "checkpoints": listed}, indent=2).encode() + b"\n")
    rows = [{"step": float(step)} | {f"metric/{n}": s.value for n, s in scores.items()} for step, scores in found]
    if len(rows) > 1 and (picture := curves(rows)) is not None:
        save_png(output.with_suffix(".png"), picture)


def as_json(score: Score) -> dict[str, Any]:
    """Return a score as in the JSON file."""
    return {"value": score.value, "receipt": score.receipt | {"real": score.real}}
