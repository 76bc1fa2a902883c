"""All top-level settings of gantrain, with their types, defaults and help texts.

`gantrain --help` shows the docstring under each field of Config. The options of a part (a loss, a network, a dataset)
are parameters of its class, with their values in conf/. This module does not import torch, so that `gantrain --help`
and `--cfg job` start fast.
"""

import ast
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from omegaconf import MISSING

from gantrain.errors import ConfigError
from gantrain.older import with_part_options

CONF = next(
    folder for folder in (Path(__file__).parent / "conf", Path(__file__).parents[1] / "conf") if folder.is_dir()
)
"""The folder of the shipped configs: in the package if it is installed, beside it in a checkout."""

Node = dict[str, Any]
"""A part of the config as a dict, with its class under the key `_target_`; or a config as nested dicts."""

LIST_GROUPS = ("regularizer", "augment", "schedule", "metric", "verdict", "callback")
"""Config groups from which several options can be selected; the others take exactly one."""

SETTINGS_OF_GROUPS = {"verdict": ("stop",)}
"""Keys of a group in LIST_GROUPS that are settings of the group itself, beside its options."""


def outside_training(default: Any = MISSING, **options: Any) -> Any:
    """Declare a setting that may change when a run is resumed, because it does not affect how weights are updated."""
    return _setting(default, changes_training=False, **options)


def for_task(default: Any, *tasks: str, **options: Any) -> Any:
    """Declare a setting that only these tasks read."""
    return _setting(default, changes_training=False, tasks=tasks, **options)


def _setting(default: Any, **metadata: Any) -> Any:
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def group() -> Any:
    """Declare a config group: a part, or a dict of parts, selected by group=option."""
    return field(default_factory=dict)


@dataclass
class RuntimeConfig:
    """How the arithmetic is executed; conf/runtime has the values."""

    device: str = MISSING
    """auto, cpu, cuda, cuda:1 or mps"""
    precision: str = MISSING
    """auto, float32, tf32 or bf16"""
    acceleration: str = MISSING
    """auto, eager, or graph (replay each update as one CUDA graph)"""
    layout: str = MISSING
    """memory format: auto, contiguous or channels_last"""
    data: str = MISSING
    """where the images are stored: auto, device (all of them on the GPU) or host"""
    threads: Any = MISSING
    """auto, or the number of CPU threads"""
    spin: Any = "auto"
    """iterations for which waiting OpenMP threads spin; or auto, or system (the default of OpenMP)"""
    num_workers: int | None = MISSING
    """number of processes that decode images; null: one per core"""


@dataclass
class CriticWarmup:
    """More critic updates in the first steps, and at regular steps afterwards (Arjovsky 2017, released code)."""

    n_critic: int = 100
    """discriminator updates per generator update during the warm-up"""
    steps: int = 0
    """number of warm-up steps at the start"""
    every: int | None = None
    """after that, repeat one warm-up step every this many steps, for example 500; null: never"""


@dataclass
class CheckpointConfig:
    """When to save checkpoints, and which to keep."""

    every: int = 1000
    """save a checkpoint every this many steps"""
    keep: int = 3
    """number of newest checkpoints to keep"""
    keep_every: int | None = None
    """also save a checkpoint every this many steps and never delete it, for example 10000; null: none"""
    best: str | None = None
    """also save best.pt, the checkpoint with the best value of this metric, for example mean_error"""


