import math
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from composing import composed
from torch import Tensor

from gantrain.assemble import build_dataset
from gantrain.datasets.arrays import in_memory
from gantrain.datasets.base import Dataset, Distribution, ImageDataset
from gantrain.datasets.batches import to_bytes
from gantrain.datasets.toys import gaussian
from gantrain.engine.distributed import SINGLE_PROCESS
from gantrain.errors import ConfigError
from gantrain.evaluation import real
from gantrain.evaluation.evaluator import Evaluator, Score, numbered
from gantrain.evaluation.features.base import Extracted
from gantrain.evaluation.receipts import differ, in_words
from gantrain.evaluation.statistics import Collector, Request
from gantrain.metrics.base import Better, FeatureMetric, Need, Statistics
from gantrain.metrics.class_accuracy import ClassAccuracy
from gantrain.metrics.density_coverage import DensityCoverage
from gantrain.metrics.fid import FID
from gantrain.metrics.frechet import frechet_distance
from gantrain.metrics.intra_class_fid import IntraClassFID
from gantrain.metrics.kid import KID
from gantrain.metrics.modes import Modes
from gantrain.metrics.moments import Moments
from gantrain.metrics.wasserstein import Wasserstein

CPU = torch.device("cpu")


class Means:
    """Features: the mean of each row of pixels. Counts the images that it sees."""

    name, resizer, precision = "means", "none", "float32"

    def __init__(self) -> None:
        self.sha256: str | None = "ab" * 32
        self.versions: dict[str, str] = {"numpy": "2"}
        self.seen = 0

    def check(self, image_shape: tuple[int, ...]) -> None:
        if image_shape[0] != 1:
            raise ConfigError("gray only")

    def load(self, device: torch.device) -> None:
        pass

    def __call__(self, images: Tensor) -> Extracted:
        self.seen += len(images)
        return Extracted(images.float().mean((1, 3)))


def make_data(num: int = 600, seed: int = 0) -> ImageDataset:
    images = np.random.default_rng(seed).integers(0, 256, (num, 1, 6, 6), dtype=np.uint8)
    return in_memory("noise", images, np.arange(num) % 3, num_classes=3)


def make_evaluator(folder: Path | None = None, data: ImageDataset | None = None, **metrics: Any) -> Evaluator:
    made = metrics or {"fid": FID(num_samples=150, num_real=None)}
    extractors = {"features": Means()}
    return Evaluator(made, extractors, data or make_data(), device=CPU, folder=folder, processes=SINGLE_PROCESS)


def generated(num: int = 200) -> Tensor:
    return torch.rand(num, 1, 6, 6, generator=torch.Generator().manual_seed(1)) * 2 - 1


def evaluate(evaluator: Evaluator, samples: Tensor, labels: Any = None) -> dict[str, Score]:
    return evaluator(numbered(samples.split(64), labels, block_size=64), ema=False, seed=3)


def moments(images: Tensor) -> tuple[Tensor, Tensor]:
    features = images.double().mean((1, 3))
    return features.mean(0), torch.cov(features.T)


def test_scores_are_those_of_the_features_of_the_first_samples_and_all_real_images() -> None:
    data, samples = make_data(), generated()
    scores = evaluate(make_evaluator(data=data), samples)
    expected = frechet_distance(*moments(to_bytes(samples[:150])), *moments(data.images))
    assert scores["fid_means"].value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("num_samples", "num_real", "sizes"),
    [(100, None, (100, 500)), (100, 200, (100, 200)), (500, None, (300, 300)), (500, 250, (300, 250))],
)
def test_score_of_real_images_is_that_of_others_in_the_place_of_generated_ones(
    tmp_path: Path, num_samples: int, num_real: int | None, sizes: tuple[int, int]
) -> None:
    seen: list[tuple[Statistics, Statistics]] = []

    class Overlap(FeatureMetric):
        better: ClassVar[dict[str, Better]] = {"overlap": "lower"}
        needs: ClassVar[frozenset[Need]] = frozenset({"moments", "features"})

        def __init__(self) -> None:
            self.num_samples, self.num_real = num_samples, num_real

        def compute(self, fake: Statistics, real: Statistics) -> dict[str, float]:
            seen.append((fake, real))
            assert fake.features is not None
            assert real.features is not None
            return {"overlap": float((fake.features[:, None] == real.features).all(2).sum())}

    # The second evaluator needs another score of real images, but finds the statistics in the cache.
    evaluate(make_evaluator(tmp_path, make_data(), other=FID(num_samples=7, num_real=num_real)), generated(500))
    score = evaluate(make_evaluator(tmp_path, overlap=Overlap()), generated(500))["overlap_means"]
    assert score.real == 0
    assert score.receipt["real_images"] == {"num_generated": sizes[0], "num_real": sizes[1]}
    parts, _ = seen
    assert tuple(part.num for part in parts) == sizes
    for part in parts:
        torch.testing.assert_close(part.mean, part.features.double().mean(0))
        torch.testing.assert_close(part.covariance, torch.cov(part.features.double().T))
    rows = {tuple(row) for part in parts for row in part.features.tolist()}
    assert len(rows) == sum(sizes)
    assert rows <= {tuple(row) for row in make_data().images.float().mean((1, 3)).tolist()}


