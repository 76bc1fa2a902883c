"""features=auto takes what the dataset names; every option, and the user's own module, can be chosen."""

from pathlib import Path

import pytest
import torch
import yaml
from composing import composed

from gantrain.assemble import build_evaluator, build_metrics
from gantrain.command import trust
from gantrain.config import CONF
from gantrain.datasets.base import ImageDataset
from gantrain.datasets.digits import digits
from gantrain.datasets.toys import gaussian
from gantrain.engine.distributed import SINGLE_PROCESS
from gantrain.errors import ConfigError
from gantrain.evaluation.evaluator import Evaluator
from gantrain.evaluation.features.base import Extractor
from gantrain.evaluation.features.choice import choose_extractor
from gantrain.evaluation.features.digits import Digits
from gantrain.evaluation.features.dinov2 import DINOv2
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


def evaluator(*typed: str, data: ImageDataset | None = None) -> Evaluator:
    config = composed(*typed)
    metrics = build_metrics(config.metric)
    return build_evaluator(config, metrics, data or dataset(), torch.device("cpu"), SINGLE_PROCESS)


def test_the_extractor_of_a_metric_takes_the_settings_of_the_group_if_that_names_it() -> None:
    typed = ("metric=[fd_dinov2,kid]", "features=dinov2", "features.weights=mine.pth", "features.download=false")
    made = evaluator(*typed)
    assert set(made.extractors) == {"dinov2", "features"}
    for extractor in made.extractors.values():
        assert isinstance(extractor, DINOv2)
        assert (extractor.weights, extractor.download) == ("mine.pth", False)
    with pytest.raises(ConfigError, match=r"features.weights=mine.pth: there is no such file"):
        made.check(conditional=False)
    other = evaluator("metric=[fd_dinov2]", "features=inception", "features.weights=mine.pth").extractors["dinov2"]
    assert isinstance(other, DINOv2)
    assert other.weights is None


def test_scores_of_another_network_than_the_published_one_have_its_name() -> None:
    made = evaluator("metric=[fd_dinov2]", "features=dinov2", "features.architecture=vit_small_patch14_dinov2.lvd142m")
    assert set(made.better) == {"fd_dinov2_vit_small_patch14_dinov2.lvd142m"}
    assert set(evaluator("metric=[fd_dinov2]").better) == {"fd_dinov2"}


def test_modes_of_stacked_mnist_have_their_own_names() -> None:
    made = evaluator("metric=[stacked_modes]", data=dataset("stacked_digits"))
    assert set(made.better) == {"modes", "modes_5_hits", "kl_uniform"}


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("class_accuracy", r"the classes of the features \(10\) are not those of the data \(3\); choose features"),
        ("stacked_modes", r"it needs 10 logits for each of 3 channels, but the features have 10; use it with"),
        (
            "intra_class_fid",
            r"num_real=100, about 0\.2 images of class 2 are compared, but at least 20 should be",
        ),
    ],
)
def test_metrics_that_do_not_fit_the_features_or_the_classes_are_refused(metric: str, message: str) -> None:
    labels = torch.arange(1000) % 2
    labels[:2] = 2
    data = ImageDataset("mine", torch.zeros(1000, 1, 28, 28, dtype=torch.uint8), labels, 3, "f", features="digits")
    with pytest.raises(ConfigError, match=rf"metric=\[{metric}\]: .*{message}"):
        evaluator(f"metric=[{metric}]", f"metric.{metric}.num_real=100", data=data).check(conditional=True)
