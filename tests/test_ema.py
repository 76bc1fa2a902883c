from pathlib import Path

import pytest
import torch
from oracles import load, oracle_files
from torch import nn

from gantrain.ema import EMA


def net(value: float) -> nn.Module:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    for parameter in module.parameters():
        nn.init.constant_(parameter, value)
    return module


def constant(halflife: float) -> EMA:
    return EMA(halflife_images=halflife, rampup=None)


def values(module: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


@pytest.mark.parametrize(("num_images", "halflife"), [(64, 1000.0), (100, 100.0), (512, 50.0)])
@pytest.mark.parametrize("k", [1, 7])
def test_k_updates_towards_constant_weights_match_the_closed_form(num_images: int, halflife: float, k: int) -> None:
    average, current = net(-1.0), net(3.0)
    for _ in range(k):
        constant(halflife).update(average, current, num_images=num_images, images_seen=0)
    expected = 3.0 + (-1.0 - 3.0) * 2.0 ** (-k * num_images / halflife)
    torch.testing.assert_close(values(average), torch.full_like(values(average), expected))
    torch.testing.assert_close(values(current), torch.full_like(values(current), 3.0), atol=0, rtol=0)


def test_half_of_the_old_weights_is_left_after_the_half_life() -> None:
    average, current = net(1.0), net(0.0)
    for _ in range(10):
        constant(640.0).update(average, current, num_images=64, images_seen=0)
    torch.testing.assert_close(values(average), torch.full_like(values(average), 0.5))


def test_changing_weights_are_weighted_exponentially_by_age() -> None:
    average = net(0.0)
    sequence = [2.0, -1.0, 5.0]
    for value in sequence:
        constant(30.0).update(average, net(value), num_images=10, images_seen=0)
    decay = 0.5 ** (1 / 3)
    expected = sum((1 - decay) * decay ** (2 - i) * value for i, value in enumerate(sequence))
    torch.testing.assert_close(values(average), torch.full_like(values(average), expected))


def test_buffers_are_copied_from_the_current_network() -> None:
    average, current = net(0.0), net(0.0)
    current(torch.randn(8, 3, dtype=torch.float64))
    constant(1e6).update(average, current, num_images=1, images_seen=0)
    buffers = dict(average.named_buffers())
    assert buffers["1.num_batches_tracked"] == 1
    torch.testing.assert_close(buffers, dict(current.named_buffers()), atol=0, rtol=0)
    assert buffers["1.running_mean"] is not dict(current.named_buffers())["1.running_mean"]


def test_averaged_parameters_have_no_gradient() -> None:
    average, current = net(0.0).requires_grad_(False), net(1.0)
    constant(10.0).update(average, current, num_images=10, images_seen=0)
    assert all(not p.requires_grad and p.grad_fn is None for p in average.parameters())
    assert all(p.requires_grad and p.is_leaf for p in current.parameters())


def test_without_ramp_up_updates_equal_the_plain_rule_bit_for_bit() -> None:
    torch.manual_seed(0)
    average, current = (nn.Linear(50, 40) for _ in range(2))
    expected = [p.detach().clone() for p in average.parameters()]
    for num_images, halflife in [(64, 1000.0), (32, 500_000.0), (7, 0.3)]:
        constant(halflife).update(average, current, num_images=num_images, images_seen=10**6)
        torch._foreach_lerp_(expected, [p.detach() for p in current.parameters()], 1 - 0.5 ** (num_images / halflife))
        for averaged, plain in zip(average.parameters(), expected, strict=True):
            assert torch.equal(averaged, plain)


@pytest.mark.parametrize("path", oracle_files("ema_ramp_up*.npz"), ids=lambda path: path.stem)
def test_ramping_up_gives_the_golden_averages_at_every_step(path: Path) -> None:
    golden = load(path)
    batch_size, weights = int(golden["hyper.batch"]), golden["in.weights_after_each_step"]
    ema = EMA(halflife_images=1000 * golden["hyper.half_life_kimg"].item(), rampup=golden["hyper.ramp_up"].item())
    average, current = (nn.ParameterList([torch.zeros_like(weights[0])]) for _ in range(2))
    for step, now in enumerate(weights):
        current[0].data.copy_(now)
        ema.update(average, current, num_images=batch_size, images_seen=step * batch_size)
        expected = golden["out.ema_after_each_step"][step]
        torch.testing.assert_close(average[0].detach(), expected, atol=1e-12, rtol=0)

        one = beta(ema, batch_size, step * batch_size)
        torch.testing.assert_close(one, golden["out.beta_used_at_each_step"][step], atol=1e-14, rtol=0)
    for images_seen, expected in zip(golden["in.images_seen"], golden["out.beta_at_images_seen"], strict=True):
        torch.testing.assert_close(beta(ema, batch_size, int(images_seen)), expected, atol=1e-14, rtol=0)


def beta(ema: EMA, num_images: int, images_seen: int) -> torch.Tensor:
    """Return the factor by which an update multiplies the old weights."""
    old, new = (nn.ParameterList([torch.tensor(value, dtype=torch.float64)]) for value in (1.0, 0.0))
    ema.update(old, new, num_images=num_images, images_seen=images_seen)
    return old[0].detach()


@pytest.mark.parametrize("path", oracle_files("r3gan_schedules*.npz"), ids=lambda path: path.stem)
def test_a_half_life_that_a_schedule_changes_gives_the_golden_decays(path: Path) -> None:
    golden, ema = load(path), constant(1.0)
    for halflife, expected in zip(golden["out.ema_half_life_images"], golden["out.ema_beta_batch512"], strict=True):
        ema.halflife_images = halflife.item()
        torch.testing.assert_close(beta(ema, 512, 0), expected, atol=1e-14, rtol=0)


def test_half_life_0_and_the_first_step_of_a_ramp_up_copy() -> None:
    torch.manual_seed(0)
    for ema in (constant(0.0), EMA(halflife_images=1e6, rampup=0.05)):
        average, current = (nn.Linear(50, 40) for _ in range(2))
        ema.update(average, current, num_images=64, images_seen=0)
        for averaged, now in zip(average.parameters(), current.parameters(), strict=True):
            assert torch.equal(averaged, now)


def test_the_ramp_up_ends_at_the_half_life() -> None:
    ramped, plain = EMA(halflife_images=1000.0, rampup=0.5), constant(1000.0)
    for images_seen, halflife in [(600, 300.0), (1998, 999.0), (2000, 1000.0), (10**6, 1000.0)]:
        plain.halflife_images = halflife
        assert beta(ramped, 64, images_seen) == beta(plain, 64, 0)


@pytest.mark.parametrize(
    ("halflife", "rampup", "message"),
    [
        (-1.0, None, r"halflife_images=-1.0.*at least 0"),
        (float("nan"), None, r"halflife_images=nan.*at least 0"),
        (1.0, 0.0, r"rampup=0.0.*0.05"),
        (1.0, -0.05, r"rampup=-0.05.*0.05"),
    ],
)
def test_invalid_values_are_refused(halflife: float, rampup: float | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EMA(halflife_images=halflife, rampup=rampup)
