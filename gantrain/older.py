"""Configs that older versions of gantrain saved."""

from collections.abc import Mapping
from typing import Any

NEW_DATASET_OPTIONS: dict[str, dict[str, Any]] = {"image_folder": {"labels": "auto"}, "celeba": {"attributes": None}}
"""Options of datasets that older versions did not have, by the name of the dataset's function."""

NEW_NETWORK_OPTIONS: dict[str, dict[str, Any]] = {
    f"gantrain.models.{module}.{player}": {"num_bf16_stages": 4}
    for module in ("r3gan", "conditional_r3gan")
    for player in ("Generator", "Discriminator")
}
"""Options of networks that older versions did not have, by the network's class."""


def with_part_options(saved: dict[str, Any], now: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Add to a saved config the options of its dataset and networks that the version that saved it did not have.

    Args:
        now: the config with which the run is resumed. Its values are added, so that they are no change: whether the
            labels are the same is found by comparing the data, and precision may change, as in `runtime`.
    """
    now = now or {}
    filled = dict(saved)
    if isinstance(dataset := saved.get("dataset"), dict):
        filled["dataset"] = filled_in(dataset, now.get("dataset"))
    if isinstance(model := saved.get("model"), dict):
        of_now = now.get("model")
        of_now = of_now if isinstance(of_now, dict) else {}
        networks = {name: node for name, node in model.items() if isinstance(node, dict)}
        filled["model"] = model | {name: filled_in(node, of_now.get(name)) for name, node in networks.items()}
    return filled


def filled_in(node: dict[str, Any], now: object) -> dict[str, Any]:
    """Return the saved config of a part with the options that it lacks: with their values of now, or the usual ones."""
    added = missing_options(node)
    if isinstance(now, dict):
        added |= {name: now[name] for name in added if name in now}
    return added | node


def missing_options(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that the saved config of a dataset or a network lacks, with their usual values."""
    target = str(node.get("_target_"))
    options = NEW_DATASET_OPTIONS.get(target.rpartition(".")[2], {}) | NEW_NETWORK_OPTIONS.get(target, {})
    return {name: value for name, value in options.items() if name not in node}


def remedy_for_labels(saved: Mapping[str, Any]) -> str:
    """Return how to get the labels of the version that saved a config, if it took others than this one; else ""."""
    dataset = saved.get("dataset")
    if not isinstance(dataset, dict) or "labels" not in missing_options(dataset):
        return ""
    return (
        " The version that started the run knew no other classes than the first-level folders: try "
        "dataset.labels=folders, or dataset.labels=none if there are none."
    )
