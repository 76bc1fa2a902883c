"""features=auto takes what the dataset names; every option, and the user's own module, can be chosen."""

from pathlib import Path

import pytest
import torch
import yaml
from composing import composed

from gantrain.command import trust
from gantrain.config import CONF
from gantrain.datasets.base import ImageDataset
from gantrain.datasets.digits import digits
from gantrain.datasets.toys import gaussian
from gantrain.errors import ConfigError
from gantrain.evaluation.features.base import Extractor
from gantrain.evaluation.features.choice import choose_extractor
from gantrain.evaluation.features.digits import Digits
from gantrain.evaluation.features.inception import Inception
from gantrain.evaluation.features.stacked_digits import StackedDigits

OPTIONS = sorted(path.stem for path in (CONF / "features").glob("*.yaml"))


def dataset(features: str = "inception") -> ImageDataset:
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    return ImageDataset("mine", images, None, None, "fingerprint", features=features)


@pytest.mark.parametrize("option", sorted({*OPTIONS} - {"auto"}))
def test_every_option_makes_an_extractor_of_its_name(option: str) -> None:
    made = choose_extractor(composed(f"features={option}").features, dataset())
    assert isinstance(made, Extractor)
    assert made.name == option


def test_auto_is_the_default_and_takes_what_the_dataset_names() -> None:
    node = composed().features
    assert node["_target_"].endswith("auto.Auto")
    for some in (node, {}):  # a run of an older version has saved no features
        assert isinstance(choose_extractor(some, digits(image_size=None)), Digits)
        assert isinstance(choose_extractor(some, dataset("stacked_digits")), StackedDigits)
        inception = choose_extractor(some, dataset())
        assert isinstance(inception, Inception)
        assert inception.expected == yaml.safe_load((CONF / "features/inception.yaml").read_text())["sha256"]
        assert inception.weights is None


def test_auto_passes_the_weights_on() -> None:
    node = composed("features.weights=mine.pth").features
    made = choose_extractor(node, dataset())
    assert isinstance(made, Inception)
    assert made.weights == "mine.pth"
    with pytest.raises(ConfigError, match=r"features\.weights is not an option of Digits"):
        choose_extractor(node, digits(image_size=None))


def test_vectors_and_unknown_features_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"dataset=gaussian has vectors.*moments, modes and wasserstein"):
        choose_extractor(composed().features, gaussian(mean=0.0, std=1.0))
    with pytest.raises(ConfigError, match=r"features=audio, which the dataset names, is none of auto, digits"):
        choose_extractor(composed().features, dataset("audio"))


OWN = """
from gantrain.evaluation.features.base import Extracted

class Means:
    name, resizer, sha256, precision = "means", "none", None, "float32"

    def __init__(self, *, scale: float):
        self.scale, self.versions = scale, {}

    def check(self, image_shape):
        pass

    def load(self, device):
        pass

    def __call__(self, images):
        return Extracted(images.float().mean((2, 3)) * self.scale)
"""


def test_a_module_of_the_users_own_is_used_if_it_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_features.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    node = {"_target_": "own_features.Means", "scale": 2.0}
    with pytest.raises(ConfigError, match=r"trust=\[own_features\]"):
        choose_extractor(node, dataset())
    monkeypatch.setattr(trust, "trusted", ["own_features"])
    made = choose_extractor(node, dataset())
    features = made(torch.full((2, 3, 4, 4), 7, dtype=torch.uint8)).features
    torch.testing.assert_close(features, torch.full((2, 3), 14.0))


def test_an_object_that_is_no_extractor_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be used as features"):
        choose_extractor({"_target_": "gantrain.evaluation.features.digits.DigitsNetwork"}, dataset())
