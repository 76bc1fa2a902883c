"""Choose and make the feature extractor of a dataset."""

from typing import Any, cast

from omegaconf import OmegaConf

from gantrain.config import CONF, Node
from gantrain.datasets.base import Dataset, ImageDataset
from gantrain.errors import ConfigError
from gantrain.evaluation.features.auto import Auto
from gantrain.evaluation.features.base import Extractor
from gantrain.instantiate import make


def choose_extractor(node: Node, dataset: Dataset) -> Extractor:
    """Make the extractor that the config names, or, for features=auto, the one that the dataset names.

    Its weights are not loaded yet, and nothing is checked; see `Extractor.check`.

    Args:
        node: the group `features` of the config; an empty one, of a run saved before there was this group, is auto.

    Raises:
        ConfigError: the extractor cannot be made, or the dataset has no images.
    """
    if not isinstance(dataset, ImageDataset):
        raise ConfigError(
            f"dataset={dataset.name} has vectors, but this metric needs images; the metrics for vectors are moments, "
            "modes and wasserstein."
        )
    made = make("features", node or load_option("auto"), (Auto, Extractor))
    if isinstance(made, Auto):
        chosen = load_option(dataset.features)
        if made.weights is not None:
            chosen |= {"weights": made.weights}
        made = make("features", chosen, Extractor)
    return cast(Extractor, made)


def load_option(name: str) -> Node:
    """Read an option of the group `features` that is shipped with gantrain.

    Raises:
        ConfigError: there is no such option.
    """
    path = CONF / "features" / f"{name}.yaml"
    if not path.is_file():
        options = ", ".join(sorted(path.stem for path in path.parent.glob("*.yaml")))
        raise ConfigError(f"features={name}, which the dataset names, is none of {options}; choose one by features=...")
    node: Any = OmegaConf.to_container(OmegaConf.load(path))
    return cast(Node, node)