def test_only_what_is_not_cached_is_measured(tmp_path: Path) -> None:
    """Of 600 images, in blocks of 256: those that take the place of 50 generated ones are the last 50."""
    evaluate(make_evaluator(tmp_path, fid=FID(num_samples=150, num_real=None)), generated())
    again = make_evaluator(tmp_path, fid=FID(num_samples=50, num_real=None))
    scores = evaluate(again, generated())
    assert again.extractors["features"].seen == (600 - 512) + 200  # type: ignore[attr-defined]
    alone = evaluate(make_evaluator(None, fid=FID(num_samples=50, num_real=None)), generated())
    assert scores["fid_means"].real == pytest.approx(alone["fid_means"].real, rel=1e-9)


def test_features_of_an_extractor_without_a_sha256_are_not_cached(tmp_path: Path) -> None:
    """Else those of a network that has changed would be compared with those of the network before."""
    for _ in range(2):
        evaluator = make_evaluator(tmp_path)
        evaluator.extractors["features"].sha256 = None
        evaluate(evaluator, generated())
        assert evaluator.extractors["features"].seen == 600 + 200  # type: ignore[attr-defined]


def test_a_class_with_a_single_image_among_the_stand_ins_leaves_no_score_of_real_images() -> None:
    data = in_memory("few", make_data(400).images.numpy(), np.arange(400) % 2, num_classes=2)
    labels: Callable[[int, int], Tensor] = lambda start, n: torch.arange(start, start + n) % 2  # noqa: E731
    metric = IntraClassFID(num_samples=100, num_real=None)
    assert evaluate(make_evaluator(data=data, it=metric), generated(), labels)["intra_class_fid_means"].real is not None
    order = real.RealImages(data, Means(), device=CPU, folder=None, processes=SINGLE_PROCESS).order
    assert data.labels is not None
    data.labels[order[300:]] = 0
    data.labels[order[:2]] = 1
    found = evaluate(make_evaluator(data=data, it=metric), generated(), labels)["intra_class_fid_means"]
    assert found.real is None


def test_a_subset_of_real_images_is_random_and_always_the_same() -> None:
    data = make_data()
    images = real.RealImages(data, Means(), device=CPU, folder=None, processes=SINGLE_PROCESS)
    blocks = images.blocks([Request(90, frozenset())])
    first = torch.cat([labels for *_, labels in blocks if labels is not None])
    assert torch.bincount(first, minlength=3).min() > 15  # not in the order of the data
    again = real.RealImages(data, Means(), device=CPU, folder=None, processes=SINGLE_PROCESS)
    assert torch.equal(again.order, images.order)
    assert not torch.equal(images.order, torch.arange(600))


def test_statistics_of_real_images_are_cached_by_data_and_protocol(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = {
        "fid": FID(num_samples=150, num_real=None),
        "density_coverage": DensityCoverage(num_samples=100, num_real=100, k=3),
    }
    first = make_evaluator(tmp_path, **metrics)
    scores = evaluate(first, generated())
    assert first.extractors["features"].seen == 600 + 200  # type: ignore[attr-defined]
    again = make_evaluator(tmp_path, **metrics)
    assert evaluate(again, generated()) == scores
    assert again.extractors["features"].seen == 200  # type: ignore[attr-defined]
    other = make_evaluator(tmp_path, make_data(seed=1), **metrics)
    evaluate(other, generated())
    assert other.extractors["features"].seen == 600 + 200  # type: ignore[attr-defined]
    assert not caplog.records
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:50])
    damaged = make_evaluator(tmp_path, **metrics)
    assert evaluate(damaged, generated()) == scores
    assert "cannot be read" in caplog.text


def test_a_cache_that_cannot_be_written_is_only_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    scores = evaluate(make_evaluator(tmp_path / "file"), generated())
    assert "fid_means" in scores
    assert "cannot be written" in caplog.text


