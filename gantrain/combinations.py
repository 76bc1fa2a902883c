"""Refuse combinations of parts that theory rules out, and warn of doubtful ones."""

import logging
from collections.abc import Sequence

from torch import nn

from gantrain.config import Config
from gantrain.datasets.base import Dataset, ImageDataset
from gantrain.engine.runtime import find_user_code
from gantrain.errors import ConfigError
from gantrain.game import Objective
from gantrain.models.layers import couples_samples, has_batch_norm
from gantrain.models.spectral_norm import has_spectral_norm

logger = logging.getLogger(__name__)


def warn_of_user_code(parts: Sequence[object], world_size: int) -> None:
    """Warn that the user's own code could draw the same random numbers on every rank."""
    if (name := find_user_code(parts)) is not None:
        logger.warning(
            "%s is your own code: it must draw the random numbers of each sample with gantrain.seeding.own_rows, "
            "because otherwise all %s processes use the same numbers.",
            *(name, world_size),
        )


def check_data(config: Config, dataset: Dataset) -> None:
    """Refuse settings that do not apply to the data.

    Raises:
        ConfigError: horizontal_flip with vectors.
    """
    if config.horizontal_flip and not isinstance(dataset, ImageDataset):
        raise ConfigError(f"horizontal_flip=true: the samples of {dataset.name} are vectors, not images; leave it out.")


def check_combination(D: nn.Module, objective: Objective, config: Config) -> None:
    """Refuse combinations that theory rules out, except those in `config.allow`, and warn of doubtful ones.

    Raises:
        ConfigError: a combination is refused; the message names the remedy, and how to allow the combination.
    """
    loss, regularizers = objective.loss, objective.regularizers
    refusable = {f"{name}_with_batch_norm" for name, r in regularizers.items() if r.with_batch_norm == "wrong"}
    for name in config.allow:
        if name not in refusable:
            raise ConfigError(
                f"allow=[{name}]: this config has no such combination; "
                f"{'it has ' + ', '.join(sorted(refusable)) if refusable else 'leave it out'}."
            )
    for name, regularizer in regularizers.items() if not hasattr(D, "num_aux_classes") else ():
        if getattr(regularizer, "needs_classifier", False):
            raise ConfigError(
                f"regularizer={name} trains a classifier, but {type(D).__module__}.{type(D).__name__} has none: use "
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
                "regularizer=%s with BatchNorm in the discriminator: the regularizer does not bound the Lipschitz "
                "constant of BatchNorm; model.discriminator.norm=none is safer.",
                name,
            )
    if lacks_lipschitz_bound(D, objective):
        logger.warning(
            "loss: %s, but nothing bounds the critic's Lipschitz constant, so its logits will grow without bound; "
            "add regularizer=[gradient_penalty] or regularizer=[weight_clip], or set "
            "model.discriminator.norm=spectral.",
            type(loss).__name__,
        )
    if config.accumulate > 1:
        parts = [D, loss, *regularizers.values()]
        coupling = [type(x).__name__ for x in parts if isinstance(x, nn.Module) and couples_samples(x)]
        coupling += [type(x).__name__ for x in parts if getattr(x, "couples_samples", False) is True]
        if coupling:
            logger.warning(
                "accumulate=%s: statistics over samples (%s) are computed over each micro-batch of %s samples, not "
                "over the batch.",
                *(config.accumulate, ", ".join(dict.fromkeys(coupling)), config.batch_size // config.accumulate),
            )


def lacks_lipschitz_bound(D: nn.Module, objective: Objective) -> bool:
    """Return whether the loss needs a Lipschitz critic, but nothing bounds its Lipschitz constant."""
    needs = bool(getattr(objective.loss, "needs_lipschitz", False))
    regularized = any(regularizer.bounds_lipschitz for regularizer in objective.regularizers.values())
    return needs and not regularized and not has_spectral_norm(D)
