"""Mode collapse is found from given distances, and in images that repeat a few real ones."""

import math
import re
import statistics
from typing import Any

import pytest
import torch
from making import images, make_evidence, normal
from torch import Tensor

from gantrain.datasets.batches import to_bytes
from gantrain.datasets.digits import digits
from gantrain.datasets.toys import gaussians_8
from gantrain.evaluation.features.digits import Digits
from gantrain.verdicts.base import UNDECIDED, Finding
from gantrain.verdicts.collapse import Collapse, mean_distance, nearest_distance
from gantrain.verdicts.reference import NUM_SAMPLES, thumbnails


def collapse() -> Collapse:
    limits = {"pixels": 0.3, "features": 0.2, "nearest": 0.25, "varied": 0.5, "nearest_slow_start": 0.04}
    return Collapse(**limits, checks=2, after=1000, after_slow_start=2500)


class TestCollapse:
    REAL = normal(30, 4)

    def judge(self, verdict: Collapse, pixels: float, features: float | None = None, **options: Any) -> Any:
        known = {} if features is None else {"features": (features * self.REAL, self.REAL)}
        # Scaling all points by c scales every distance by c.
        made = make_evidence(
            thumbnails=7 + pixels * self.REAL, reference={"real_thumbnails": self.REAL}, **known, **options
        )
        return verdict(made)

    @pytest.mark.parametrize(("pixels", "found"), [(0.29, True), (0.31, False), (0.0, True), (1.0, False)])
    def test_in_pixels(self, pixels: float, found: bool) -> None:
        finding = self.judge(collapse(), pixels)
        assert (finding is not None) == found
        assert not found or f"is {pixels:.0%} in pixels (limit 30%)." in finding.evidence

    @pytest.mark.parametrize(("features", "found"), [(0.19, True), (0.21, False)])
    def test_in_features(self, features: float, found: bool) -> None:
        finding = self.judge(collapse(), 0.9, features)
        assert (finding is not None) == found
        assert not found or "is 90% in pixels (limit 30%) and 19% in features (limit 20%)." in finding.evidence

    def test_features_that_are_not_measured_again_are_undecided(self) -> None:
        verdict, resumed = collapse(), collapse()
        assert self.judge(verdict, 0.9) is None
        assert isinstance(self.judge(verdict, 0.9, 0.1), Finding)
        assert self.judge(verdict, 0.9) is UNDECIDED
        resumed.load_state_dict(verdict.state_dict())
        assert self.judge(resumed, 0.9) is UNDECIDED
        finding = self.judge(resumed, 0.1)  # pixels are measured at every check
        assert "is 10% in pixels (limit 30%) and 10% in features (limit 20%)." in finding.evidence
        assert self.judge(resumed, 0.9, 0.8) is None
        assert self.judge(resumed, 0.9) is None

    @pytest.mark.parametrize(("step", "found"), [(999, False), (1000, True)])
    def test_not_before_enough_steps(self, step: int, found: bool) -> None:
        verdict, resumed = collapse(), collapse()
        assert self.judge(verdict, 0.9, step=500) is None
        resumed.load_state_dict(verdict.state_dict())
        assert (self.judge(resumed, 0.1, step=step) is not None) == found

    @pytest.mark.parametrize(("step", "found"), [(2499, False), (2500, True)])
    def test_later_if_samples_have_always_been_alike(self, step: int, found: bool) -> None:
        verdict = collapse()
        assert self.judge(verdict, 0.2, 0.9, step=500) is None
        assert self.judge(verdict, 0.9, 0.1, step=1000) is None
        assert (self.judge(verdict, 0.1, step=step) is not None) == found

    def test_of_vectors(self) -> None:
        finding = self.judge(collapse(), 0.1, dataset=gaussians_8(radius=2.0, std=0.02, scale=1.414))
        assert "is 10% (limit 30%)." in finding.evidence

    def test_equal_samples_of_equal_data_are_right(self) -> None:
        same = torch.ones(9, 4)
        assert collapse()(make_evidence(thumbnails=same, reference={"real_thumbnails": same})) is None


