"""The shape of the config, and the rules that hold between its keys.

Nothing here imports torch: `gantrain --help` and `--cfg job` answer at once.
"""

import math
import os
import sys
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from gantrain.errors import ConfigError
from gantrain.torchrun import place

CONF = next(
    folder for folder in (Path(__file__).parent / "conf", Path(__file__).parents[1] / "conf") if folder.is_dir()
)
"""The configs: beside the modules in an installed package, above them in a checkout."""

Node = dict[str, Any]


@dataclass
class CriticWarmup:
    """More critic updates in the first `steps` steps and at every `every`-th one (Arjovsky 2017, released code)."""

    n_critic: int = MISSING
    steps: int = MISSING
    every: int | None = MISSING


@dataclass
class CheckpointConfig:
    """When to save and what to keep."""

    every: int = MISSING
    keep: int = MISSING
    keep_every: int | None = MISSING
    best: str | None = MISSING


@dataclass
class Config:
    """The top level; values are in conf/train.yaml, types here, so that a wrong type fails at composition."""

    task: dict[str, Any] = field(default_factory=dict)
    runtime: dict[str, Any] = field(default_factory=dict)
    callback: dict[str, Any] = field(default_factory=dict)
    metric: dict[str, Any] = field(default_factory=dict)
    latent: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    loss: dict[str, Any] = field(default_factory=dict)
    regularizer: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    discriminator_optimizer: dict[str, Any] = field(default_factory=dict)
    dataset: dict[str, Any] = field(default_factory=dict)
    steps: int | None = MISSING
    epochs: float | None = MISSING
    batch_size: int = MISSING
    seed: int = MISSING
    n_critic: int = MISSING
    critic_warmup: CriticWarmup | None = field(default_factory=CriticWarmup)
    ema_halflife_images: float | None = MISSING
    horizontal_flip: bool = MISSING
    allow: list[str] = MISSING
    log_every: int = MISSING
    sample_every: int = MISSING
    evaluate_every: int = MISSING
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    on_divergence: str = MISSING
    max_rollbacks: int = MISSING
    run_dir: str = MISSING
    resume: str | None = MISSING
    allow_change: list[str] = MISSING
    init_from: str | None = MISSING
    trust: list[str] = MISSING
    run: str | None = MISSING
    num: int = MISSING
    output: str | None = MISSING


SAMPLE_ONLY = ("run", "num", "output")
"""Keys that belong to task=sample."""

RUN_FILES = (
    ".hydra/config.yaml",
    "run.json",
    "metrics.csv",
    "tensorboard",
    "samples",
    "checkpoints",
    "samples.gif",
    "curves.png",
)
"""What marks a folder as that of a run."""


def register(*, fixed_run_dir: bool, sweep: str = "") -> None:
    """Make the schema and the resolvers known to Hydra.

    Args:
        fixed_run_dir: whether the user named the folder, which is then the same at every call.
        sweep: the folder of the sweep that this process has a part of, where another has made it.
    """
    _folders.fixed, _folders.sweep = fixed_run_dir, sweep
    ConfigStore.instance().store(name="schema", node=Config)
    OmegaConf.register_new_resolver("run_folder", _run_folder, replace=True)
    OmegaConf.register_new_resolver("sweep_folder", _sweep_folder, replace=True)


@dataclass
class _Folders:
    fixed: bool = False
    sweep: str = ""


_folders = _Folders()


def claimed_sweep() -> str:
    """The folder of the sweep that this process has begun, or has a part of."""
    return _folders.sweep


# At the top level, and no closures: Hydra sends resolvers to the processes of a sweep, which have places of their own.


def _run_folder(run_dir: str, resume: str | None, _parent_: Any) -> str:
    _only_for("hydra.run", _parent_)
    if place().rank > 0:  # the folder is the leader's
        return "."
    return claim_folder(run_dir, by_time=not _folders.fixed and resume in (None, "auto"))


def _sweep_folder(run_dir: str, _parent_: Any) -> str:
    _only_for("hydra.sweep", _parent_)
    if not _folders.sweep:
        # Beside the folders of single runs, unless the user says where.
        named = run_dir if _folders.fixed else run_dir.replace("outputs/", "outputs/multirun/", 1)
        _folders.sweep = claim_folder(named, by_time=not _folders.fixed)
    return _folders.sweep


def _only_for(key: str, parent: Any) -> None:
    if parent is None or parent._get_full_key(None) != key:
        raise ConfigError(f"The resolvers of {key}.dir make folders and serve no other key; leave them out.")