def test_receipts_tell_the_protocol() -> None:
    data = make_data()
    score = evaluate(make_evaluator(data=data), generated())["fid_means"]
    versions = score.receipt["versions"]
    assert versions["numpy"] == "2"
    assert versions.keys() >= {"gantrain", "torch"}
    assert {key: value for key, value in score.receipt.items() if key != "versions"} == {
        "score": "fid_means",
        "metric": "fid",
        "features": "means",
        "weights_sha256": "ab" * 32,
        "resizer": "none",
        "precision": "float32",
        "options": {},
        "num_generated": 150,
        "num_real": 600,
        "dataset": "noise",
        "split": "train",
        "fingerprint": data.fingerprint,
        "ema": False,
        "seed": 3,
        "real_images": {"num_generated": 150, "num_real": 450},
    }


def test_labels_reach_the_metrics() -> None:
    class Classes(Means):
        def __call__(self, images: Tensor) -> Extracted:
            return Extracted(super().__call__(images).features, torch.eye(3)[torch.zeros(len(images)).long()])

    evaluator = make_evaluator(class_accuracy=ClassAccuracy(num_samples=200, num_real=None))
    evaluator.extractors["features"] = Classes()
    labels: Callable[[int, int], Tensor] = lambda start, n: torch.arange(start, start + n) % 4 % 3  # noqa: E731
    score = evaluate(evaluator, generated(), labels)["class_accuracy_means"]
    assert score.value == pytest.approx(0.5)
    assert score.real == pytest.approx(1 / 3, abs=0.05)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (
            {"class_accuracy": ClassAccuracy(num_samples=9, num_real=None)},
            "needs samples with labels",
        ),
        ({"fid": FID(num_samples=9, num_real=None)}, "gray only"),
    ],
)
def test_what_does_not_apply_to_the_data_is_refused(metrics: dict[str, Any], message: str) -> None:
    images = np.zeros((9, 1 if "class_accuracy" in metrics else 3, 6, 6), dtype=np.uint8)
    data = ImageDataset("noise", torch.from_numpy(images), labels=None, num_classes=None, fingerprint="f")
    with pytest.raises(ConfigError, match=message):
        make_evaluator(data=data, **metrics).check(conditional=False)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (KID(num_samples=100, num_real=None, subset_size=100, num_subsets=2), None),
        (
            KID(num_samples=200, num_real=None, subset_size=151, num_subsets=2),
            r"metric.it: 150 real images, but .* at least 151; raise metric.it.num_real",
        ),
        (
            DensityCoverage(num_samples=5, num_real=100, k=5),
            r"metric.it: 5 generated images, but .* at least 6; raise metric.it.num_samples",
        ),
    ],
)
def test_too_few_images_are_named_before_the_first_step(metric: FeatureMetric, message: str | None) -> None:
    evaluator = make_evaluator(data=make_data(150), it=metric)
    with nullcontext() if message is None else pytest.raises(ConfigError, match=message):
        evaluator.check(conditional=False)


def test_without_enough_images_for_two_halves_there_is_no_score_of_real_images(tmp_path: Path) -> None:
    metrics = {"kid": KID(num_samples=150, num_real=None, subset_size=100, num_subsets=2)}
    for _ in range(2):  # computed, and then read from the cache
        score = evaluate(make_evaluator(tmp_path, make_data(150), **metrics), generated())["kid_means"]
        assert score.real is None


def evaluate_vectors(data: Distribution, samples: Tensor, **metrics: Any) -> dict[str, Score]:
    return evaluate(Evaluator(metrics, {}, data, device=CPU, folder=None, processes=SINGLE_PROCESS), samples)


def test_scores_of_real_vectors_are_those_of_a_fresh_sample_against_the_distribution() -> None:
    data, metrics = gaussian(mean=3.0, std=2.0), {"w": Wasserstein(num_samples=4000), "m": Moments(num_samples=4000)}
    far, near = (evaluate_vectors(data, torch.full((4000, 1), x), **metrics) for x in (50.0, 3.0))
    for name, score in far.items():
        assert score.real == near[name].real  # always of the same samples, whatever the generated ones are
        assert score.real != score.value
    # In one dimension E[W1] of two samples is about 2 * std * 0.9 / sqrt(n), and the mean's error std / sqrt(n).
    assert 0 < (far["wasserstein"].real or 0) < 5 * 2 / 4000**0.5
    assert 0 < (far["mean_error"].real or 0) < 4 * 2 / 4000**0.5
    assert far["std"].real == pytest.approx(2.0, abs=0.1)
    modes = build_dataset(composed("dataset=gaussians_25").dataset)
    assert isinstance(modes, Distribution)
    scores = evaluate_vectors(modes, torch.zeros(2500, 2), modes=Modes(num_samples=2500, radius_stds=3.0))
    assert scores["modes_covered"].real == 25
    assert scores["high_quality"].real == pytest.approx(1 - math.exp(-9 / 2), abs=0.008)