class TestRepeatedImages:
    """A collapse to a few images, which the mean distance does not show."""

    DATA = digits(image_size=None)
    EXTRACTOR = Digits()
    EXTRACTOR.load(torch.device("cpu"))

    def real(self, num: int, seed: int) -> Tensor:
        chosen = torch.randperm(10_000, generator=torch.Generator().manual_seed(seed))[:num]
        return self.DATA.gather(chosen).float() / 127.5 - 1

    def repeated(self, num: int, noise: float, seed: int) -> Tensor:
        images = self.real(num, seed)[torch.arange(NUM_SAMPLES) % num]
        return (images + noise * normal(*images.shape, seed=seed)).clamp(-1, 1)

    def judge(self, verdict: Collapse, x: Tensor, *, step: int = 5000, with_features: bool = False) -> Any:
        def features(x: Tensor) -> Tensor:
            return self.EXTRACTOR(to_bytes(x)).features

        real = self.real(NUM_SAMPLES, seed=99)
        known = {"features": (features(x), features(real))} if with_features else {}
        reference = {"real_thumbnails": thumbnails(real)}
        return verdict(
            make_evidence(step=step, dataset=self.DATA, thumbnails=thumbnails(x), reference=reference, **known)
        )

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("num", [2, 5])
    @pytest.mark.parametrize("noise", [0.0, 0.05, 0.2])
    def test_after_varied_samples(self, num: int, noise: float, seed: int) -> None:
        verdict, resumed = collapse(), collapse()
        assert self.judge(verdict, self.real(NUM_SAMPLES, seed), step=500) is None
        resumed.load_state_dict(verdict.state_dict())
        x = self.repeated(num, noise, seed)
        assert mean_distance(thumbnails(x)) > 0.3 * mean_distance(thumbnails(self.real(NUM_SAMPLES, seed=99)))
        assert self.judge(resumed, x, step=999) is None
        finding = self.judge(resumed, x, step=1000)
        assert finding.evidence.startswith("The samples repeat a few images:")
        assert "in pixels (limit 25%)." in finding.evidence

    @pytest.mark.parametrize(("noise", "found"), [(0.0, True), (0.02, True), (0.1, False)])
    def test_samples_that_were_never_varied(self, noise: float, found: bool) -> None:
        verdict, x = collapse(), self.repeated(2, noise, seed=0)
        assert self.judge(verdict, x, step=2499) is None
        assert (self.judge(verdict, x, step=2500) is not None) == found

    def test_in_features(self) -> None:
        verdict = collapse()
        assert self.judge(verdict, self.real(NUM_SAMPLES, seed=1), step=500, with_features=True) is None
        finding = self.judge(verdict, self.repeated(5, 0.05, seed=1), with_features=True)
        assert re.search(r"is \d% in pixels \(limit 25%\) and \d% in features \(limit 25%\)", finding.evidence)

    @pytest.mark.parametrize("seed", range(4))
    def test_real_images_are_found_at_no_step(self, seed: int) -> None:
        verdict = collapse()
        for step in (1000, 2500, 5000):
            assert self.judge(verdict, self.real(NUM_SAMPLES, seed), step=step, with_features=True) is None

    def test_nearest_distance(self) -> None:
        x = normal(21, 3)
        others = [sorted(math.dist(a, b) for b in x.tolist())[1] for a in x.tolist()]
        assert nearest_distance(x) == pytest.approx(statistics.median(others), rel=1e-5)

    def test_not_for_vectors_nor_for_few_images(self) -> None:
        x = normal(NUM_SAMPLES, 4)
        repeated = x[torch.arange(NUM_SAMPLES) % 5]
        vectors = gaussians_8(radius=2.0, std=0.02, scale=1.414)
        for dataset, found in ((vectors, False), (images(511), False), (images(512), True)):
            made = make_evidence(dataset=dataset, thumbnails=repeated, reference={"real_thumbnails": x})
            assert (collapse()(made) is not None) == found


def test_state_of_a_checkpoint_without_the_verdict_is_accepted() -> None:
    verdict = collapse()
    before = verdict.state_dict()
    verdict.load_state_dict({})
    assert verdict.state_dict() == before
