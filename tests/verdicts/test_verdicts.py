"""Each verdict on evidence with closed forms, on both sides of each threshold."""

import math
from typing import Any

import pytest
import torch
from making import images, make_evidence, normal
from torch import nn

from gantrain.datasets.base import ImageDataset
from gantrain.datasets.toys import gaussians_8
from gantrain.losses.hinge import Hinge
from gantrain.losses.lsgan import LeastSquares
from gantrain.losses.minimax import Minimax
from gantrain.losses.nonsaturating import NonSaturating
from gantrain.losses.ralsgan import RelativisticAverageLeastSquares
from gantrain.losses.relativistic import Relativistic
from gantrain.losses.wasserstein import Wasserstein
from gantrain.regularizers.weight_clip import WeightClip
from gantrain.verdicts.base import Verdict
from gantrain.verdicts.clipping import Clipping
from gantrain.verdicts.discriminator_overfits import DiscriminatorOverfits
from gantrain.verdicts.discriminator_wins import DiscriminatorWins, loss_at_equal_logits
from gantrain.verdicts.evidence import History
from gantrain.verdicts.generator_stalls import GeneratorStalls
from gantrain.verdicts.memorization import Memorization
from gantrain.verdicts.metric_worsens import MetricWorsens
from gantrain.verdicts.reference import Neighbors


def rows(loss: float, norm: float) -> list[dict[str, float]]:
    return [{"loss/discriminator": loss, "gradient_norm/generator": norm}] * 3


def wins() -> DiscriminatorWins:
    return DiscriminatorWins(loss=0.01, gradient=0.001, checks=2)


class TestDiscriminatorWins:
    @pytest.mark.parametrize(
        ("loss", "equal"),
        [
            (NonSaturating(), 2 * math.log(2)),
            (Minimax(), 2 * math.log(2)),
            (Relativistic(), math.log(2)),
            (Hinge(), 2.0),
            (LeastSquares(fake_label=0.0, real_label=1.0, generator_label=1.0), 0.25),
            (LeastSquares(fake_label=-1.0, real_label=1.0, generator_label=0.0), 1.0),
            (RelativisticAverageLeastSquares(), 1.0),
            (Wasserstein(), 0.0),
        ],
    )
    def test_saturated_loss(self, loss: Any, equal: float) -> None:
        assert loss_at_equal_logits(make_evidence(loss=loss)) == pytest.approx(equal, rel=1e-6)
        finding = wins()(make_evidence(loss=loss, rows=rows(0.009 * equal, 1.0)))
        assert (finding is not None) == (equal > 0)  # a Wasserstein loss has no lower bound
        assert wins()(make_evidence(loss=loss, rows=rows(0.011 * equal, 1.0))) is None

    def test_evidence_names_the_numbers(self) -> None:
        verdict = wins()
        assert verdict(make_evidence(rows=rows(1.0, 4.0))) is None
        finding = verdict(make_evidence(rows=rows(0.002, 2.0)))
        assert finding is not None
        assert "mean loss is 0.002 (1.4 if" in finding.evidence
        assert "norm of 2 (0.5 times its largest so far)" in finding.evidence

    @pytest.mark.parametrize(
        ("norm", "highest_fake", "found"), [(0.0009, 0.9, True), (0.0011, 0.9, False), (0.0009, 1.1, False)]
    )
    def test_vanished_gradient(self, norm: float, highest_fake: float, found: bool) -> None:
        before, verdict = wins(), wins()
        assert before(make_evidence(loss=Wasserstein(), rows=rows(-5.0, 1.0))) is None
        verdict.load_state_dict(before.state_dict())
        logits = {"real_logits": torch.tensor([1.0, 2.0]), "fake_logits": torch.tensor([0.0, highest_fake])}
        finding = verdict(make_evidence(loss=Wasserstein(), rows=rows(-5.0, norm), **logits))
        assert (finding is not None) == found

    def test_needs_logged_values(self) -> None:
        assert wins()(make_evidence()) is None


