"""From the config to the objects; the only caller of Hydra's instantiate."""

import inspect
import logging
import re
import typing
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, cast

import torch
from beartype import BeartypeConf
from beartype.door import is_bearable
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import nn
from torch.optim import Optimizer

from gantrain.callbacks.base import Callback
from gantrain.config import Node, chosen
from gantrain.datasets.base import Dataset
from gantrain.ema import EMA
from gantrain.errors import ConfigError, GantrainError
from gantrain.files import DISK_FULL
from gantrain.losses.base import Loss
from gantrain.metrics.base import Metric
from gantrain.models.latent import Latent
from gantrain.models.layers import has_batch_norm
from gantrain.regularizers.base import Regularizer
from gantrain.seeding import seed_everything
from gantrain.torchrun import place
from gantrain.train import TrainState
from gantrain.trust import resolve

logger = logging.getLogger(__name__)

# An int passes where a float is asked for, as it does in Python.
_NUMBERS = BeartypeConf(is_pep484_tower=True)


def build(path: str, node: Any, *facts: object) -> Any:
    """Make the object that the node at `path` of the config describes, from its options and the given facts.

    Raises:
        ConfigError: naming the option that does not exist, is missing, or has a wrong value.
    """
    if not isinstance(node, dict) or "_target_" not in node:
        raise ConfigError(f"{path}={node}: must be an option of its group, or a mapping with a _target_.")
    target = resolve(path, node["_target_"])
    options = {key: value for key, value in node.items() if key != "_target_"}
    _check_options(path, target, options, facts)
    try:
        return instantiate(node, *facts, _convert_="all", _recursive_=False)
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, GantrainError):
            raise cause from None
        if isinstance(cause, OSError) and cause.errno in DISK_FULL:
            raise cause from None
        reason = (str(cause).splitlines() or [""])[0]  # torch adds the lines of its own code
        if isinstance(cause, ValueError | TypeError):
            raise ConfigError(f"{path}: {reason}") from error
        # Out of memory, an overflow, a fault in a class of the user's own: none of it can be trained.
        raise ConfigError(f"{path} cannot be made of these options ({type(cause).__name__}: {reason}).") from error


def _check_options(path: str, target: Any, options: Node, facts: tuple[object, ...]) -> None:
    parameters = inspect.signature(target).parameters
    # Facts fill the first parameters; the rest are the options that a config may set.
    known = [name for name, p in list(parameters.items())[len(facts) :] if p.kind is not p.VAR_KEYWORD]
    for name in options:
        if name not in known:
            raise ConfigError(
                f"{path}.{name} is not an option of {target.__name__}, which takes {', '.join(known) or 'none'}; "
                f"leave it out (~{path}.{name})."
            )
    missing = [name for name in known if parameters[name].default is inspect.Parameter.empty and name not in options]
    if missing:
        raise ConfigError(
            f"{path}: {target.__name__} also needs {', '.join(missing)}; for example {path}.{missing[0]}=..."
        )
    hints = _type_hints(target)
    for name, value in options.items():
        if name in hints and not _fits(value, hints[name]):
            raise ConfigError(
                f"{path}.{name}={value} is not of the right type; {target.__name__} takes {spell(hints[name])}."
            )


def _type_hints(target: Any) -> dict[str, Any]:
    if getattr(target, "__module__", "").split(".")[0] != "gantrain":
        return {}  # hints of others (torch's tuples, say) are narrower than what they accept
    return typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)


def _fits(value: object, hint: Any) -> bool:
    if isinstance(value, bool):  # a bool is an int to Python, but n=true is a mistake
        return hint is bool or (bool in typing.get_args(hint))
    return is_bearable(value, hint, conf=_NUMBERS)


def spell(hint: Any) -> str:
    """Write a type as a person would: "one of batch, none", "int", "a list of int"."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if not arguments:
        return "null" if hint is type(None) else getattr(hint, "__name__", str(hint))
    if typing.get_origin(hint) in (list, Sequence) or "Sequence" in str(typing.get_origin(hint)):
        return f"a list of {spell(arguments[0])}"
    return " or ".join(map(spell, arguments))


def build_device(runtime: Node) -> torch.device:
    """Choose the device.

    Raises:
        ConfigError: it is not there.
    """
    name, where = str(runtime["device"]), place()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and where.size > 1:
        name = f"cuda:{where.local_rank}"
    remedy = "use runtime.device=cpu or runtime.device=auto"
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise ConfigError(f"runtime.device={name}: must be one of auto, cpu, cuda, cuda:1, mps; {remedy}.")
    device = torch.device(name)
    if where.size > 1 and device.type != "cpu" and device.index != where.local_rank:
        raise ConfigError(f"runtime.device={name}: {where.size} processes take a GPU each; say runtime.device=cuda.")
    try:
        there = torch.empty(1, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"runtime.device={name} is not to be had here ({reason}); {remedy}.") from error
    if there.type == "cuda":
        device = there  # which says its number
        torch.cuda.set_device(device)  # seeding and memory figures are those of the current device
        torch.backends.cudnn.deterministic = True  # or a resumed run would differ in the last bits
    return device


def build_dataset(config: Node) -> Dataset:
    """Load the data."""
    return cast(Dataset, _make("dataset", config["dataset"], Dataset))


def build_latent(config: Node) -> Latent:
    """Make the distribution of z."""
    return cast(Latent, _make("latent", config["latent"], Latent))


def build_loss(config: Node) -> Loss:
    """Make the objective."""
    return cast(Loss, _make("loss", config["loss"], Loss))


def build_generator(config: Node, image_shape: Sequence[int], latent: Latent) -> nn.Module:
    """Make G for the data's shape."""
    return cast(
        nn.Module, _make("model.generator", config["model"]["generator"], nn.Module, tuple(image_shape), latent.z_dim)
    )


