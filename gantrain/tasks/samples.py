"""What task=sample draws: independent samples, or samples from the styles of others, with their labels."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gantrain.config import Config
from gantrain.config_rules import check_at_least
from gantrain.engine.memory import require_memory
from gantrain.errors import ConfigError
from gantrain.evaluation.grids import num_columns
from gantrain.evaluation.sampling import LabelFunction, labels_by_row, labels_like_data, sample_blocks
from gantrain.evaluation.styles import Truncated, draw_styles, interpolated_blocks, mixing_grid
from gantrain.models.interface import has_styles
from gantrain.session.loading import LoadedGenerator


@dataclass(frozen=True)
class Samples:
    """Samples to write.

    Attributes:
        blocks: the samples, in blocks [n, ...].
        columns: number of columns of a grid; None: about square.
        labels: labels for the names of files; None: none.
    """

    num: int
    blocks: Iterator[Tensor]
    columns: int | None
    labels: LabelFunction | None = None


def make_samples(config: Config, loaded: LoadedGenerator, *, num_is_typed: bool, device: torch.device) -> Samples:
    """Make the samples that the options of task=sample describe.

    Args:
        num_is_typed: whether the user set `num`; otherwise it is changed where it does not fit the other options.

    Raises:
        ConfigError: an option does not fit the generator, or another option.
    """
    check_styles(config, loaded.G)
    classes = chosen_classes(config.labels, loaded)
    if config.interpolate is None and config.mix_from is None:
        return independent_samples(config, loaded, classes, num_is_typed, device)
    return samples_of_styles(config, loaded, classes, num_is_typed, device)


def independent_samples(
    config: Config, loaded: LoadedGenerator, classes: list[int] | None, num_is_typed: bool, device: torch.device
) -> Samples:
    """Draw samples, each from its own latent."""
    num, key = config.num, (config.seed, "sample")
    if classes is not None and num % len(classes):
        if num_is_typed:
            raise ConfigError(
                f"num={num}: must be a multiple of {len(classes)}, because each class of labels={config.labels} has a "
                f"row; for example num={8 * len(classes)}."
            )
        num = 8 * len(classes)
    labels = labels_for(loaded, classes, num, key)
    G = loaded.G if config.truncation is None else Truncated(loaded.G, config.truncation)
    blocks = sample_blocks(G, loaded.latent, num, device=device, key=key, labels=labels)
    # A row for each class; a grid of a single class is square, as one of random classes.
    columns = num // len(classes) if classes is not None and len(classes) > 1 else None
    return Samples(num, blocks, columns, None if classes is None else labels)


def samples_of_styles(
    config: Config, loaded: LoadedGenerator, classes: list[int] | None, num_is_typed: bool, device: torch.device
) -> Samples:
    """Make samples on lines between the styles of others, or with the styles of two others.

    Raises:
        ConfigError: `num` does not fit.
    """
    G = Truncated(loaded.G, 1.0 if config.truncation is None else config.truncation)
    num, length, key = config.num, config.interpolate, (config.seed, "sample")

    def sources(n: int) -> Tensor:
        require_memory("num", n, [(loaded.latent.z_dim,)], device, kept="latents")
        labels = labels_for(loaded, classes, n, key)
        return draw_styles(G, loaded.latent, n, device=device, key=key, labels=labels)

    if length is not None:
        if num % length and num_is_typed:
            raise ConfigError(
                f"num={num}: must be a multiple of interpolate={length}, the number of samples on a line; for example "
                f"num={8 * length}."
            )
        fewest = 1 if classes is None else len(classes) - 1
        if num // length < fewest and num_is_typed:
            raise ConfigError(
                f"num={num}: {num // length} lines cannot reach all classes of labels={config.labels}; set "
                f"num={fewest * length} or more."
            )
        lines = num // length if num % length == 0 and num // length >= fewest else max(8, fewest)
        return Samples(lines * length, interpolated_blocks(G, sources(lines + 1), length), length)
    assert config.mix_from is not None
    columns = num_columns(num)
    if num % columns:
        raise ConfigError(f"num={num}: a grid for mix_from needs equal rows; for example num={columns**2}.")
    rows = num // columns
    return Samples(num, iter([mixing_grid(G, sources(rows + columns), rows, config.mix_from)]), columns + 1)


def labels_for(
    loaded: LoadedGenerator, classes: list[int] | None, num: int, key: tuple[int | str, ...]
) -> LabelFunction | None:
    """Return the labels of `num` samples: equal parts of the classes, or as in the data; None if there are none."""
    if loaded.class_counts is None:
        return None
    return labels_like_data(loaded.class_counts, key) if classes is None else labels_by_row(classes, num)


def check_styles(config: Config, G: nn.Module) -> None:
    """Check the options for generators with styles.

    Raises:
        ConfigError: the generator has no styles, or an option is out of its range or does not fit another one.
    """
    options = {name: getattr(config, name) for name in ("truncation", "interpolate", "mix_from")}
    for name, value in options.items():
        if value is not None and not has_styles(G):
            raise ConfigError(
                f"{name}={value}: the generator of this run has no styles; leave it out, or sample a run of a model "
                "with styles, for example model=stylegan2."
            )
    if config.truncation is not None and not 0 <= config.truncation < float("inf"):
        raise ConfigError(f"truncation={config.truncation}: must be a number of at least 0 (0.7 is usual).")
    if config.interpolate is not None:
        check_at_least(config, "interpolate", 2)
        if config.mix_from is not None:
            raise ConfigError(
                f"mix_from={config.mix_from}: cannot be combined with interpolate={config.interpolate}; leave one out."
            )
    if config.mix_from is not None:
        last = int(getattr(G, "num_styles", 2)) - 1
        if not 1 <= config.mix_from <= last:
            raise ConfigError(f"mix_from={config.mix_from}: must be a layer from 1 to {last}, for example {last // 2}.")
        if not str(config.output).endswith(".png"):
            raise ConfigError(f"output={config.output}: mix_from makes a grid; set output=x.png, or leave it out.")


def chosen_classes(labels: Any, loaded: LoadedGenerator) -> list[int] | None:
    """Return the classes that the option `labels` names; None if it is not set.

    Raises:
        ConfigError: the generator is unconditional, or a class does not exist.
    """
    if labels is None:
        return None
    if loaded.class_counts is None:
        raise ConfigError(f"labels={labels}: the generator of this run is unconditional; leave labels out.")
    num_classes = len(loaded.class_counts)
    if labels == "all":
        return list(range(num_classes))
    classes = labels if isinstance(labels, list) else [labels]
    is_known = [isinstance(c, int) and not isinstance(c, bool) and 0 <= c < num_classes for c in classes]
    if not classes or not all(is_known):
        raise ConfigError(
            f"labels={labels}: must be all, or a list of classes from 0 to {num_classes - 1}, for example "
            f"labels=[{min(3, num_classes - 1)}]."
        )
    return classes
