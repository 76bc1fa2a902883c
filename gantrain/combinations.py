"""Refuse combinations of parts that theory rules out, and warn of doubtful ones."""

import logging
from collections.abc import Mapping, Sequence

from torch import nn

from gantrain.config import Config
from gantrain.datasets.base import Dataset, ImageDataset
from gantrain.engine.runtime import find_user_code
from gantrain.errors import ConfigError
from gantrain.game import Objective
from gantrain.losses.base import sees_real
from gantrain.models.interface import has_styles, takes_labels, without_decoding
from gantrain.models.layers import couples_samples, has_batch_norm
from gantrain.models.packing import Packed
from gantrain.models.spectral_norm import has_spectral_norm
from gantrain.models.stylegan2_ops import MinibatchStdDev
from gantrain.regularizers.base import HOOKS, Regularizer, overrides

logger = logging.getLogger(__name__)


def check_parts(
    G: nn.Module, D: nn.Module, objective: Objective, config: Config, dataset: Dataset, *, warns: bool
) -> None:
    """Check that the parts of a training fit together.

    Args:
        warns: whether to warn of micro-batches; only rank 0 does.

    Raises:
        ConfigError: they do not.
    """
    check_combination(D, objective, config)
    check_styles(G, objective)
    check_groups(D, config)
    check_fake_labels(G, D, config)
    check_data(config, objective, dataset)
    if warns:
        warn_of_micro_batch_statistics(G, D, objective, config)
        warn_of_doubtful_parts(objective, config)


def warn_of_user_code(parts: Sequence[object], world_size: int) -> None:
    """Warn that the user's own code could draw the same random numbers on every rank."""
    if (name := find_user_code(parts)) is not None:
        logger.warning(
            "%s is your own code: it must draw the random numbers of each sample with gantrain.seeding.own_rows, "
            "because otherwise all %s processes use the same numbers.",
            *(name, world_size),
        )


def check_has_effect(regularizers: Mapping[str, Regularizer]) -> None:
    """Refuse regularizers that do nothing, for example because a method's name is misspelled.

    Raises:
        ConfigError: a regularizer overrides none of the methods that the training calls.
    """
    for name, regularizer in regularizers.items():
        if not any(overrides(regularizer, hook) for hook in HOOKS):
            kind = type(regularizer)
            raise ConfigError(
                f"regularizer.{name}: {kind.__module__}.{kind.__name__} has no effect, because a regularizer must "
                f"override at least one of {', '.join(HOOKS)}; check the names of its methods, or leave it out."
            )


def check_data(config: Config, objective: Objective, dataset: Dataset) -> None:
    """Refuse settings that do not apply to the data.

    Raises:
        ConfigError: horizontal_flip, or an augmentation or a regularizer of images, with vectors; or an augmentation
            with images of a shape that it cannot change.
    """
    if isinstance(dataset, ImageDataset):
        for augment in objective.augment.values():
            try:
                augment.check_shape(dataset.image_shape)
            except ValueError as error:
                raise ConfigError(f"dataset={dataset.name}: {error}") from error
        return
    for_images = [f"augment=[{name}]" for name, augment in objective.augment.items() if augment.needs_images]
    for_images += [f"regularizer=[{name}]" for name, r in objective.regularizers.items() if r.needs_images]
    if for_images:
        raise ConfigError(
            f"{for_images[0]} is for images, but the samples of {dataset.name} are vectors; leave it out."
        )
    if config.horizontal_flip:
        raise ConfigError(f"horizontal_flip=true: the samples of {dataset.name} are vectors, not images; leave it out.")


def check_styles(G: nn.Module, objective: Objective) -> None:
    """Refuse regularizers of styles for a generator without styles.

    Raises:
        ConfigError: it has none.
    """
    for name, regularizer in objective.regularizers.items():
        if regularizer.needs_styles and not has_styles(G):
            raise ConfigError(
                f"regularizer={name} needs a generator with styles, and {type(G).__module__}.{type(G).__name__} has "
                "none: use network=stylegan2, or leave the regularizer out."
            )