def test_receipts_of_vectors_have_the_number_of_real_vectors_that_a_metric_uses() -> None:
    data = gaussian(mean=0.0, std=1.0)
    scores = evaluate_vectors(
        data, torch.zeros(50, 1), wasserstein=Wasserstein(num_samples=40), moments=Moments(num_samples=50)
    )
    assert (scores["wasserstein"].receipt["num_generated"], scores["wasserstein"].receipt["num_real"]) == (40, 40)
    assert scores["mean_error"].receipt["num_real"] is None  # compared with the closed form
    assert in_words(scores["wasserstein"].receipt) == "40 generated against 40 real (train), current weights"


def test_a_metric_of_the_user_needs_no_more_than_the_interface() -> None:
    class Largest:
        better: ClassVar[dict[str, Better]] = {}
        num_samples = 20

        def check(self, real: Dataset) -> None:
            pass

        def __call__(self, sample: Callable[[int], Tensor], real: Dataset) -> dict[str, Any]:
            return {"largest": sample(20).max()}

    (score,) = evaluate_vectors(gaussian(mean=3.0, std=0.01), torch.full((20, 1), 7.0), own=Largest()).values()
    assert (score.value, score.real) == (7.0, pytest.approx(3.0, abs=0.1))
    assert type(score.real) is float
    (score,) = evaluate(make_evaluator(own=Largest()), torch.full((20, 1, 6, 6), 0.5)).values()
    assert (score.value, score.real) == (0.5, None)  # of images there is no fresh sample


def test_receipts_of_metrics_on_vectors_have_their_options() -> None:
    data = build_dataset(composed("dataset=gaussians_8").dataset)
    receipts = []
    for radius in (3.0, 2.0):
        metrics = {"modes": Modes(num_samples=100, radius_stds=radius)}
        evaluator = Evaluator(metrics, {}, data, device=CPU, folder=None, processes=SINGLE_PROCESS)
        receipts.append(evaluate(evaluator, torch.randn(100, 2))["high_quality"].receipt)
    assert "radius_stds" in (differ(*receipts) or "")


def test_progress_of_images_and_metrics_is_reported() -> None:
    evaluator = make_evaluator()
    assert list(evaluator.all) == ["fid"]
    reported: list[tuple[str, int, int]] = []
    evaluator.report = lambda *report: reported.append(report)
    evaluate(evaluator, generated(150))
    real_images = [("real images", n, 600) for n in (*range(64, 600, 64), 600)]
    metrics = [("computing fid", 0, 1), ("computed metrics", 1, 1)]
    assert reported == [*real_images, *(("generated samples", n, 150) for n in (64, 128, 150)), *metrics]


@pytest.mark.parametrize("option", ["num_samples", "num_real"])
def test_features_that_cannot_fit_into_memory_are_refused(monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    """An image has 6 features, which take 24 bytes."""
    options = {"num_samples": 100, "num_real": 100, "k": 3} | {option: 500}
    evaluator = make_evaluator(density_coverage=DensityCoverage(**options), fid=FID(num_samples=10**9, num_real=None))
    monkeypatch.setattr("gantrain.engine.memory.total_bytes", lambda device: 14_400)
    evaluator.check(conditional=False)
    monkeypatch.setattr("gantrain.engine.memory.total_bytes", lambda device: 14_399)
    message = (
        "metric.density_coverage: num_samples + num_real=600: the features alone need 14.4 kB, but cpu has 14.4 kB"
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        evaluator.check(conditional=False)


def test_metrics_share_the_memory_of_the_features() -> None:
    collector = Collector(Request(num, frozenset({"features"})) for num in (100, 150))
    for start in (64, 0, 128):
        collector.add(start, Extracted(torch.full((min(64, 150 - start), 6), float(start))), None)
    few, many = (collector.statistics(Request(num, frozenset({"features"}))).features for num in (100, 150))
    assert few is not None
    assert many is not None
    assert few.untyped_storage().data_ptr() == many.untyped_storage().data_ptr()
    assert many[:, 0].tolist() == [0.0] * 64 + [64.0] * 64 + [128.0] * 22
    assert torch.equal(few, many[:100])
