"""The distance that a critic estimates, and the norms of its gradient, against closed forms."""

import math
from copy import deepcopy

import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import Tensor, nn

from gantrain.datasets.batches import Batch
from gantrain.evaluation.critic import CriticEstimate, blocks, estimate_distance, logits
from gantrain.models.packing import pack
from gantrain.models.spectral_norm import spectral_norm


class Linear(nn.Module):
    def __init__(self, weight: Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight


def same(x: Tensor) -> Tensor:
    return x


def samples(n: int, d: int, *, mean: float = 0.0, seed: int = 0) -> Batch:
    return Batch(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + mean)


def test_linear_critic_has_its_closed_forms() -> None:
    weight = torch.tensor([3.0, -4.0, 12.0])
    real, held_out, fake = samples(300, 3), samples(200, 3, mean=0.1, seed=1), samples(300, 3, mean=1.0, seed=2)
    found = estimate_distance(Linear(weight), same, real=real, held_out=held_out, fake=fake)
    values = [batch.x.double() @ weight.double() for batch in (real, held_out, fake)]
    means = [float(value.mean()) for value in values]
    assert found.train == pytest.approx(means[0] - means[2], rel=1e-5)
    assert found.held_out == pytest.approx(means[1] - means[2], rel=1e-5)
    error = math.sqrt(sum(float(value.var()) / len(value) for value in values[:2]))
    assert found.gap == (pytest.approx(means[0] - means[1], abs=1e-4), pytest.approx(error, rel=1e-5))
    for norms in found.norms.values():
        torch.testing.assert_close(norms, torch.full((300,), 13.0))
    assert found.lipschitz == pytest.approx(13.0)
    assert found.normalized == pytest.approx((means[1] - means[2]) / 13, rel=1e-5)
    assert found.more_trained is None


def test_optimal_critic_of_shifted_samples_gives_the_exact_distance() -> None:
    real, fake = samples(500, 1, mean=3.0), samples(500, 1)
    found = estimate_distance(Linear(torch.tensor([5.0])), same, real=real, held_out=None, fake=fake)
    assert found.normalized == pytest.approx(wasserstein_distance(real.x[:, 0], fake.x[:, 0]), rel=1e-6)


def test_gradient_is_that_between_real_and_fake_samples_too() -> None:
    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.square().sum(1)

    real, fake = samples(100, 2, mean=5.0), samples(100, 2)
    found = estimate_distance(Square(), same, real=real, held_out=None, fake=fake)
    torch.testing.assert_close(found.norms["real"], 2 * real.x.norm(dim=1))
    torch.testing.assert_close(found.norms["fake"], 2 * fake.x.norm(dim=1))
    between = found.norms["interpolated"]
    assert found.norms["fake"].mean() < between.mean() < found.norms["real"].mean()
    assert found.lipschitz == float(found.norms["real"].max())


def test_augmentation_is_part_of_the_critic() -> None:
    real, fake = samples(50, 1, mean=1.0), samples(50, 1)
    doubled = estimate_distance(Linear(torch.ones(1)), lambda x: 2 * x, real=real, held_out=None, fake=fake)
    once = estimate_distance(Linear(torch.ones(1)), same, real=real, held_out=None, fake=fake)
    assert doubled.train == pytest.approx(2 * once.train, rel=1e-5)
    assert doubled.lipschitz == pytest.approx(2.0)


def test_constant_critic_has_estimate_0() -> None:
    real = samples(10, 2)
    found = estimate_distance(Linear(torch.zeros(2)), same, real=real, held_out=real, fake=samples(10, 2, seed=1))
    assert (found.train, found.lipschitz, found.normalized) == (0, 0, 0)
    assert "undertrained" in found.warnings(max_gain=0.1, max_gap=0.1)[0]


def test_critic_is_not_changed() -> None:
    D = nn.Sequential(
        spectral_norm(nn.Linear(2, 4)), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1), nn.Flatten(0)
    )
    before = deepcopy(D.state_dict())
    assert D.training
    real, fake = samples(9, 2), samples(9, 2, seed=1)
    first, second = (estimate_distance(D, same, real=real, held_out=None, fake=fake) for _ in "ab")
    assert first.train == second.train  # without dropout
    assert all(torch.equal(before[name], tensor) for name, tensor in D.state_dict().items())
    assert all(module.training for module in D.modules())
    assert all(parameter.grad is None for parameter in D.parameters())


def test_packed_critic_has_a_value_for_each_pack() -> None:
    D = pack(lambda shape: Linear(torch.ones(shape[0])), (2,), 2)
    found = estimate_distance(D, same, real=samples(8, 2), held_out=None, fake=samples(8, 2, seed=1))
    assert [len(norms) for norms in found.norms.values()] == [4, 4, 4]
    assert found.lipschitz == pytest.approx(2.0)  # of (1, 1, 1, 1)


@pytest.mark.parametrize("num", [6, 126, 300])
def test_any_packing_and_number_of_samples(num: int) -> None:
    D = pack(lambda shape: Linear(torch.ones(shape[0])), (1,), 3)
    batch = samples(num, 1)
    expected = batch.x.view(-1, 3).sum(1).double()
    torch.testing.assert_close(logits(D, same, batch), expected)
    assert [len(block.x) % 3 for block in blocks(batch, D)] == [0] * len(blocks(batch, D))


def test_batch_norm_uses_the_statistics_of_its_input() -> None:
    D = nn.Sequential(nn.BatchNorm1d(1), nn.Flatten(0))
    batch = samples(40, 1, mean=5.0)
    expected = ((batch.x - batch.x.mean()) / (batch.x.var(correction=0) + D[0].eps).sqrt())[:, 0].double()
    torch.testing.assert_close(logits(D, same, batch), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(D[0].running_mean, torch.zeros(1))


def estimate(
    train: float, *, gap: tuple[float, float] = (0.0, 0.0), more_trained: float | None = None
) -> CriticEstimate:
    return CriticEstimate(train, train - gap[0], gap, more_trained, {"real": torch.ones(1)})


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (estimate(1.0), None),
        (estimate(1.0, more_trained=1.09), None),
        (estimate(1.0, more_trained=1.11), "undertrained: a few more updates raise its estimate by 11 %"),
        (estimate(1.0, more_trained=0.5), None),
        (estimate(-0.1, more_trained=-0.1), "undertrained: its estimate is -0.1"),
        (estimate(math.nan, more_trained=1.0), "diverged: its estimate is NaN"),
        (estimate(1.0, gap=(0.2, 0.01)), "overfitted: its estimate is 20 % lower on held-out"),
        (estimate(1.0, gap=(0.2, 0.1)), None),  # less than three standard errors
        (estimate(1.0, gap=(0.09, 0.01)), None),
        (estimate(1.0, gap=(-0.5, 0.01)), None),
    ],
)
def test_warnings(given: CriticEstimate, word: str | None) -> None:
    warnings = given.warnings(max_gain=0.1, max_gap=0.1)
    assert len(warnings) == (word is not None)
    assert word is None or word in warnings[0]
