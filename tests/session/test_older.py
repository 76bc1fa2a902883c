"""Configs that older versions saved are read as these versions meant them."""

from copy import deepcopy

import pytest
from composing import composed

from gantrain.config import from_saved, to_dict
from gantrain.errors import ConfigError
from gantrain.older import remedy_for_labels
from gantrain.session.saved import check_same


@pytest.mark.parametrize(("dataset", "option"), [("image_folder", "labels"), ("celeba", "attributes")])
def test_new_options_of_a_dataset_do_not_prevent_resuming_or_evaluating(dataset: str, option: str) -> None:
    config = composed(f"dataset={dataset}", "dataset.root=photos")
    saved = deepcopy(to_dict(config))
    del saved["dataset"][option]
    assert check_same(saved, config) == {}
    assert from_saved(saved).dataset == config.dataset


def test_a_run_with_ada_from_before_its_filter_can_be_resumed() -> None:
    config = composed("augment=[ada]")
    saved = deepcopy(to_dict(config))
    for options in ("operations", "ranges"):
        del saved["augment"]["ada"][options]["filter"]
    assert check_same(saved, config) == {}
    with pytest.raises(ConfigError, match=r"(?s)operations\.filter: 0\.0.*operations\.filter: 1\.0.*allow_change"):
        check_same(saved, composed("augment=[ada]", "augment.ada.operations.filter=1.0"))
    own = deepcopy(config)  # a config file of one's own, copied before there was a filter
    for options in ("operations", "ranges"):
        del own.augment["ada"][options]["filter"]
    assert check_same(saved, own) == {}


@pytest.mark.parametrize("network", ["r3gan", "r3gan_cond"])
def test_new_options_of_networks_do_not_prevent_resuming_or_evaluating(network: str) -> None:
    """How many stages run in bf16 is no change for a run that could not say it, as for `runtime`."""
    config = composed("model=r3gan", f"network={network}")
    saved = deepcopy(to_dict(config))
    for node in saved["model"].values():
        del node["num_bf16_stages"]
    assert check_same(saved, config) == {}
    assert from_saved(saved).model == config.model
    other = composed("model=r3gan", f"network={network}", "model.generator.num_bf16_stages=2")
    assert check_same(saved, other) == {}
    with pytest.raises(ConfigError, match=r"(?s)- model\.generator\.num_bf16_stages: 4.*num_bf16_stages: 2"):
        check_same(to_dict(config), other)


def test_where_an_older_run_found_its_labels_is_no_change_of_the_config_but_of_the_data() -> None:
    config = composed("dataset=image_folder", "dataset.root=photos", "dataset.labels=none")
    saved = deepcopy(to_dict(config))
    with pytest.raises(ConfigError, match=r"(?s)- dataset\.labels: folders.*\+ dataset\.labels: none"):
        check_same(saved | {"dataset": saved["dataset"] | {"labels": "folders"}}, config)
    assert remedy_for_labels(saved) == ""
    del saved["dataset"]["labels"]
    assert check_same(saved, config) == {}
    assert "dataset.labels=folders" in remedy_for_labels(saved)


def test_a_setting_that_has_changed_since_is_kept_by_typing_it() -> None:
    """gamma follows the image size now; earlier, it was that of 32 px."""
    typed = ("model=r3gan", "dataset=celeba")
    earlier = composed(*typed, "regularizer.r1.gamma=0.05", "regularizer.r2.gamma=0.05")
    with pytest.raises(ConfigError, match=r"by typing them, as in regularizer\.r1\.gamma=0\.05, choose another"):
        check_same(to_dict(earlier), composed(*typed))
    without = composed("model=dcgan", "ema_halflife_images=null")
    with pytest.raises(ConfigError, match="by typing them, choose another run_dir"):
        check_same(to_dict(without), composed("model=dcgan", "ema_halflife_images=500"))