@dataclass
class Config:
    """The top-level settings and the config groups."""

    task: dict[str, Any] = outside_training(dict)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    callback: dict[str, Any] = outside_training(dict)
    metric: dict[str, Any] = outside_training(dict)
    verdict: dict[str, Any] = outside_training(dict)
    latent: dict[str, Any] = group()
    model: dict[str, Any] = group()
    loss: dict[str, Any] = group()
    regularizer: dict[str, Any] = group()
    augment: dict[str, Any] = group()
    schedule: dict[str, Any] = group()
    optimizer: dict[str, Any] = group()
    discriminator_optimizer: dict[str, Any] = group()
    dataset: dict[str, Any] = group()
    features: dict[str, Any] = outside_training(dict)

    steps: int | None = None
    """length of the training in generator updates; set either steps or epochs"""
    epochs: float | None = 10
    """length of the training in passes of the discriminator over the data; set either steps or epochs"""
    batch_size: int = 64
    """samples per batch, summed over all processes"""
    accumulate: int = 1
    """split each batch into this many micro-batches to save memory; their gradients are averaged"""
    seed: int = 0
    """seed of all random numbers"""
    first: str = "discriminator"
    """which network is updated first in each step: discriminator or generator"""
    n_critic: int = 1
    """discriminator updates per generator update"""
    critic_warmup: CriticWarmup | None = field(default_factory=CriticWarmup)
    generator_batch_multiple: int = 1
    """size of the generator's batch, as a multiple of batch_size"""
    fake_labels: str = "real"
    """labels of generated samples: real (those of the real batch), empirical (frequencies of the data) or uniform"""
    packing: int = 1
    """number of samples that are concatenated to one input of the discriminator (PacGAN)"""
    ema_halflife_images: float | None = None
    """half-life, in images, of the EMA of the generator's weights, from which samples are made; null: no EMA"""
    ema_rampup: float | None = None
    """limit the half-life of the EMA to this fraction of the images seen so far, for example 0.05; null: no limit"""
    horizontal_flip: bool = False
    """mirror real images left to right with probability 1/2; good for faces, wrong for digits"""
    allow: list[str] = field(default_factory=list)
    """combinations to accept although theory rules them out, for example [gradient_penalty_with_batch_norm]"""
    log_every: int = outside_training(50)
    """log the scalars every this many steps"""
    sample_every: int = outside_training(100)
    """save a grid of samples every this many steps"""
    evaluate_every: int | None = outside_training(1000)
    """compute the metrics every this many steps; null: as often as max_eval_fraction allows"""
    max_eval_fraction: float = outside_training(0.1)
    """with evaluate_every=null: fraction of the time for metrics; the interval is chosen at the first evaluation"""
    metric_split: str = outside_training("train")
    """real images that metrics compare with: train, or held_out (those of dataset.holdout)"""
    statistics_dir: str | None = outside_training("data/statistics", is_path=True)
    """folder where statistics of real images are cached, for metrics; null: none"""
    checkpoint: CheckpointConfig = outside_training(CheckpointConfig)
    on_divergence: str = outside_training("stop")
    """what to do after NaN or Inf: stop, or rollback (resume from the last checkpoint with different random numbers)"""
    max_rollbacks: int = outside_training(3)
    """maximum number of rollbacks in a run"""
    run_dir: str = outside_training("outputs/${now:%Y-%m-%d}/${now:%H-%M-%S}", is_path=True)
    """folder of the run; the same command with the same folder resumes the run"""
    resume: str | None = outside_training("auto", is_path=True)
    """folder of the run to resume; auto: the run in run_dir, if there is one; null: refuse a run_dir that has a run"""
    allow_change: list[str] = outside_training(list)
    """settings that may change when a run is resumed although they affect its weights, for example [optimizer.lr]"""
    init_from: str | None = outside_training(None, is_path=True)
    """start a new run with the weights of another run: its folder or one of its checkpoints"""
    trust: list[str] = outside_training(list)
    """your own Python modules that configs may use, for example [my_losses]; can only be set on the command line"""
    run: str | None = for_task(None, "sample", "evaluate", is_path=True)
    """task=sample, task=evaluate: folder of the run, or one of its checkpoints"""
    num: int = for_task(64, "sample", "data")
    """task=sample: number of samples; task=data: number of images in the grid"""
    standing_statistics: int | None = for_task(None, "sample", "evaluate")
    """measure the statistics of G's BatchNorm anew, over this many batches, for example 16; null: those of training"""
    labels: Any = for_task(None, "sample")
    """task=sample: classes of the samples, for example [3]; all: every class; null: class frequencies of the data"""
    truncation: float | None = for_task(None, "sample")
    """task=sample: move the styles of StyleGAN2 to their mean, from 1 (not at all) to 0, for example 0.7; null: 1"""
    interpolate: int | None = for_task(None, "sample")
    """task=sample: samples per row, on a line in W from one sample to the next (StyleGAN2); null: no lines"""
    mix_from: int | None = for_task(None, "sample")
    """task=sample: grid of mixed styles: those of the row before this layer, then those of the column; null: none"""
    array: str | None = for_task(None, "sample")
    """task=sample: name of the array in a .npz file, for example arr_0; null: images, or samples for vectors"""
    checkpoints: str = for_task("last", "evaluate")
    """task=evaluate: which checkpoints of the run: last, best (of checkpoint.best) or all"""
    images: str | None = for_task(None, "evaluate", is_path=True)
    """task=evaluate: images to judge instead of a run's: a folder, a zip, or a .npz with images or arr_0"""
    real: str | None = for_task(None, "evaluate", is_path=True)
    """task=evaluate images=...: the images to compare with, given in the same way; null: those of dataset=..."""
    output: str | None = for_task(None, "sample", "evaluate", "benchmark", "data", is_path=True)
    """file to write: .npz, .png or FOLDER/ (task=sample), .json (task=evaluate, task=benchmark), .png (task=data)"""


