"""Load the generator of a run from its checkpoints, to sample from it."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from gantrain.assemble import build_generator, build_latent
from gantrain.command.overrides import key_of
from gantrain.command.typed import is_typed
from gantrain.config import Config, Node, from_saved
from gantrain.datasets.base import Dataset
from gantrain.errors import ConfigError, DataError
from gantrain.evaluation.standing import measure_statistics
from gantrain.models.interface import takes_labels
from gantrain.models.latent import Latent
from gantrain.session import checkpoint
from gantrain.session.checkpoint import DamagedError
from gantrain.session.saved import differences, has_config, load_config, load_record, require_regular_files

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedGenerator:
    """The generator of a run, loaded from a checkpoint.

    Attributes:
        G: the generator with averaged weights (EMA), if the run has them.
        class_counts: number of samples of each class in the run's data; None if G is unconditional.
        path: the checkpoint.
        step: when it was saved.
        is_ema: whether the weights are averaged.
        fingerprint: of the data that the run was trained on.
        batch_size: of the run.
        layout, precision: those of the training; see arithmetic_of.
        sampling: how sampling differs from that of the training, for receipts; None: it does not.
    """

    G: nn.Module
    latent: Latent
    image_shape: tuple[int, ...]
    class_counts: list[int] | None
    path: Path
    step: int
    is_ema: bool
    fingerprint: str
    batch_size: int
    layout: str
    precision: str
    sampling: str | None = None


def folder_of(run: Path) -> Path:
    """Return the folder of a run, given that folder or a checkpoint; for a checkpoint outside of a run, its own folder.

    Raises:
        ConfigError: it is neither a checkpoint nor the folder of a run.
        DataError: the folder has a file that gantrain never creates.
    """
    if run.is_file():
        folder = run.absolute().parent.parent
        if not has_config(folder):
            return run.parent
    elif has_config(run) or checkpoint.paths(run):
        folder = run
    else:
        found = next(iter(sorted(run.glob("*.pt"))), None)
        hint = f" Name one of the checkpoints that are there: run={found}" if found else ""
        what = "it has neither .hydra/config.yaml nor checkpoints/step_*.pt" if run.is_dir() else "it does not exist"
        raise ConfigError(f"run={run} is not the folder of a run: {what}.{hint}")
    require_regular_files(folder)
    return folder


def config_of(run: Path) -> Config:
    """Return the config of a run, or of a checkpoint.

    Raises:
        ConfigError, DataError: it cannot be read.
    """
    folder = folder_of(run)
    return from_saved(load_config(folder) if is_whole_run(run) else checkpoint.find(run)[1]["config"])


def is_whole_run(run: Path) -> bool:
    """Return whether it is the folder of a run with its config.

    A checkpoint, which may lie in the folder of another run, and a run that was copied without its hidden .hydra have
    their config in the checkpoint.
    """
    return not run.is_file() and has_config(run)


def load_generator(run: Path, device: torch.device) -> LoadedGenerator:
    """Load the generator of a run from its newest checkpoint or the given one.

    Args:
        run: the folder of a run, or a checkpoint.

    Raises:
        ConfigError: it is neither.
        DataError: the run has no checkpoint, or only damaged ones, or the checkpoint does not fit the config.
    """
    folder = folder_of(run)
    path, content = checkpoint.find(run)
    config = from_saved(load_config(folder) if is_whole_run(run) else content["config"])
    latent, image_shape = build_latent(config.latent), tuple(content["image_shape"])
    class_counts = content.get("class_counts")
    num_classes = len(class_counts) if class_counts else None
    G = build_generator(config.model["generator"], image_shape, latent, num_classes).to(device)
    try:
        G.load_state_dict(content["G_ema"] or content["G"])
    except (RuntimeError, TypeError, AttributeError) as error:
        raise DataError(f"{path} does not fit the network of its config: {error}") from error
    record = content if {"layout", "precision"} <= content.keys() else record_of(folder, content)
    return LoadedGenerator(
        *(G, latent, image_shape, class_counts if takes_labels(G) else None),
        path=path,
        step=content["step"],
        is_ema=bool(content["G_ema"]),
        fingerprint=content["fingerprint"],
        batch_size=config.batch_size,
        layout=str(record.get("layout", "contiguous")),
        precision=str(record.get("precision", "float32")),
    )


def record_of(folder: Path, content: checkpoint.Content) -> Node:
    """Return the record of a checkpoint's run; {} if the folder is that of another run."""
    is_other = has_config(folder) and differences(content["config"], load_config(folder))
    return {} if is_other else load_record(folder)