class TestDiscriminatorOverfits:
    VERDICT = DiscriminatorOverfits(ratio=0.5, errors=4.0, checks=2)

    MANY, FEW = images(100_000, side=1), images(40)

    def judge(self, held_out: float, spread: float, num: int = 100, data: ImageDataset = MANY) -> Any:
        noise = spread * torch.linspace(-1, 1, num)
        logits = {"real_logits": 2 + noise, "fake_logits": noise, "held_out_logits": 2 - 2 * held_out + noise}
        return self.VERDICT(make_evidence(dataset=data, **logits))

    @pytest.mark.parametrize(("ratio", "found"), [(0.49, False), (0.51, True), (1.5, True), (-1.0, False)])
    def test_ratio(self, ratio: float, found: bool) -> None:
        finding = self.judge(ratio, spread=0.1)
        assert (finding is not None) == found
        assert not found or f"{ratio:.0%} of the way to samples (limit 50%)" in finding.evidence

    @pytest.mark.parametrize(("errors", "found"), [(3.9, False), (4.1, True)])
    @pytest.mark.parametrize(("data", "means"), [(MANY, 2), (FEW, 1)])
    def test_standard_errors(self, data: ImageDataset, means: int, errors: float, found: bool) -> None:
        """The mean of all images of a small training set has no error."""
        # The variance of n evenly spaced numbers in [-1, 1] is (n + 1) / (3 (n - 1)).
        error = math.sqrt(means * 101 / (3 * 99) / 100)
        assert (self.judge(0.6, spread=1.2 / (errors * error), data=data) is not None) == found

    def test_needs_held_out_images_and_enough_of_them(self) -> None:
        assert self.judge(0.9, spread=0.1, num=8) is not None
        assert self.judge(0.9, spread=0.1, num=7) is None
        assert self.VERDICT(make_evidence(held_out_logits=None)) is None

    def test_d_that_takes_samples_for_real_does_not_overfit(self) -> None:
        logits = {"real_logits": torch.zeros(20), "fake_logits": torch.ones(20), "held_out_logits": -torch.ones(20)}
        assert self.VERDICT(make_evidence(**logits)) is None


class TestGeneratorStalls:
    REAL = normal(30, 4)

    def judge(self, verdict: GeneratorStalls, moved: float, **options: Any) -> Any:
        scale = float(torch.pdist(self.REAL).mean())
        x = normal(50, 4, seed=1) + moved * scale * torch.tensor([0.6, 0.8, 0.0, 0.0])  # a vector of length 1
        return verdict(make_evidence(current_thumbnails=x, reference={"real_thumbnails": self.REAL}, **options))

    @pytest.mark.parametrize(("moved", "found"), [(0.0, True), (0.009, True), (0.011, False)])
    def test_distance(self, moved: float, found: bool) -> None:
        before, verdict = (GeneratorStalls(distance=0.01, checks=2) for _ in range(2))
        assert self.judge(before, 0.0, step=100) is None
        verdict.load_state_dict(before.state_dict())
        finding = self.judge(verdict, moved, step=200)
        assert (finding is not None) == found
        assert not found or f"since step 100 its samples from the same latents have moved by {moved:.2g}" in str(
            finding
        )

    def test_learning_rate_that_a_schedule_has_lowered(self) -> None:
        verdict = GeneratorStalls(distance=0.01, checks=2)
        for lr, found in ((1e-3, False), (1.1e-4, True), (0.9e-4, False), (1e-3, True)):
            assert (self.judge(verdict, 0.0, lr=lr) is not None) == found


class TestMetricWorsens:
    VERDICT = MetricWorsens(ratio=1.5, gain=0.005, gain_alone=0.3, drop=0.15, evaluations=3)

    def judge(self, *values: float, sign: int = -1, real: float | None = None) -> Any:
        steps = [100 * (i + 1) for i in range(len(values))]
        history = History(sign, list(zip(steps, values, strict=True)), real)
        return self.VERDICT(make_evidence(scores={"fid": history}))

    @pytest.mark.parametrize(
        ("values", "real", "found"),
        [
            ((400, 5, 60, 90, 110, 124), 0.2, True),  # from a best that is far below the first
            ((0.3, 0.001, 0.05, 0.06, 0.08), 1e-5, True),
            ((100, 20, 28.1, 28.1, 28.1), 4.0, True),  # 28 is 1.5 times as far above 4 as 20
            ((100, 20, 27.9, 99, 99), 4.0, False),  # not all three
            ((100, 20, 46, 46), 4.0, False),  # too few
            ((100, 20, 46, 46, 46, 21), 4.0, False),
            ((20, 31, 40, 50), 0.1, True),  # the first is the best
            ((5, 4, 3, 2), 0.1, False),
            ((), 0.1, False),
            # Noise: of an unfinished training, and of small values.
            ((400, 300, 380, 370, 380), 0.2, False),
            ((0.3, -1e-5, 2e-5, 2e-5, 2e-5), 1e-6, False),
            ((2e-5, -1e-5, 2e-5, 2e-5, 2e-5), 1e-6, False),
            ((3.0, 0.002, 0.004, 0.004, 0.004), None, False),
            # The error of a standard deviation that swings around its target (gaussian, steps 100 to 3,500).
            ((1.0, 0.015, 0.22, 0.25, 0.25, 0.23), None, False),
            ((1.0, 0.1, 0.38, 0.38, 0.38), None, True),  # 30 % of 0.9 is 0.27
        ],
    )
    def test_lower_is_better(self, values: tuple[float, ...], real: float | None, found: bool) -> None:
        assert (self.judge(*values, real=real) is not None) == found

    @pytest.mark.parametrize(
        ("values", "found"),
        [
            ((0.1, 0.9, 0.74, 0.74, 0.74), True),
            ((0.1, 0.9, 0.76, 0.74, 0.74), False),
            ((0.05, 0.12, 0.01, 0.01, 0.01), False),  # 0.11 may be noise of a few samples
            ((2, 9, 7.6, 7.6, 7.6), True),  # 15 % of 9 is 1.35
            ((2, 9, 7.7, 7.7, 7.7), False),
            ((4, 8, 7, 7, 7), False),  # one of eight modes
            ((0.1, 0.2, 0.3, 0.4), False),
        ],
    )
    def test_higher_is_better(self, values: tuple[float, ...], found: bool) -> None:
        for real in (None, 0.95):
            assert (self.judge(*values, sign=1, real=real) is not None) == found

    def test_evidence_names_the_best_and_the_last(self) -> None:
        finding = self.judge(100, 20, 56, 57, 58)
        assert "fid was 20 at step 200 and is now 58" in finding.evidence
        assert "checkpoint.best=fid" in finding.advice


