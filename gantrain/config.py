"""The shape of the config, and the rules that hold between its keys.

Nothing here imports torch: `gantrain --help` and `--cfg job` answer at once.
"""

import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from gantrain.errors import ConfigError

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
    """When to save and how many to keep."""

    every: int = MISSING
    keep: int = MISSING


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
    allow: list[str] = MISSING
    log_every: int = MISSING
    sample_every: int = MISSING
    evaluate_every: int = MISSING
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    run_dir: str = MISSING
    run: str | None = MISSING
    num: int = MISSING
    output: str | None = MISSING


SAMPLE_ONLY = ("run", "num", "output")
"""Keys that belong to task=sample."""

RUN_FILES = (".hydra", "run.json", "metrics.csv", "tensorboard", "samples", "checkpoints", "samples.gif", "curves.png")
"""What marks a folder as that of a run."""


def register() -> None:
    """Make the schema and the resolver known to Hydra."""
    ConfigStore.instance().store(name="schema", node=Config)
    OmegaConf.register_new_resolver("run_folder", claim_folder, replace=True)
    OmegaConf.register_new_resolver("sweep_folder", claim_sweep_folder, replace=True)


@cache
def claim_folder(path: str) -> str:
    """Create the folder of a run, or of a sweep, so that no other run can have it.

    Two runs started in the same second get folders of their own.

    Raises:
        ConfigError: the folder holds a run already, or cannot be written.
    """
    if not path:
        raise ConfigError("run_dir is empty: a run needs a folder of its own; name one, or leave it out: one by date.")
    by_time = re.fullmatch(r"outputs/(multirun/)?\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d", path)
    for attempt in range(1, 1000):
        folder = Path(path if attempt == 1 else f"{path}-{attempt}")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            existed = folder.is_dir()
            folder.mkdir(exist_ok=not by_time)
        except OSError as error:
            if by_time and folder.is_dir():
                continue
            raise ConfigError(f"run_dir={path} cannot be made ({error.strerror}); choose another place.") from None
        held = [name for name in RUN_FILES if (folder / name).exists()]
        if held:
            raise ConfigError(
                f"run_dir={path} holds a run already ({', '.join(held)}), and runs are never overwritten; "
                "choose another folder, or move that one away."
            )
        if not os.access(folder, os.W_OK):
            raise ConfigError(f"run_dir={path} cannot be written to; choose another place.")
        if not existed:
            created.add(str(folder.absolute()))
        return str(folder)
    raise ConfigError(f"run_dir={path}: a thousand runs started in this second; choose a folder with run_dir=PATH.")


created: set[str] = set()
"""The folders, by absolute path, that this process has made for its runs."""


def claim_sweep_folder(run_dir: str) -> str:
    """Create the folder of a sweep: the one that run_dir names, else one by the time.

    Raises:
        ConfigError: as claim_folder.
    """
    return claim_folder(re.sub(r"^outputs/(?=\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d$)", "outputs/multirun/", run_dir))


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
    """
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
    if value < low:
        raise ConfigError(f"{key}={value}: must be at least {low}, for example {key}={max(low, 1)}.")


def above_zero(config: Node, key: str) -> None:
    """Check that a value, where there is one, is positive and finite.

    Raises:
        ConfigError: it is not.
    """
    value = config[key]
    if value is not None and not 0 < value < math.inf:
        raise ConfigError(f"{key}={value}: must be a number above 0, or null.")


def critic_schedule(config: Node) -> Callable[[int], int]:
    """Make the function from a step to its number of critic updates."""
    n_critic, warmup = config["n_critic"], config["critic_warmup"]
    if warmup is None:
        return lambda _: n_critic

    def updates(step: int) -> int:
        warm = step < warmup["steps"] or (warmup["every"] is not None and step % warmup["every"] == 0)
        return int(warmup["n_critic"] if warm else n_critic)

    return updates


def count_steps(config: Node, num_images: int | None) -> int:
    """Turn the budget into generator updates.

    An epoch is one pass of the critic over the data; the last step may begin within it and end a little after.

    Raises:
        ConfigError: a budget in epochs for data without end.
    """
    if config["steps"] is not None:
        return int(config["steps"])
    if num_images is None:
        raise ConfigError(
            f"epochs={config['epochs']:g}: this data is sampled afresh and has no epochs; "
            "give the budget in generator updates, for example steps=5000."
        )
    n_critic = critic_schedule(config)
    batches: int = math.ceil(config["epochs"] * num_images / config["batch_size"])
    warmup = config["critic_warmup"]
    if warmup is None or (warmup["steps"] == 0 and warmup["every"] is None):
        return -(-batches // int(config["n_critic"]))
    steps = 0
    while batches > 0:
        batches -= n_critic(steps)
        steps += 1
    return steps


NOT_TRAINING = ("run_dir", "callback", "log_every", "sample_every", "evaluate_every", "checkpoint", "metric", "hydra")
"""Keys that change what is written, not what is trained."""


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
        flat[key] = value if is_number(value) or isinstance(value, bool) else str(value)
    return flat