@cache
def claim_folder(path: str, *, by_time: bool) -> str:
    """Make the folder of a run, or of a sweep, where there is none.

    Args:
        by_time: whether the name is the time alone; two runs started in the same second get folders of their own.

    Raises:
        ConfigError: the folder cannot be made or written to.
    """
    if not path:
        raise ConfigError("run_dir is empty: a run needs a folder of its own; name one, or leave it out: one by date.")
    for attempt in range(1, 1000):
        folder = Path(path if attempt == 1 else f"{path}-{attempt}")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            existed = folder.is_dir()
            folder.mkdir(exist_ok=not by_time)
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
            if by_time and folder.is_dir():
                continue
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"run_dir={path} cannot be made ({reason}); choose another place.") from None
        if not os.access(folder, os.W_OK):
            raise ConfigError(f"run_dir={path} cannot be written to; choose another place.")
        if not existed:
            created.add(str(folder.absolute()))
        return str(folder)
    raise ConfigError(f"run_dir={path}: a thousand runs started in this second; choose a folder with run_dir=PATH.")


created: set[str] = set()
"""The folders, by absolute path, that this process has made for its runs."""


def settle_budget(config: Node, typed: Sequence[str]) -> Node:
    """Leave one of steps and epochs: what the user typed wins over what a file says.

    Raises:
        ConfigError: both or neither are given.
    """
    keys = {override.lstrip("+").split("=")[0] for override in typed}
    if {"steps", "epochs"} <= keys and None not in (config["steps"], config["epochs"]):
        raise ConfigError(f"steps={config['steps']} and epochs={config['epochs']} are two budgets; give one of them.")
    for given, other in (("steps", "epochs"), ("epochs", "steps")):
        if given in keys and config[given] is not None:
            config = config | {other: None}
    if (config["steps"] is None) == (config["epochs"] is None):
        raise ConfigError(f"steps={config['steps']} and epochs={config['epochs']}: exactly one must be a number.")
    return config


def check(config: Node) -> None:
    """Check the values that the types leave open.

    Raises:
        ConfigError: naming the value, the rule and the remedy.
    """
    for key in ("batch_size", "n_critic", "log_every", "sample_every", "evaluate_every"):
        at_least(config, key, 1)
    at_least(config, "checkpoint.every", 1)
    at_least(config, "checkpoint.keep", 1)
    if config["steps"] is not None:
        at_least(config, "steps", 1)
    if config["checkpoint"]["keep_every"] is not None:
        at_least(config, "checkpoint.keep_every", 1)
    if config["runtime"]["num_workers"] is not None:
        at_least(config, "runtime.num_workers", 1)
    if config["runtime"]["data"] not in ("auto", "device", "host"):
        raise ConfigError(f"runtime.data={config['runtime']['data']}: must be one of auto, device, host.")
    at_least(config, "max_rollbacks", 1)
    if config["on_divergence"] not in ("stop", "rollback"):
        raise ConfigError(f"on_divergence={config['on_divergence']}: must be stop or rollback.")
    if config["on_divergence"] == "rollback" and "checkpoint" not in chosen(config, "callback"):
        raise ConfigError(
            "on_divergence=rollback goes back to a checkpoint, and none is written: add callback checkpoint."
        )
    above_zero(config, "epochs")
    above_zero(config, "ema_halflife_images")
    if config["critic_warmup"] is not None:
        at_least(config, "critic_warmup.n_critic", 1)
        at_least(config, "critic_warmup.steps", 0)
        if config["critic_warmup"]["every"] is not None:
            at_least(config, "critic_warmup.every", 1)
    for key in SAMPLE_ONLY:
        if key != "num" and config[key] is not None:
            raise ConfigError(f"{key}={config[key]} belongs to task=sample; add task=sample or leave it out.")
    for key in ("optimizer", "discriminator_optimizer"):
        check_optimizer(key, config[key])


def check_optimizer(key: str, optimizer: Node) -> None:
    """Check learning rate and betas, which every optimizer names alike.

    Raises:
        ConfigError: naming the value, the rule and the remedy.
    """
    for name in ("lr", "betas"):
        if key == "optimizer" and name in optimizer and optimizer[name] is None:
            raise ConfigError(f"{key}.{name}=null: must be given, for example optimizer.lr=2e-4.")
    rate, betas = optimizer.get("lr"), optimizer.get("betas")
    if rate is not None and (not is_number(rate) or not 0 < rate < math.inf):
        raise ConfigError(f"{key}.lr={rate}: a learning rate is a number above 0, for example {key}.lr=2e-4.")
    if betas is not None:
        valid = isinstance(betas, Sequence) and len(betas) == 2 and all(is_number(b) and 0 <= b < 1 for b in betas)
        if not valid:
            raise ConfigError(
                f"{key}.betas={betas}: Adam's betas are two numbers in [0, 1), for example {key}.betas=[0.5,0.999]."
            )


