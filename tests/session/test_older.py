"""Configs that older versions saved are read as these versions meant them."""

from copy import deepcopy

import pytest
from composing import composed

from gantrain.config import from_saved, to_dict
from gantrain.errors import ConfigError
from gantrain.session.saved import check_same


@pytest.mark.parametrize(("dataset", "option"), [("image_folder", "labels"), ("celeba", "attributes")])
def test_new_options_of_a_dataset_do_not_prevent_resuming_or_evaluating(dataset: str, option: str) -> None:
    config = composed(f"dataset={dataset}", "dataset.root=photos")
    saved = deepcopy(to_dict(config))
    del saved["dataset"][option]
    assert check_same(saved, config) == {}
    assert from_saved(saved).dataset == config.dataset


def test_a_new_option_with_another_value_is_a_change() -> None:
    config = composed("dataset=image_folder", "dataset.root=photos", "dataset.labels=none")
    saved = deepcopy(to_dict(config))
    del saved["dataset"]["labels"]
    with pytest.raises(ConfigError, match=r"(?s)- dataset\.labels: auto.*\+ dataset\.labels: none"):
        check_same(saved, config)