class TestClipping:
    def judge(self, num_at_bound: int, limit: float = 0.01, clipped: bool = True) -> Any:
        D = nn.Linear(10, 10)
        weights = torch.linspace(-0.5, 0.5, 100) * limit
        weights[:num_at_bound] = limit * (-1) ** torch.arange(num_at_bound)
        D.weight.data.copy_(weights.view(10, 10))
        D.bias.data.fill_(limit)  # does not count
        regularizers = {"clip": WeightClip(limit=limit)} if clipped else {}
        return Clipping(share=0.8, checks=2)(make_evidence(D=D, regularizers=regularizers))

    @pytest.mark.parametrize(("num", "found"), [(80, False), (81, True), (100, True), (0, False)])
    def test_share(self, num: int, found: bool) -> None:
        finding = self.judge(num)
        assert (finding is not None) == found
        assert not found or f"{num}% of D's weights are at the clipping bound of 0.01" in finding.evidence

    def test_only_with_clipping(self) -> None:
        assert self.judge(100, clipped=False) is None


class TestMemorization:
    VERDICT = Memorization(quantile=0.05, ratio=0.5, share=0.1, checks=2)
    TRAINING = Neighbors(torch.linspace(1, 2, 101), torch.full((101,), 2.0))  # the quantile 0.05 is 1.05

    def judge(self, num: int, first: float, second: float, training: Neighbors | None = TRAINING) -> Any:
        """Judge 100 samples, `num` of which have these distances and the others those of real images."""
        nearest = Neighbors(torch.full((100,), 1.5), torch.full((100,), 2.0))
        nearest.first[:num], nearest.second[:num] = first, second
        made = make_evidence(thumbnails=torch.zeros(100, 64), reference={"neighbors_of_training": training})
        made.reference.neighbors = lambda _: nearest  # type: ignore[method-assign]
        return self.VERDICT(made)

    @pytest.mark.parametrize(
        ("num", "first", "second", "found"),
        [
            (11, 1.04, 2.09, True),
            (10, 1.04, 2.09, False),  # too few
            (100, 1.06, 9.0, False),  # no closer than training images are to each other
            (100, 0.1, 0.19, False),  # close to several images, as blurred samples are
        ],
    )
    def test_copies(self, num: int, first: float, second: float, found: bool) -> None:
        finding = self.judge(num, first, second)
        assert (finding is not None) == found
        assert not found or "11% of the samples are nearly copies of a training image (limit 10%)" in finding.evidence

    def test_near_duplicates_in_the_data_raise_the_limit(self) -> None:
        first, second = torch.ones(100), torch.full((100,), 1.5)
        first[:4] = 0.1  # pairs of near-duplicates
        assert self.judge(13, 0.05, 1.0, Neighbors(first, second)) is None
        assert self.judge(15, 0.05, 1.0, Neighbors(first, second)) is not None

    def test_vectors_have_no_training_set(self) -> None:
        vectors = gaussians_8(radius=2.0, std=0.02, scale=1.414)
        assert self.VERDICT(make_evidence(dataset=vectors, thumbnails=torch.zeros(100, 2))) is None

    def test_copies_and_new_images(self) -> None:
        data = images(60)
        copies = torch.cat([data.images[:30], images(70, seed=1).images]).float() / 127.5 - 1
        finding = self.VERDICT(make_evidence(dataset=data, thumbnails=copies.flatten(1)))
        assert finding is not None
        assert finding.evidence.startswith("30% of the samples")
        assert self.VERDICT(make_evidence(dataset=data, thumbnails=copies[30:].flatten(1))) is None


@pytest.mark.parametrize("verdict", [wins(), GeneratorStalls(distance=0.01, checks=2)], ids=lambda v: type(v).__name__)
def test_state_of_a_checkpoint_without_the_verdict_is_accepted(verdict: Verdict) -> None:
    before = verdict.state_dict()
    verdict.load_state_dict({})
    assert verdict.state_dict() == before
