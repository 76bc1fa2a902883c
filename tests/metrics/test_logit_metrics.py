"""Inception score, class accuracy, modes of stacked MNIST."""

import math
import re
from itertools import product
from pathlib import Path

import pytest
import torch
from oracles import load, oracle_files
from torch import Tensor
from torch_fidelity.metric_isc import isc_features_to_metric

from gantrain.metrics.base import Statistics
from gantrain.metrics.class_accuracy import ClassAccuracy
from gantrain.metrics.inception_score import InceptionScore
from gantrain.metrics.stacked_modes import StackedModes

NOTHING = Statistics(0)


def score(logits: Tensor, *, splits: int, shuffle_seed: int | None = None) -> tuple[float, float]:
    metric = InceptionScore(num_samples=len(logits), num_real=None, splits=splits, shuffle_seed=shuffle_seed)
    found = metric.compute(Statistics(len(logits), logits=logits), NOTHING)
    return found["inception_score"], found["inception_score_std"]


@pytest.mark.parametrize("path", oracle_files("metrics_inception_score*.npz"), ids=lambda path: path.stem)
def test_inception_scores_match_the_golden_ones(path: Path) -> None:
    golden = load(path)
    names = [match for name in golden if (match := re.fullmatch(r"(out\.inception_score)_mean_splits(\d+)_(.*)", name))]
    assert names
    for name in names:
        expected = [golden[f"{name[1]}_{which}_splits{name[2]}_{name[3]}"].item() for which in ("mean", "std")]
        seed = None if name[3] == "no_shuffle" else 2020
        found = score(golden["in.logits"], splits=int(name[2]), shuffle_seed=seed)
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("seed", [0, 2020])
def test_inception_score_matches_torch_fidelity(seed: int) -> None:
    logits = 3 * torch.randn(101, 7, generator=torch.Generator().manual_seed(0))
    theirs = isc_features_to_metric(logits, splits=4, shuffle=True, rng_seed=seed)
    expected = theirs["inception_score_mean"], theirs["inception_score_std"]
    assert score(logits, splits=4, shuffle_seed=seed) == pytest.approx(expected, rel=1e-9)


def test_inception_score_of_certain_and_uncertain_predictions() -> None:
    certain = 1e4 * torch.eye(5).repeat(4, 1)
    assert score(certain, splits=2) == pytest.approx((5, 0))
    assert score(torch.zeros(20, 5), splits=2) == pytest.approx((1, 0))
    assert score(certain[:1].repeat(9, 1), splits=1) == pytest.approx((1, 0))


def test_inception_score_needs_logits_and_an_image_for_each_split() -> None:
    metric = InceptionScore(num_samples=10, num_real=None, splits=10, shuffle_seed=None)
    with pytest.raises(ValueError, match=r"no class logits.*features=inception"):
        metric.compute(Statistics(10, features=torch.zeros(10, 2)), NOTHING)
    with pytest.raises(ValueError, match=r"there are 9 generated images.*at least 10"):
        metric.compute(Statistics(9, logits=torch.zeros(9, 2)), NOTHING)
    with pytest.raises(ValueError, match="num_samples=9: must be at least 10"):
        InceptionScore(num_samples=9, num_real=None, splits=10, shuffle_seed=None)


def test_class_accuracy() -> None:
    metric, logits = ClassAccuracy(num_samples=4, num_real=None), torch.eye(4)
    fake = Statistics(4, logits=logits, labels=torch.tensor([0, 1, 1, 3]))
    assert metric.compute(fake, NOTHING) == {"class_accuracy": 0.75}
    with pytest.raises(ValueError, match=r"no labels.*class-conditional"):
        metric.compute(Statistics(4, logits=logits), NOTHING)
    with pytest.raises(ValueError, match=r"images of class 7.*only 4 classes"):
        metric.compute(Statistics(4, logits=logits, labels=torch.tensor([0, 1, 7, 3])), NOTHING)
    with pytest.raises(ValueError, match="no class logits"):
        metric.compute(Statistics(4, labels=torch.tensor([0])), NOTHING)


def stacked(digits: Tensor) -> dict[str, float]:
    """Measure images whose channels show these digits [n, 3]; the logits are noisy."""
    noise = torch.rand(len(digits), 3, 10, generator=torch.Generator().manual_seed(0))
    logits = (noise + 2 * torch.nn.functional.one_hot(digits, 10)).flatten(1)
    metric = StackedModes(num_samples=len(digits), num_real=None)
    return metric.compute(Statistics(len(digits), logits=logits), NOTHING)


def test_stacked_modes_of_known_triples() -> None:
    every = torch.tensor(list(product(range(10), repeat=3)))
    assert stacked(every) == {"modes": 1000, "modes_5_hits": 0, "kl_uniform": pytest.approx(0, abs=1e-12)}
    assert stacked(every.repeat(5, 1)) == {
        "modes": 1000,
        "modes_5_hits": 1000,
        "kl_uniform": pytest.approx(0, abs=1e-12),
    }
    assert stacked(every[123:124].repeat(4, 1)) == {
        "modes": 1,
        "modes_5_hits": 0,
        "kl_uniform": pytest.approx(math.log(1000)),
    }
    # Half of the modes: KL = log 2. The order of the channels counts.
    half = stacked(every[:500].repeat(5, 1))
    assert half == {"modes": 500, "modes_5_hits": 500, "kl_uniform": pytest.approx(math.log(2))}
    assert stacked(torch.tensor([[1, 2, 3], [3, 2, 1], [1, 2, 3]]))["modes"] == 2


@pytest.mark.parametrize(("num", "modes", "kl"), [(26_000, 1000, 0.0189), (10_000, 999.9, 0.0515), (2600, 924, 0.213)])
def test_stacked_modes_of_a_perfect_generator(num: int, modes: float, kl: float) -> None:
    found = stacked(torch.randint(10, (num, 3), generator=torch.Generator().manual_seed(0)))
    assert found["modes"] == pytest.approx(modes, rel=0.02)
    assert found["kl_uniform"] == pytest.approx(kl, rel=0.1)


def test_logits_of_one_channel_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"the features have 10; use it with dataset=stacked_mnist"):
        StackedModes(num_samples=5, num_real=None).compute(Statistics(5, logits=torch.zeros(5, 10)), NOTHING)
