"""Every setting of gantrain, with its type, its default and what it means.

The text under each field is its line in `gantrain --help`. The settings of a part (a loss, a network, a dataset) are
options of its class, with their values in conf/. Nothing here imports torch, so that `gantrain --help` and `--cfg job`
answer at once.
"""

import ast
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from gantrain.errors import ConfigError

CONF = next(
    folder for folder in (Path(__file__).parent / "conf", Path(__file__).parents[1] / "conf") if folder.is_dir()
)
"""The shipped configs: beside the modules in an installed package, above them in a checkout."""

Node = dict[str, Any]
"""A part of the config that names its class by `_target_`; or a whole config as plain Python."""

LIST_GROUPS = ("regularizer", "augment", "schedule", "metric", "callback")
"""Groups of which a config takes a list of options, by name."""


def outside_training(default: Any = MISSING, **options: Any) -> Any:
    """Declare a setting that changes what is written and where, and not what is trained; a resumed run may differ."""
    return _setting(default, changes_training=False, **options)


def for_task(task: str, default: Any) -> Any:
    """Declare a setting that one task alone reads."""
    return _setting(default, changes_training=False, task=task)


def _setting(default: Any, **metadata: Any) -> Any:
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def group() -> Any:
    """Declare a part that is chosen by group=option, or a list of them."""
    return field(default_factory=dict)


@dataclass
class RuntimeConfig:
    """How the arithmetic is run; conf/runtime has the values."""

    device: str = MISSING
    """auto, cpu, cuda, cuda:1, mps"""
    precision: str = MISSING
    """auto, float32, tf32, bf16"""
    acceleration: str = MISSING
    """auto, eager, graph (each update replayed as one CUDA graph)"""
    layout: str = MISSING
    """auto, contiguous, channels_last"""
    data: str = MISSING
    """auto, device (all images lie on the GPU), host"""
    threads: Any = MISSING
    """auto, or the number of threads that compute on a CPU"""
    spin: Any = "auto"
    """auto, system, or how many iterations OpenMP's threads spin while they wait"""
    num_workers: int | None = MISSING
    """processes that decode images; null: one a core"""


@dataclass
class CriticWarmup:
    """More critic updates in the first steps, and now and then afterwards (Arjovsky 2017, released code)."""

    n_critic: int = 100
    """discriminator updates in a step of the warm-up"""
    steps: int = 0
    """steps of the warm-up"""
    every: int | None = None
    """also every so many steps afterwards"""


@dataclass
class CheckpointConfig:
    """When to save a checkpoint, and which to keep."""

    every: int = 1000
    """steps between two checkpoints"""
    keep: int = 3
    """how many of the newest checkpoints to keep"""
    keep_every: int | None = None
    """keep those of every so many steps for good, for example 10000"""
    best: str | None = None
    """also keep, as best.pt, that with the best value of this metric, for example mean_error of metric=[moments]"""


@dataclass
class Config:
    """The settings at the top level."""

    task: dict[str, Any] = outside_training(dict)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    callback: dict[str, Any] = outside_training(dict)
    metric: dict[str, Any] = outside_training(dict)
    latent: dict[str, Any] = group()
    model: dict[str, Any] = group()
    loss: dict[str, Any] = group()
    regularizer: dict[str, Any] = group()
    augment: dict[str, Any] = group()
    schedule: dict[str, Any] = group()
    optimizer: dict[str, Any] = group()
    discriminator_optimizer: dict[str, Any] = group()
    dataset: dict[str, Any] = group()

    steps: int | None = None
    """budget in generator updates; give this or epochs"""
    epochs: float | None = 10
    """budget in passes over the data"""
    batch_size: int = 64
    """samples in each update, over all processes"""
    accumulate: int = 1
    """micro-batches that each batch is cut into, to save memory; their gradients are averaged"""
    seed: int = 0
    """all randomness is a function of the seed and the step"""
    first: str = "discriminator"
    """the player whose updates begin a step: discriminator or generator"""
    n_critic: int = 1
    """discriminator updates for each generator update"""
    critic_warmup: CriticWarmup | None = field(default_factory=CriticWarmup)
    generator_batch_multiple: int = 1
    """the generator's batch, as a multiple of batch_size"""
    fake_labels: str = "real"
    """labels of generated samples: real (those of the batch), empirical (drawn as the data has them), uniform"""
    packing: int = 1
    """samples that the discriminator judges at a time as one (PacGAN)"""
    ema_halflife_images: float | None = None
    """half-life, in images, of the average of G's weights; null: no average. Samples come from the average"""
    ema_rampup: float | None = None
    """limit the half-life to this part of the images seen so far, for example 0.05"""
    horizontal_flip: bool = False
    """show images mirrored half of the time, which suits faces and not digits"""
    allow: list[str] = field(default_factory=list)
    """combinations that are wrong by theory but wanted, for example [gradient_penalty_with_batch_norm]"""
    log_every: int = outside_training(50)
    """steps between two rows of scalars"""
    sample_every: int = outside_training(100)
    """steps between two sample grids"""
    evaluate_every: int = outside_training(1000)
    """steps between two evaluations of the metrics"""
    checkpoint: CheckpointConfig = outside_training(CheckpointConfig)
    on_divergence: str = outside_training("stop")
    """stop, or rollback: resume from the last checkpoint with other random numbers"""
    max_rollbacks: int = outside_training(3)
    """how often to roll back at most"""
    run_dir: str = outside_training("outputs/${now:%Y-%m-%d}/${now:%H-%M-%S}")
    """folder of the run; the same command with the same folder resumes it"""
    resume: str | None = outside_training("auto")
    """auto: resume the run in run_dir if there is one; null: refuse to; or the folder of the run to resume"""
    allow_change: list[str] = outside_training(list)
    """settings that change the training and may differ when a run is resumed, for example [optimizer.lr]"""
    init_from: str | None = outside_training(None)
    """start a new run with the networks of another: its folder, or one of its checkpoints"""
    trust: list[str] = outside_training(list)
    """your own modules that configs may name, for example [hinge2]; only on the command line"""
    run: str | None = for_task("sample", None)
    """the folder of the run to sample from"""
    num: int = for_task("sample", 64)
    """how many samples"""
    labels: Any = for_task("sample", None)
    """the classes to sample, for example [3], or all (a row for each class); null: as the data has them"""
    output: str | None = for_task("sample", None)
    """the file to write, .npz or .png"""


