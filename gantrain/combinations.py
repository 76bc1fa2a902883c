"""Parts that do not fit together: refused where theory forbids it, warned of where it is doubtful."""

import logging
from collections.abc import Sequence

from torch import nn

from gantrain.config import Config
from gantrain.datasets.base import Dataset, ImageDataset
from gantrain.engine.runtime import own_code
from gantrain.errors import ConfigError
from gantrain.game import Objective
from gantrain.models.layers import couples_samples, has_batch_norm

logger = logging.getLogger(__name__)


def warn_of_own_code(parts: Sequence[object], world_size: int) -> None:
    """Warn where code of the user's own could draw the same random numbers on every rank."""
    if (name := own_code(parts)) is not None:
        logger.warning(
            "%s is your own code: what it draws at random for each sample it must draw by gantrain.seeding.own_rows, "
            "or the %s processes draw the same numbers for different samples.",
            *(name, world_size),
        )


def check_data(config: Config, dataset: Dataset) -> None:
    """Refuse settings that need another kind of data.

    Raises:
        ConfigError: naming the setting and the remedy.
    """
    if config.horizontal_flip and not isinstance(dataset, ImageDataset):
        raise ConfigError(f"horizontal_flip=true: {dataset.name} are vectors, which have no sides; leave it out.")


def check_combination(D: nn.Module, objective: Objective, config: Config) -> None:
    """Refuse what is wrong by theory unless it is allowed by name, and warn of what is doubtful.

    Raises:
        ConfigError: naming what does not go together, the remedy, and how to allow it.
    """
    loss, regularizers = objective.loss, objective.regularizers
    nameable = {f"{name}_with_batch_norm" for name, r in regularizers.items() if r.with_batch_norm == "wrong"}
    for name in config.allow:
        if name not in nameable:
            raise ConfigError(
                f"allow=[{name}] names nothing that this config needs allowed; "
                f"{'it could name ' + ', '.join(sorted(nameable)) if nameable else 'leave it out'}."
            )
    for name, regularizer in regularizers.items() if not hasattr(D, "num_aux_classes") else ():
        if getattr(regularizer, "needs_classifier", False):
            raise ConfigError(
                f"regularizer={name} trains a classifier, and {type(D).__module__}.{type(D).__name__} has none: use "
                "network=acgan, or leave the regularizer out."
            )
    for name, regularizer in regularizers.items() if has_batch_norm(D) else ():
        allowance = f"{name}_with_batch_norm"
        if regularizer.with_batch_norm == "wrong" and allowance not in config.allow:
            raise ConfigError(
                f"regularizer={name} with BatchNorm in the discriminator: the penalty is defined for single samples, "
                "and BatchNorm makes each output depend on the whole batch. Use model.discriminator.norm=none (or "
                f"layer, instance), or allow the combination with allow=[{allowance}]."
            )
        if regularizer.with_batch_norm == "doubtful":
            logger.warning(
                "regularizer=%s with BatchNorm in the discriminator: the critic is no longer Lipschitz in a single "
                "sample; model.discriminator.norm=none is safer.",
                name,
            )
    if getattr(loss, "needs_lipschitz", False) and not any(r.bounds_lipschitz for r in regularizers.values()):
        logger.warning(
            "loss: %s without anything that keeps the critic Lipschitz: its scores will grow without bound; "
            "add regularizer=[gradient_penalty] or regularizer=[weight_clip].",
            type(loss).__name__,
        )
    if config.accumulate > 1:
        parts = [D, loss, *regularizers.values()]
        coupling = [type(x).__name__ for x in parts if isinstance(x, nn.Module) and couples_samples(x)]
        coupling += [type(x).__name__ for x in parts if getattr(x, "couples_samples", False) is True]
        if coupling:
            logger.warning(
                "accumulate=%s: %s takes statistics over samples, and takes them over each micro-batch of %s.",
                *(config.accumulate, ", ".join(dict.fromkeys(coupling)), config.batch_size // config.accumulate),
            )
