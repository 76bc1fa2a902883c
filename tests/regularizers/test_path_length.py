"""Path length regularization of a linear generator, whose path lengths have a closed form."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gantrain.datasets.labels import Labels
from gantrain.regularizers.base import UpdateBatch
from gantrain.regularizers.path_length import PathLength, path_lengths
from gantrain.schedules.base import Clock

NUM_STYLES, DIM, SHAPE = 3, 2, (2, 4, 4)
OPTIONS: dict[str, Any] = {"weight": 3.0, "decay": 0.25, "batch_shrink": 2, "every": 4}


class Linear(nn.Module):
    """G(z) = A z, with the same style in each layer, each of which has its own A."""

    def __init__(self, num_classes: int | None = None):
        super().__init__()
        self.num_classes, self.seen = num_classes, []
        self.A = nn.Parameter(torch.randn(NUM_STYLES, math.prod(SHAPE), DIM, dtype=torch.float64))

    def styles(self, z: Tensor, *labels: Tensor) -> Tensor:
        self.seen.append((z, *labels))
        return z[:, None].expand(-1, NUM_STYLES, -1).requires_grad_()

    def synthesize(self, styles: Tensor) -> Tensor:
        return torch.einsum("lpd,nld->np", self.A, styles).view(-1, *SHAPE)


def unused(*_: Any) -> Any:
    raise AssertionError("only what the penalty needs is computed")


def batch_of(num_fake: int) -> UpdateBatch:
    return UpdateBatch(Clock(0.0, 0), real=unused, fake=unused, augment=unused, discriminate=unused, num_fake=num_fake)


@pytest.fixture
def G() -> Linear:
    torch.manual_seed(0)
    return Linear()


def drawn(n: int) -> tuple[Tensor, Labels]:
    return torch.randn(n, DIM, dtype=torch.float64), None


def expected_lengths(G: Linear, noise: Tensor) -> Tensor:
    gradients = torch.einsum("lpd,np->nld", G.A, noise.flatten(1)) / 4  # 4: the root of 16 pixels
    return gradients.square().sum(2).mean(1).sqrt()


def test_penalty_mean_and_gradients_have_the_closed_form(G: Linear, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = torch.randn(5, *SHAPE, dtype=torch.float64)
    monkeypatch.setattr("gantrain.regularizers.path_length.own_rows", lambda draw, shape: noise[: shape[0]])
    part, mean = PathLength(**OPTIONS), 0.0
    for _ in range(3):
        penalty = part.generator_penalty(G, drawn, batch_of(11))
        assert len(G.seen[-1][0]) == 5  # half of the batch, rounded down
        lengths = expected_lengths(G, noise)
        # The penalty is also differentiated through the mean.
        now = 0.75 * mean + 0.25 * lengths.mean()
        expected = 3 * (lengths - now).square().mean()
        torch.testing.assert_close(penalty, expected)
        torch.testing.assert_close(part.mean, now.detach())
        for a, b in zip(torch.autograd.grad(penalty, G.A), torch.autograd.grad(expected, G.A), strict=True):
            torch.testing.assert_close(a, b)
        mean = float(part.mean)


def test_mean_square_of_lengths_is_that_of_the_jacobian(G: Linear) -> None:
    squares = path_lengths(G.synthesize, drawn(20_000)[0][:, None].expand(-1, 3, -1).requires_grad_()).square()
    expected = G.A.square().sum() / NUM_STYLES / 16
    assert float(squares.mean().detach()) == pytest.approx(float(expected.detach()), rel=0.05)


def test_labels_are_passed_on_and_at_least_one_sample_is_used() -> None:
    G, part = Linear(num_classes=3), PathLength(**OPTIONS)
    part.generator_penalty(G, lambda n: (drawn(n)[0], torch.tensor([2] * n)), batch_of(1))
    ((z, y),) = G.seen
    assert (len(z), y.tolist()) == (1, [2])


def test_mean_is_restored_in_place(G: Linear) -> None:
    part, other = PathLength(**OPTIONS), PathLength(**OPTIONS)
    part.generator_penalty(G, drawn, batch_of(4))
    assert part.mean > 0
    other.load_state_dict({"mean": part.state_dict()["mean"].float()})
    before = other.mean
    other.load_state_dict({})
    assert other.mean is before
    assert float(other.mean) == pytest.approx(float(part.mean))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"weight": -1.0}, "weight=-1.0.*at least 0"),
        ({"decay": 0.0}, r"decay=0.0.*\(0, 1\]"),
        ({"decay": 1.5}, r"decay=1.5.*\(0, 1\]"),
        ({"batch_shrink": 0}, "batch_shrink=0.*at least 1"),
        ({"every": 0}, "every=0.*at least 1"),
    ],
)
def test_options_out_of_range_are_refused(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PathLength(**OPTIONS | option)