@dataclass(frozen=True)
class Setting:
    """A setting of Config, for the help and the checks.

    Attributes:
        key: dotted for nested settings, for example "checkpoint.every".
        text: the help text.
        changes_training: whether a change of it is refused when a run is resumed.
        tasks: the tasks that read it; (): every task.
        is_path: whether ~ at its start is the home folder.
        is_whole: whether it is a whole number.
    """

    key: str
    default: Any
    text: str
    changes_training: bool
    tasks: tuple[str, ...]
    is_path: bool
    is_whole: bool


@cache
def settings() -> tuple[Setting, ...]:
    """List the fields of Config, nested ones by their dotted keys."""
    return tuple(_settings(Config, ""))


def _settings(owner: Any, prefix: str) -> Iterator[Setting]:
    texts = field_texts(owner)
    for f in fields(owner):
        key, changes = f"{prefix}{f.name}", bool(f.metadata.get("changes_training", True))
        factory = f.default_factory
        if is_dataclass(factory):
            yield from _settings(factory, f"{key}.")
            continue
        default = factory() if callable(factory) else f.default
        tasks, is_path = f.metadata.get("tasks", ()), bool(f.metadata.get("is_path"))
        is_whole = f.type in (int, int | None)
        yield Setting(key, default, texts.get(f.name, ""), changes, tasks, is_path, is_whole)


def field_texts(owner: type) -> dict[str, str]:
    """Return the docstring under each field of a dataclass of this module, by field name."""
    body = _classes()[owner.__name__].body
    found = {}
    for statement, after in pairwise(body):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(after, ast.Expr)
            and isinstance(statement.target, ast.Name)
        ):
            found[statement.target.id] = str(ast.literal_eval(after.value))
    return found


@cache
def _classes() -> dict[str, ast.ClassDef]:
    # Python discards these docstrings, so they are read from the source.
    tree = ast.parse(Path(__file__).read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def keys_for_task(task: str) -> tuple[str, ...]:
    """List the keys of the settings that only some tasks read, this one among them."""
    return tuple(setting.key for setting in settings() if task in setting.tasks)


def keys_outside_training() -> tuple[str, ...]:
    """List the top-level keys that may change when a run is resumed."""
    return (*(f.name for f in fields(Config) if not f.metadata.get("changes_training", True)), "hydra")


def to_dict(config: Config) -> Node:
    """Return the config as nested dicts."""
    return asdict(config)


def from_saved(node: Node) -> Config:
    """Read a config that a run has saved; settings that an older version did not save get their defaults."""
    return cast(Config, _from_dict(Config, with_part_options(node)))


def _from_dict(owner: Any, node: Node) -> Any:
    values = {}
    for f in fields(owner):
        if f.name in node:
            value = node[f.name]
            is_section = is_dataclass(f.default_factory) and isinstance(value, dict)
            values[f.name] = _from_dict(f.default_factory, value) if is_section else value
    return owner(**values)


def is_number(value: object) -> bool:
    """Return whether the value is an int or a float, but not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def selected_options(nodes: Node, group: str) -> list[str]:
    """List the selected options of a group in LIST_GROUPS.

    Nodes without a `_target_` are not selected: an experiment may set a parameter of an option that the user left out.

    Raises:
        ConfigError: an option's value is not a mapping.
    """
    options = {name: node for name, node in nodes.items() if name not in SETTINGS_OF_GROUPS.get(group, ())}
    for name, node in options.items():
        if not isinstance(node, dict):
            raise ConfigError(f"{group}.{name}={node}: must be a mapping of options; remove it with ~{group}.{name}.")
    return [name for name, node in options.items() if "_target_" in node]


def lookup(config: Any, key: str) -> Any:
    """Return the value under a dotted key.

    Raises:
        KeyError, AttributeError, TypeError: the key does not exist.
    """
    for part in key.split("."):
        config = config[part] if isinstance(config, dict) else getattr(config, part)
    return config