def check_groups(D: nn.Module, config: Config) -> None:
    """Check that a micro-batch consists of whole groups of the minibatch standard deviation.

    Raises:
        ConfigError: it does not.
    """
    rows = config.batch_size // config.accumulate // config.packing
    for layer in D.modules():
        if isinstance(layer, MinibatchStdDev) and layer.group_size(rows) < min(layer.group, rows):
            parts = config.accumulate * config.packing
            group = max(group for group in range(1, layer.group) if rows % group == 0)
            other = f", or model.discriminator.minibatch_group={group}" if group > 1 else ""
            raise ConfigError(
                f"batch_size={config.batch_size}: the {rows} samples that the discriminator sees at once must be a "
                f"multiple of model.discriminator.minibatch_group={layer.group}; for example "
                f"batch_size={round(rows / layer.group) * layer.group * parts}{other}."
            )


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
    for name, regularizer in regularizers.items() if not without_decoding(D) else ():
        if getattr(regularizer, "needs_decoder", False):
            raise ConfigError(
                f"regularizer={name} compares real images with D's reconstructions of them, but "
                f"{type(D).__module__}.{type(D).__name__} makes none: use network=lightweight, or leave the "
                "regularizer out."
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
    for name, augment in objective.augment.items() if not getattr(loss, "sign_means_real", True) else ():
        if augment.reads_signs:
            raise ConfigError(
                f"augment=[{name}] adapts its strength by the sign of D's logits of real samples, but with "
                f"{type(loss).__name__} a positive logit does not mean that D takes a sample for real. Use "
                f"loss=nonsaturating or loss=hinge, or a fixed strength: augment.{name}.target=null "
                f"augment.{name}.strength=0.3."
            )
    if lacks_lipschitz_bound(D, objective):
        logger.warning(
            "loss: %s, but nothing bounds the critic's Lipschitz constant, so its logits will grow without bound; "
            "add regularizer=[gradient_penalty] or regularizer=[weight_clip], or set "
            "model.discriminator.norm=spectral.",
            type(loss).__name__,
        )


def warn_of_micro_batch_statistics(G: nn.Module, D: nn.Module, objective: Objective, config: Config) -> None:
    """With accumulation, warn of parts that compute statistics over samples, such as BatchNorm in either network."""
    regularizers = {f"regularizer={name}": regularizer for name, regularizer in objective.regularizers.items()}
    unpacked = D.discriminator if isinstance(D, Packed) else D  # the samples of a pack are in the same micro-batch
    parts: dict[str, object] = {
        "the generator": G,
        "the discriminator": unpacked,
        "the loss": objective.loss,
        **regularizers,
    }
    coupling = [
        name
        for name, part in parts.items()
        if (couples_samples(part) if isinstance(part, nn.Module) else getattr(part, "couples_samples", False))
    ]
    if config.accumulate > 1 and coupling:
        logger.warning(
            "accumulate=%s: statistics over samples (BatchNorm and the like, in %s) are those of each micro-batch of "
            "%s samples, not of the whole batch; use accumulate=1 if the memory suffices.",
            *(config.accumulate, ", ".join(coupling), config.batch_size // config.accumulate),
        )


def warn_of_doubtful_parts(objective: Objective, config: Config) -> None:
    """Warn of parts that do the same twice, do not fit together, or have no effect."""
    regularizers, augments = objective.regularizers.keys(), objective.augment.keys()
    if {"bcr", "cr"} <= regularizers:
        logger.warning("regularizer=[bcr,cr]: bcr has the penalty of cr for real images already; leave cr out.")
    if {"ada", "diffaugment"} <= augments:
        logger.warning(
            "augment=[ada,diffaugment]: both augment what D sees, and nothing is known of the two together; choose one."
        )
    if "lecam" in regularizers and sees_real(objective.loss):
        logger.warning(
            "regularizer=lecam with %s: lecam holds single logits near averages, and nothing is known of it with a "
            "loss that compares real with generated logits; choose another loss, or leave lecam out.",
            type(objective.loss).__name__,
        )
    for name, node in config.augment.items():
        if isinstance(node, Mapping) and node.get("strength") == 0 and node.get("target") is None:
            logger.warning("augment.%s.strength=0 augments nothing; set a larger one, or leave %s out.", name, name)
    nodes = [node for node in config.model.values() if isinstance(node, Mapping)]
    stages = [node.get("num_bf16_stages") for node in nodes]
    if config.runtime.precision == "bf16" and stages and all(number == 0 for number in stages):
        logger.warning(
            "runtime.precision=bf16: num_bf16_stages is 0 in both networks, so they run in float32; set "
            "model.generator.num_bf16_stages=4 and model.discriminator.num_bf16_stages=4, or runtime.precision=float32."
        )


def check_fake_labels(G: nn.Module, D: nn.Module, config: Config) -> None:
    """Refuse a choice of labels for generated samples if no network takes or predicts labels.

    Raises:
        ConfigError: fake_labels is set, but the networks are unconditional.
    """
    conditional = takes_labels(G) or takes_labels(D) or hasattr(D, "num_aux_classes")
    if config.fake_labels != "real" and not conditional:
        raise ConfigError(
            f"fake_labels={config.fake_labels}: the networks are unconditional; leave it out, or use conditional "
            "networks, for example network=cdcgan."
        )


def lacks_lipschitz_bound(D: nn.Module, objective: Objective) -> bool:
    """Return whether the loss needs a Lipschitz critic, but nothing bounds its Lipschitz constant."""
    needs = bool(getattr(objective.loss, "needs_lipschitz", False))
    regularized = any(regularizer.bounds_lipschitz for regularizer in objective.regularizers.values())
    return needs and not regularized and not has_spectral_norm(D)
