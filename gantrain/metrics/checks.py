"""Checks of the options of metrics, and of the statistics that they get; each error names the remedy."""

from typing import Literal

from jaxtyping import Float, Int64
from torch import Tensor

from gantrain.metrics.base import Statistics

Kind = Literal["generated", "real"]


def check_at_least(minimum: int, **options: int | None) -> None:
    """Raise an error if an option is below the minimum; None, which means all images, passes.

    Raises:
        ValueError: names the option.
    """
    for name, value in options.items():
        if value is not None and value < minimum:
            raise ValueError(f"{name}={value}: must be at least {minimum}; leave it out for the usual value.")


def features_of(images: Statistics, kind: Kind, at_least: int) -> Float[Tensor, "n d"]:
    """Return the features of the images.

    Raises:
        ValueError: there are none, or they are of fewer than `at_least` images.
    """
    if images.features is None:
        raise ValueError(f"the {kind} images have no features; list 'features' in the metric's `needs`.")
    return _enough(images.features, kind, at_least)


def logits_of(images: Statistics, kind: Kind, at_least: int) -> Float[Tensor, "n classes"]:
    """Return the class logits of the images.

    Raises:
        ValueError: there are none, or they are of fewer than `at_least` images.
    """
    if images.logits is None:
        raise ValueError(
            f"the {kind} images have no class logits, because the extractor is no classifier; choose one that is, such "
            "as features=inception, or remove the metric from metric=[...]."
        )
    return _enough(images.logits, kind, at_least)


def labels_of(images: Statistics, kind: Kind) -> Int64[Tensor, " n"]:
    """Return the labels of the images.

    Raises:
        ValueError: there are none.
    """
    if images.labels is None:
        raise ValueError(
            f"the {kind} images have no labels; choose labelled data and a class-conditional network such as "
            "network=cdcgan, or remove the metric from metric=[...]."
        )
    return images.labels


def _enough(values: Tensor, kind: Kind, at_least: int) -> Tensor:
    if len(values) < at_least:
        option = {"generated": "num_samples", "real": "num_real"}[kind]
        raise ValueError(
            f"there are {len(values)} {kind} images, but the metric with these options needs at least {at_least}; "
            f"raise {option} if there are more, or lower the metric's own options."
        )
    return values