@dataclass(frozen=True)
class Setting:
    """A setting as --help and the checks see it."""

    key: str
    default: Any
    text: str
    changes_training: bool
    task: str | None


@cache
def settings() -> tuple[Setting, ...]:
    """List every typed setting, nested ones by their dotted key."""
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
        yield Setting(key, default, texts.get(f.name, ""), changes, f.metadata.get("task"))


def field_texts(owner: type) -> dict[str, str]:
    """Read the text under each field of a dataclass of this file."""
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
    # inspect.getsource would read the file once more for each class.
    tree = ast.parse(Path(__file__).read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def keys_for_task(task: str) -> tuple[str, ...]:
    """List the settings that a task alone reads."""
    return tuple(setting.key for setting in settings() if setting.task == task)


def not_training() -> tuple[str, ...]:
    """List the top-level settings and groups that change what is written and where, not what is trained."""
    names = [f.name for f in fields(Config) if not f.metadata.get("changes_training", True)]
    return (*names, "hydra")


def plain(config: Config) -> Node:
    """Return the config as nested dicts."""
    return asdict(config)


def from_saved(node: Node) -> Config:
    """Read a config that a run has saved, also an older version of gantrain; settings that it lacks get their default.

    Raises:
        ConfigError: a value is not of its setting's type.
    """
    filled: Config = _filled(Config, node)
    return filled


def _filled(owner: Any, node: Node) -> Any:
    values = {}
    for f in fields(owner):
        if f.name in node:
            value = node[f.name]
            is_section = is_dataclass(f.default_factory) and isinstance(value, dict)
            values[f.name] = _filled(f.default_factory, value) if is_section else value
    return owner(**values)


def is_number(value: object) -> bool:
    """Tell whether it is an int or a float, and not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def chosen(nodes: Node, group: str) -> list[str]:
    """List the options taken of a group that takes several.

    An experiment may set an option of one that the user did not take, which leaves a node without a target.

    Raises:
        ConfigError: an option's value is not a mapping.
    """
    for name, node in nodes.items():
        if not isinstance(node, dict):
            raise ConfigError(f"{group}.{name}={node}: must be a mapping of options; remove it by {group}=[...].")
    return [name for name, node in nodes.items() if "_target_" in node]


def lookup(config: Any, key: str) -> Any:
    """Find the value under a dotted key.

    Raises:
        KeyError, AttributeError, TypeError: there is none.
    """
    for part in key.split("."):
        config = config[part] if isinstance(config, dict) else getattr(config, part)
    return config


def hyperparameters(config: Config, choices: Node, typed: Sequence[str]) -> dict[str, bool | float | str]:
    """Flatten what the runs of a sweep are compared by: what was typed, and what one always wants to know.

    No more than that: TensorBoard shows only the first few at once.
    """
    keys = [override.lstrip("+~").split("=")[0].split("@")[0] for override in typed]
    keys = [key for key in keys if key.split(".")[0] not in not_training()]
    flat: dict[str, bool | float | str] = {}
    for key in dict.fromkeys(["model", "dataset", "batch_size", "optimizer.lr", "seed", *keys]):
        try:
            value = choices[key] if key in choices else lookup(config, key)
        except (KeyError, TypeError, AttributeError):
            continue  # taken out, or of an optimizer without it
        if isinstance(value, list):
            value = ", ".join(map(str, value))
        # Whatever is beyond any float is no number to TensorBoard.
        is_plain = isinstance(value, bool) or (is_number(value) and abs(value) <= sys.float_info.max)
        flat[key] = value if is_plain else str(value)
    return flat