def prepared(loaded: LoadedGenerator, config: Config, typed: Sequence[str], *, device: torch.device) -> LoadedGenerator:
    """Return a generator with the latent that the user typed, and with standing statistics if the config says so.

    Args:
        config: of the command, with the seed of the samples.

    Raises:
        ConfigError: the latent has another dimension, or the generator has no BatchNorm.
    """
    latent, differs = loaded.latent, []
    if any(key_of(override).split(".")[0] == "latent" for override in typed):
        if is_typed(typed, "latent.z_dim") and config.latent["z_dim"] != latent.z_dim:
            raise ConfigError(
                f"latent.z_dim={config.latent['z_dim']}: the generator of the run takes {latent.z_dim} dimensions; "
                "leave it out."
            )
        latent = build_latent(config.latent | {"z_dim": latent.z_dim})
        if latent != loaded.latent:
            differs.append(str(latent))
    if config.standing_statistics is not None:
        measure_statistics(
            *(loaded.G, latent),
            num_batches=config.standing_statistics,
            max_size=loaded.batch_size,
            device=device,
            key=(config.seed, "standing statistics"),
            class_counts=loaded.class_counts,
        )
        differs.append(f"standing statistics of {config.standing_statistics} batches")
    return replace(loaded, latent=latent, sampling="; ".join(differs) or None)


def load_generators(run: Path, which: str, device: torch.device) -> Iterator[LoadedGenerator]:
    """Load the generators of a run one after the other; damaged checkpoints are skipped with a warning.

    Args:
        run: the folder of a run, or a checkpoint, which is then the only one.
        which: last, best or all.

    Raises:
        DataError: there is no such checkpoint, or all are damaged.
    """
    if run.is_file() or which == "last":
        yield load_generator(run, device)
        return
    best = run / "checkpoints" / "best.pt"
    paths = [best] * best.exists() if which == "best" else in_order_of_steps(checkpoint.paths(run), best)
    if not paths:
        hint = "; checkpoint.best keeps one while training" if which == "best" else ""
        raise DataError(f"checkpoints={which}: {run} has no such checkpoint{hint}.")
    failures = []
    for path in paths:
        try:
            yield load_generator(path, device)
        except DamagedError as error:
            failures.append(error)
            logger.warning("%s It is left out.", error)
    if len(failures) == len(paths):
        raise DataError(f"checkpoints={which}: none of the checkpoints of {run} can be read. {failures[-1]}")


def in_order_of_steps(numbered: Sequence[Path], best: Path) -> list[Path]:
    """Add best.pt to the checkpoints of a run, at the place of its step, unless one of them has the same generator."""
    if not best.exists():
        return list(numbered)
    try:
        content = checkpoint.read(best)
        step = content["step"]
        same = [path for path in numbered if checkpoint.step_of(path) == step]
        if any(have_same_generator(content, checkpoint.read(path)) for path in same):
            return list(numbered)
    except DamagedError:  # reported when it is loaded
        return [*numbered, best]
    before = [path for path in numbered if checkpoint.step_of(path) <= step]
    return [*before, best, *numbered[len(before) :]]


def have_same_generator(a: checkpoint.Content, b: checkpoint.Content) -> bool:
    """Return whether two checkpoints have the same weights of the generator from which samples are made."""
    first, second = a["G_ema"] or a["G"], b["G_ema"] or b["G"]
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@contextmanager
def arithmetic_of(loaded: LoadedGenerator) -> Iterator[None]:
    """Run a generator as its training did while the block runs, with TF32 and channels_last or without.

    Otherwise the last bits of its samples would differ from those that were evaluated during training.
    """
    if loaded.layout == "channels_last":
        loaded.G.to(memory_format=torch.channels_last)
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = loaded.precision != "float32"
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def require_data_of_its_shape(loaded: LoadedGenerator, dataset: Dataset) -> None:
    """Check that the generator makes samples of the data's shape.

    Raises:
        ConfigError: it does not.
    """
    if tuple(dataset.image_shape) != loaded.image_shape:
        raise ConfigError(
            f"dataset={dataset.name} has the shape {list(dataset.image_shape)}, but the generator of the run makes "
            f"samples of the shape {list(loaded.image_shape)}; choose data of its shape."
        )
