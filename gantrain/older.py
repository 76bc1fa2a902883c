"""Configs that older versions of gantrain saved."""

from typing import Any

NEW_DATASET_OPTIONS: dict[str, dict[str, Any]] = {"image_folder": {"labels": "auto"}, "celeba": {"attributes": None}}
"""Options of datasets that older versions did not have, by the name of the dataset's function."""


def with_dataset_options(saved: dict[str, Any]) -> dict[str, Any]:
    """Add to a saved config the options of its dataset that did not exist in the version that saved it."""
    dataset = saved.get("dataset")
    if not isinstance(dataset, dict):
        return saved
    added = NEW_DATASET_OPTIONS.get(str(dataset.get("_target_")).rpartition(".")[2], {})
    return saved | {"dataset": added | dataset}