def build_discriminator(config: Node, image_shape: Sequence[int]) -> nn.Module:
    """Make D for the data's shape."""
    return cast(
        nn.Module, _make("model.discriminator", config["model"]["discriminator"], nn.Module, tuple(image_shape))
    )


def build_state(config: Node, image_shape: Sequence[int], latent: Latent, device: torch.device) -> TrainState:
    """Make networks and optimizers, a function of the config alone."""
    # Each from a key of its own, so that a change of one network leaves the start of the other as it was.
    seed_everything(config["seed"], "weights", "G", device=torch.device("cpu"))
    G = build_generator(config, image_shape, latent).to(device)
    seed_everything(config["seed"], "weights", "D", device=torch.device("cpu"))
    D = build_discriminator(config, image_shape).to(device)
    own = {key: value for key, value in config["discriminator_optimizer"].items() if value is not None}
    # Without a target of its own it only changes what it names.
    D_optimizer = own if "_target_" in own else config["optimizer"] | own
    return TrainState(
        G=G,
        D=D,
        G_optimizer=build_optimizer("optimizer", config["optimizer"], G),
        D_optimizer=build_optimizer("discriminator_optimizer", D_optimizer, D),
        G_ema=deepcopy(G).requires_grad_(False) if config["ema_halflife_images"] else None,
    )


def build_optimizer(path: str, node: Node, module: nn.Module) -> Optimizer:
    """Make the optimizer of the module's parameters."""
    if "betas" in node:
        # torch refuses betas of which one is an int, as 0 is.
        node = node | {"betas": [float(beta) for beta in node["betas"]]}
    return cast(Optimizer, _make(path, node, Optimizer, list(module.parameters())))


def build_ema(config: Node) -> EMA | None:
    """Make the rule of the average, where one is wanted."""
    halflife = config["ema_halflife_images"]
    return None if halflife is None else EMA(halflife_images=halflife)


def build_regularizers(config: Node) -> dict[str, Regularizer]:
    """Make the regularizers, by name, in the order given."""
    return _make_all(config, "regularizer", Regularizer)


def build_metrics(config: Node) -> dict[str, Metric]:
    """Make the metrics, by name."""
    return _make_all(config, "metric", Metric)


def build_callbacks(config: Node) -> list[Callback]:
    """Make the callbacks, in the order given."""
    made = _make_all(config, "callback", Callback)
    for name, callback in made.items():
        callback.name = name
    return list(made.values())


def _make_all(config: Node, group: str, kind: Any) -> dict[str, Any]:
    return {name: _make(f"{group}.{name}", config[group][name], kind) for name in chosen(config, group)}


def _make(path: str, node: Any, kind: Any, *facts: object) -> Any:
    made = build(path, node, *facts)
    if not isinstance(made, kind):
        raise ConfigError(
            f"{path}._target_={node['_target_']} makes a {type(made).__name__}, which cannot serve as {path}; "
            "choose an option of gantrain --help."
        )
    return made


def check_cross(D: nn.Module, loss: Loss, regularizers: dict[str, Regularizer], allow: Sequence[str]) -> None:
    """Refuse what is wrong by theory unless it is allowed by name, and warn of what is doubtful.

    Raises:
        ConfigError: naming what does not go together, the remedy, and how to allow it.
    """
    nameable = {f"{name}_with_batch_norm" for name, r in regularizers.items() if r.with_batch_norm == "wrong"}
    for name in allow:
        if name not in nameable:
            raise ConfigError(
                f"allow=[{name}] names nothing that this config needs allowed; "
                f"{'it could name ' + ', '.join(sorted(nameable)) if nameable else 'leave it out'}."
            )
    if has_batch_norm(D):
        for name, regularizer in regularizers.items():
            allowance = f"{name}_with_batch_norm"
            if regularizer.with_batch_norm == "wrong" and allowance not in allow:
                raise ConfigError(
                    f"regularizer={name} with batch normalization in the discriminator: it treats every sample alone, "
                    "batch normalization ties them together. Use model.discriminator.norm=none (or layer, instance), "
                    f"or allow the cross with allow=[{allowance}]."
                )
            if regularizer.with_batch_norm == "doubtful":
                logger.warning(
                    "regularizer=%s with batch normalization in the discriminator: the critic is no longer Lipschitz "
                    "in one sample; model.discriminator.norm=none is safer.",
                    name,
                )
    if getattr(loss, "needs_lipschitz", False) and not any(r.bounds_lipschitz for r in regularizers.values()):
        logger.warning(
            "loss: %s with nothing to keep the critic Lipschitz: its scores will grow without bound; "
            "add regularizer=[gradient_penalty] or regularizer=[weight_clip].",
            type(loss).__name__,
        )
