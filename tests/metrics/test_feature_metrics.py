"""Properties of all metrics of images; new config files are found automatically."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from composing import composed

from gantrain.assemble import build_metrics
from gantrain.config import CONF
from gantrain.errors import ConfigError
from gantrain.evaluation.features.pyramid import DESCRIPTOR, PATCHES
from gantrain.metrics.base import FeatureMetric, Metric, Statistics

NAMES = sorted(path.stem for path in CONF.glob("metric/*.yaml"))
SMALL = {"num_samples": 30, "num_real": 40, "subset_size": 20, "num_subsets": 3, "num_directions": 8}
NUM_IMAGES, NUM_CLASSES = 40, 3


def small(name: str) -> Any:
    """Make a metric of few images."""
    node = deepcopy(composed(f"metric=[{name}]").metric)
    node[name] = {key: SMALL.get(key, value) for key, value in node[name].items()}
    return build_metrics(node)[name]


FEATURE_METRICS = [name for name in NAMES if isinstance(small(name), FeatureMetric)]


def statistics(metric: FeatureMetric, seed: int) -> Statistics:
    generator = torch.Generator().manual_seed(seed)
    d = PATCHES * DESCRIPTOR if metric.extractor == "pyramid" else 8
    x = torch.randn(NUM_IMAGES, d, generator=generator)
    return Statistics(
        NUM_IMAGES,
        mean=x.double().mean(0),
        covariance=torch.cov(x.double().T),
        features=x,
        logits=torch.randn(NUM_IMAGES, 30, generator=generator),
        labels=torch.arange(NUM_IMAGES) % NUM_CLASSES,
    )


def only(images: Statistics, needs: frozenset[str]) -> Statistics:
    """Leave out what the metric says that it does not need."""
    names = {*needs, *(("mean", "covariance") if "moments" in needs else ())}
    return Statistics(images.num, **{name: getattr(images, name) for name in names - {"moments"}})


def test_every_option_is_one_of_the_two_kinds_of_metric() -> None:
    made = build_metrics(composed(f"metric=[{','.join(NAMES)}]").metric)
    assert list(made) == NAMES
    assert all(isinstance(metric, Metric) != isinstance(metric, FeatureMetric) for metric in made.values())
    assert len(FEATURE_METRICS) >= 12


@pytest.mark.parametrize("name", FEATURE_METRICS)
def test_scores_are_finite_reproducible_and_have_a_direction(name: str) -> None:
    metric = small(name)
    fake, real = (only(statistics(metric, seed), metric.needs) for seed in (0, 1))
    scores = metric.compute(fake, real)
    assert all(isinstance(value, float) and abs(value) < float("inf") for value in scores.values())
    assert metric.better.keys() <= scores.keys()
    assert metric.compute(fake, real) == scores
    assert metric.compute(real, fake).keys() == scores.keys()


@pytest.mark.parametrize("name", FEATURE_METRICS)
def test_float64_features_give_the_same_scores(name: str) -> None:
    metric = small(name)
    fake, real = statistics(metric, 0), statistics(metric, 1)
    assert fake.features is not None
    assert fake.logits is not None
    same = Statistics(fake.num, fake.mean, fake.covariance, fake.features.double(), fake.logits.double(), fake.labels)
    assert metric.compute(same, real) == pytest.approx(metric.compute(fake, real), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("name", FEATURE_METRICS)
def test_options_are_those_that_change_the_scores(name: str) -> None:
    metric, node = small(name), composed(f"metric=[{name}]").metric[name]
    assert set(metric.options()) == set(node) - {"_target_", "num_samples", "num_real"}
    assert metric.num_samples <= 40


@pytest.mark.parametrize("name", FEATURE_METRICS)
def test_too_few_images_are_an_error_that_names_the_option(name: str) -> None:
    node = deepcopy(composed(f"metric=[{name}]").metric)
    node[name]["num_samples"] = 0
    with pytest.raises(ConfigError, match=rf"metric\.{name}: num_samples=0: must be at least \d"):
        build_metrics(node)