def is_number(value: object) -> bool:
    """Whether it is an int or a float, and not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def chosen(config: Node, group: str) -> list[str]:
    """List the options taken of a group that takes several.

    An experiment may set an option of one that the user did not take, which leaves a node without a target.

    Raises:
        ConfigError: what is said of an option is no mapping.
    """
    for name, node in config[group].items():
        if not isinstance(node, dict):
            raise ConfigError(f"{group}.{name}={node}: must be a mapping of options; take it out by {group}=[...].")
    return [name for name, node in config[group].items() if "_target_" in node]


def lookup(config: Node, key: str) -> Any:
    """Find the value under a dotted key."""
    value: Any = config
    for part in key.split("."):
        value = value[part]
    return value


def at_least(config: Node, key: str, low: int) -> None:
    """Check a lower bound.

    Raises:
        ConfigError: the value is below it.
    """
    value = lookup(config, key)
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or value < low:
        kind = "" if is_whole else "a whole number, "
        raise ConfigError(f"{key}={value}: must be {kind}at least {low}, for example {key}={max(low, 1)}.")


def above_zero(config: Node, key: str) -> None:
    """Check that a value, where there is one, is positive and finite.

    Raises:
        ConfigError: it is not.
    """
    value = config[key]
    if value is not None and not 0 < value < math.inf:
        raise ConfigError(f"{key}={value}: must be a number above 0, or null.")


@dataclass(frozen=True)
class CriticSchedule:
    """How many critic updates each step has."""

    n_critic: int
    warm_n_critic: int
    warm_steps: int
    warm_every: int | None

    def __call__(self, step: int) -> int:
        """Critic updates before generator update number `step`."""
        warm = step < self.warm_steps or (self.warm_every is not None and step % self.warm_every == 0)
        return self.warm_n_critic if warm else self.n_critic

    def total(self, steps: int) -> int:
        """Critic updates in the first `steps` steps."""
        num_warm = min(steps, self.warm_steps)
        if self.warm_every is not None and steps > self.warm_steps:
            num_warm += -(-steps // self.warm_every) - -(-self.warm_steps // self.warm_every)
        return num_warm * self.warm_n_critic + (steps - num_warm) * self.n_critic

    def steps_for(self, updates: int) -> int:
        """The fewest steps with at least so many critic updates."""
        return bisect_left(range(updates + 1), updates, key=self.total)  # each step has one or more


def critic_schedule(config: Node) -> CriticSchedule:
    """Read the schedule off the config."""
    warmup = config["critic_warmup"] or {"n_critic": 1, "steps": 0, "every": None}
    return CriticSchedule(config["n_critic"], warmup["n_critic"], warmup["steps"], warmup["every"])


def count_steps(config: Node, num_images: int | None) -> int:
    """Turn the budget into generator updates.

    An epoch is one pass of the critic over the data; the last step may begin within it and end a little after.

    Raises:
        ConfigError: a budget in epochs for data without end, or one without end.
    """
    if config["steps"] is not None:
        steps = int(config["steps"])
    elif num_images is None:
        raise ConfigError(
            f"epochs={config['epochs']:g}: this data is sampled afresh and has no epochs; "
            "give the budget in generator updates, for example steps=5000."
        )
    else:
        batches = math.ceil(Fraction(config["epochs"]) * num_images / config["batch_size"])
        steps = critic_schedule(config).steps_for(batches) if batches < sys.maxsize else sys.maxsize
    if steps >= sys.maxsize:
        raise ConfigError(
            f"{'steps' if config['epochs'] is None else 'epochs'}: a budget without end; give a smaller one."
        )
    return steps


NOT_TRAINING = (
    *("run_dir", "resume", "allow_change", "trust", "on_divergence", "max_rollbacks", "task", "hydra", *SAMPLE_ONLY),
    *("callback", "metric", "log_every", "sample_every", "evaluate_every", "checkpoint"),
)
"""Keys that change what is written and where, not what is trained."""


def hyperparameters(config: Node, choices: Node, typed: Sequence[str]) -> dict[str, bool | float | str]:
    """Flatten what the runs of a sweep are compared by: what was typed, and what one always wants to know.

    No more than that: TensorBoard shows only the first few at once.
    """
    keys = [override.lstrip("+~").split("=")[0].split("@")[0] for override in typed]
    keys = [key for key in keys if key.split(".")[0] not in NOT_TRAINING]
    flat: dict[str, bool | float | str] = {}
    for key in dict.fromkeys(["model", "dataset", "batch_size", "optimizer.lr", "seed", *keys]):
        try:
            value = choices[key] if key in choices else lookup(config, key)
        except (KeyError, TypeError):
            continue  # taken out, or of an optimizer without it
        if isinstance(value, list):
            value = ", ".join(map(str, value))
        # Whatever is beyond any float is no number to TensorBoard.
        is_plain = isinstance(value, bool) or (is_number(value) and abs(value) <= sys.float_info.max)
        flat[key] = value if is_plain else str(value)
    return flat
