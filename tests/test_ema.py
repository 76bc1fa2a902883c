import pytest
import torch
from torch import nn

from gantrain.ema import EMA


def net(value: float) -> nn.Module:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    for parameter in module.parameters():
        nn.init.constant_(parameter, value)
    return module


def values(module: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


@pytest.mark.parametrize(("num_images", "halflife"), [(64, 1000.0), (100, 100.0), (512, 50.0)])
@pytest.mark.parametrize("k", [1, 7])
def test_k_updates_towards_constant_weights(num_images: int, halflife: float, k: int) -> None:
    average, current = net(-1.0), net(3.0)
    for _ in range(k):
        EMA(halflife_images=halflife).update(average, current, num_images=num_images)
    expected = 3.0 + (-1.0 - 3.0) * 2.0 ** (-k * num_images / halflife)
    torch.testing.assert_close(values(average), torch.full_like(values(average), expected))
    torch.testing.assert_close(values(current), torch.full_like(values(current), 3.0), atol=0, rtol=0)


def test_after_the_halflife_half_of_the_old_is_left() -> None:
    average, current = net(1.0), net(0.0)
    for _ in range(10):
        EMA(halflife_images=640.0).update(average, current, num_images=64)
    torch.testing.assert_close(values(average), torch.full_like(values(average), 0.5))


def test_changing_weights_are_weighted_by_their_age() -> None:
    average = net(0.0)
    sequence = [2.0, -1.0, 5.0]
    for value in sequence:
        EMA(halflife_images=30.0).update(average, net(value), num_images=10)
    decay = 0.5 ** (1 / 3)
    expected = sum((1 - decay) * decay ** (2 - i) * value for i, value in enumerate(sequence))
    torch.testing.assert_close(values(average), torch.full_like(values(average), expected))


def test_buffers_are_those_of_the_current_network() -> None:
    average, current = net(0.0), net(0.0)
    current(torch.randn(8, 3, dtype=torch.float64))
    EMA(halflife_images=1e6).update(average, current, num_images=1)
    buffers = dict(average.named_buffers())
    assert buffers["1.num_batches_tracked"] == 1
    torch.testing.assert_close(buffers, dict(current.named_buffers()), atol=0, rtol=0)
    assert buffers["1.running_mean"] is not dict(current.named_buffers())["1.running_mean"]


def test_the_average_asks_for_no_gradient_and_gives_none() -> None:
    average, current = net(0.0).requires_grad_(False), net(1.0)
    EMA(halflife_images=10.0).update(average, current, num_images=10)
    assert all(not p.requires_grad and p.grad_fn is None for p in average.parameters())
    assert all(p.requires_grad and p.is_leaf for p in current.parameters())
