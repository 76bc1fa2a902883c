"""StyleGAN2's operations: golden numbers, derivatives, and independence of the number of processes."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from oracles import load, oracle_files
from torch import Tensor, nn

import gantrain.seeding as seeding
from gantrain.models import stylegan2_ops as ops
from gantrain.models.r3gan_parts import Downsample, Upsample

each_file = pytest.mark.parametrize("path", oracle_files("sg2_ops*.npz"), ids=lambda path: path.stem)
each_precision = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 2e-7), (torch.float32, 2e-5)])


def close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


@each_precision
@each_file
def test_resampling_and_filtering_are_the_golden_ones(path: Path, dtype: torch.dtype, tolerance: float) -> None:
    golden = load(path, dtype)
    x = golden["in.x"]
    close(Upsample().to(dtype)(x), golden["out.upsample2_1331"], tolerance)
    close(Downsample().to(dtype)(x), golden["out.downsample2_1331"], tolerance)
    # The filter is even, so the same size needs one more row of zeros before than after.
    filtered = ops.Blur(gain=1.0, padding=2).to(dtype)(x)
    close(filtered[..., :-1, :-1], golden["out.filter2d_1331_same"], tolerance)
    close(ops.Blur(gain=1.0, padding=2).kernel[0, 0].to(dtype), golden["out.setup_filter_1331"], tolerance)


@each_precision
@each_file
def test_convolutions_are_the_golden_ones(path: Path, dtype: torch.dtype, tolerance: float) -> None:
    golden = load(path, dtype)
    x, of_3, of_1, styles = (golden[f"in.{name}"] for name in ("x", "conv3_weight", "conv1_weight", "styles"))
    ones, up = torch.ones_like(styles), ops.Blur(gain=4.0, padding=1).to(dtype)

    def modulated(styles: Tensor = styles, **options: object) -> Tensor:
        return ops.modulated_conv(x, of_3, styles, **options)

    close(modulated(ones, blur=up, demodulate=False), golden["out.conv3_up2"], tolerance)
    for weight, name in ((of_3, "conv3"), (of_1, "conv1")):
        num_out, num_in, size, _ = weight.shape
        conv = ops.Conv(num_in, num_out, size, down=True, activated=False).to(dtype)
        with torch.no_grad():
            conv.weight.copy_(weight / conv.weight_gain)
        close(conv(x).detach(), golden[f"out.{name}_down2"], tolerance)
    close(modulated(), golden["out.modconv3_demod"], tolerance)
    close(modulated(demodulate=False), golden["out.modconv3_no_demod"], tolerance)
    close(modulated() + golden["in.noise"], golden["out.modconv3_demod_noise"], tolerance)
    close(modulated(blur=up), golden["out.modconv3_demod_up2_convolution"], tolerance)
    close(modulated(blur=up) + golden["in.noise_up"], golden["out.modconv3_demod_up2_noise_convolution"], tolerance)
    close(modulated(gain=3.0), 3 * golden["out.modconv3_demod"], tolerance)


@each_precision
@each_file
def test_other_operations_are_the_golden_ones(path: Path, dtype: torch.dtype, tolerance: float) -> None:
    golden = load(path, dtype)
    x, bias = golden["in.x"], golden["in.bias"][:, None, None]
    close(ops.activate((x + bias) * ops.GAIN, None), golden["out.bias_lrelu_default_gain"], tolerance)
    close(ops.activate((x + bias) * 0.5, 0.4), golden["out.bias_lrelu_gain0.5_clamp0.4"], tolerance)
    close(ops.normalize_second_moment(golden["in.vector"]), golden["out.normalize_second_moment"], tolerance)
    batch, channels = golden["in.minibatch"], golden["in.minibatch"].shape[1]
    names = [name for name in golden if name.startswith("out.minibatch_std_")]
    assert names
    for name in names:
        group, features = name.removeprefix("out.minibatch_std_group").split("_features")
        size = len(batch) if group == "all" else int(group)
        appended = ops.MinibatchStdDev(group=size, num_channels=int(features))(batch)
        close(appended[:, :channels], batch, 0)
        close(appended[:, channels:], golden[name][:, :, None, None].expand_as(appended[:, channels:]), tolerance)


def test_layers_are_scaled_at_run_time() -> None:
    torch.manual_seed(0)
    linear = ops.Linear(300, 200, activated=True, lr_multiplier=0.01, bias_init=2.0)
    assert float(linear.weight.detach().std()) == pytest.approx(100, rel=0.02)
    x = torch.randn(3, 300)
    expected = nn.functional.leaky_relu(x @ linear.weight.T * 0.01 / math.sqrt(300) + 2, 0.2) * math.sqrt(2)
    torch.testing.assert_close(linear(x), expected)
    conv = ops.Conv(40, 50, 3, gain=0.5, clamp=1.0)
    assert float(conv.weight.detach().std()) == pytest.approx(1, rel=0.02)
    with torch.no_grad():
        conv.bias.normal_()
    images = torch.randn(2, 40, 5, 5)
    output = nn.functional.conv2d(images, conv.weight / math.sqrt(40 * 9), conv.bias, padding=1)
    expected = (nn.functional.leaky_relu(output, 0.2) * math.sqrt(2)).clamp(-1, 1) * 0.5
    assert 0.05 < (expected.abs() == 0.5).float().mean() < 0.9
    # The limit applies to the result without its last gain.
    torch.testing.assert_close(conv(images), (nn.functional.leaky_relu(output, 0.2) * ops.GAIN * 0.5).clamp(-0.5, 0.5))
    torch.testing.assert_close(conv(images), expected)


@pytest.mark.parametrize(("n", "group", "size"), [(8, 4, 4), (3, 4, 3), (6, 4, 3), (7, 4, 1), (64, 32, 32), (1, 4, 1)])
def test_groups_have_the_largest_size_that_divides_the_batch(n: int, group: int, size: int) -> None:
    layer = ops.MinibatchStdDev(group=group, num_channels=1)
    x = torch.randn(n, 2, 2, 2)
    assert layer.group_size(n) == size
    # Samples of a group are n / size apart, and have the same value.
    groups = layer(x)[:, 2, 0, 0].view(size, n // size)
    assert (groups == groups[0]).all()
    assert len(groups[0].unique()) == (n // size if size > 1 else 1)


def test_deviation_is_that_of_the_samples_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = ops.MinibatchStdDev(group=4, num_channels=1), torch.randn(8, 2, 2, 2)
    expected = layer(x)
    monkeypatch.setattr("gantrain.seeding.whole_batch", lambda _: x)
    for rank in range(4):
        monkeypatch.setattr("gantrain.seeding.shard", replace(seeding.shard, rank=rank, world_size=4))
        torch.testing.assert_close(layer(x[2 * rank : 2 * rank + 2]), expected[2 * rank : 2 * rank + 2])


def test_operations_can_be_differentiated_twice() -> None:
    torch.manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    x, weight, styles = draw(2, 1, 4, 4), draw(2, 1, 3, 3), draw(2, 1)
    up = ops.Blur(gain=4.0, padding=1).double()
    for blur in (None, up):
        assert torch.autograd.gradcheck(lambda *a, blur=blur: ops.modulated_conv(*a, blur=blur), (x, weight, styles))
        assert torch.autograd.gradgradcheck(
            lambda *a, blur=blur: ops.modulated_conv(*a, blur=blur), (x, weight, styles)
        )
    down = ops.Conv(1, 1, 3, down=True).double()
    deviation = ops.MinibatchStdDev(group=2, num_channels=1)
    for layer in (down, Upsample().double(), deviation, lambda x: ops.activate(x, 0.5)):
        assert torch.autograd.gradgradcheck(layer, x)
    assert torch.autograd.gradgradcheck(ops.normalize_second_moment, styles)
