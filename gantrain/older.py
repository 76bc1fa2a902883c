"""Configs that older versions of gantrain saved."""

from collections.abc import Mapping
from typing import Any

NEW_DATASET_OPTIONS: dict[str, dict[str, Any]] = {"image_folder": {"labels": "auto"}, "celeba": {"attributes": None}}
"""Options of datasets that older versions did not have, by the name of the dataset's function."""


def with_dataset_options(saved: dict[str, Any], now: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Add to a saved config the options of its dataset that did not exist in the version that saved it.

    Args:
        now: the config with which the run is resumed. Its values are added, so that they are no change: whether the
            labels are the same is found by comparing the data.
    """
    dataset = saved.get("dataset")
    if not isinstance(dataset, dict):
        return saved
    added = missing_options(dataset)
    if now is not None and isinstance(now.get("dataset"), dict):
        added |= {name: now["dataset"][name] for name in added if name in now["dataset"]}
    return saved | {"dataset": added | dataset}


def missing_options(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that the saved config of a dataset lacks, with their usual values."""
    options = NEW_DATASET_OPTIONS.get(str(dataset.get("_target_")).rpartition(".")[2], {})
    return {name: value for name, value in options.items() if name not in dataset}


def remedy_for_labels(saved: Mapping[str, Any]) -> str:
    """Return how to get the labels of the version that saved a config, if it took others than this one; else ""."""
    dataset = saved.get("dataset")
    if not isinstance(dataset, dict) or "labels" not in missing_options(dataset):
        return ""
    return (
        " The version that started the run knew no other classes than the first-level folders: try "
        "dataset.labels=folders, or dataset.labels=none if there are none."
    )
