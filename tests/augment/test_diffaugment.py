from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from hydra.utils import instantiate
from oracles import load, oracle_files
from scipy import stats
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from gantrain import seeding
from gantrain.augment import diffaugment
from gantrain.augment.diffaugment import DiffAugment, brightness, contrast, cut_out, saturation, translate
from gantrain.config import CONF
from gantrain.schedules.base import Clock, Number

ALL = ["color", "translation", "cutout"]
CLOCK = Clock(0.0, 0)
each_file = pytest.mark.parametrize("path", oracle_files("diffaugment*.npz"), ids=lambda path: path.stem)
each_precision = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 2e-7), (torch.float32, 2e-5)])


def augmented(x: Tensor, policy: list[str], *, strength: Number = 1.0, seed: int = 0) -> Tensor:
    augment = DiffAugment(policy=policy, strength=1.0)
    augment.strength = strength
    torch.manual_seed(seed)
    return augment(x, CLOCK)


def close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance * expected.abs().max().item(), rtol=0)


@each_precision
@each_file
def test_each_operation_gives_the_golden_images(path: Path, dtype: torch.dtype, tolerance: float) -> None:
    golden = load(path, dtype)
    x = golden["in.image"]
    for name, change in {"brightness": brightness, "saturation": saturation, "contrast": contrast}.items():
        close(change(x, golden[f"draw.{name}_uniform"]), golden[f"out.{name}_alone"], tolerance)
    for name, move in {"translation": translate, "cutout": cut_out}.items():
        made = move(x, golden[f"draw.{name}_rows"], golden[f"draw.{name}_columns"])
        close(made, golden[f"out.{name}_alone"], tolerance)


@each_precision
@each_file
def test_the_whole_policy_gives_the_golden_images(
    path: Path, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = load(path, dtype)
    draws = iter(
        golden[f"draw.{name}"]
        for name in (
            *("brightness_uniform", "saturation_uniform", "contrast_uniform"),
            *("translation_rows", "translation_columns", "cutout_rows", "cutout_columns"),
        )
    )
    monkeypatch.setattr(diffaugment, "own_rows", lambda draw, shape: next(draws).view(shape))
    close(augmented(golden["in.image"], ALL), golden["out.color_translation_cutout"], tolerance)
    assert next(draws, None) is None


@pytest.mark.parametrize("shape", [(3, 12, 16), (1, 7, 5), (2, 1, 3)])
@pytest.mark.parametrize("seed", [0, 1])
def test_translation_moves_pixels_and_pads_with_zeros(shape: tuple[int, ...], seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.randn(8, *shape)
    rows, columns = torch.randint(-9, 10, (2, 8)).unbind()
    y = translate(x, rows, columns)
    for n in range(8):
        for i in range(shape[1]):
            for j in range(shape[2]):
                from_i, from_j = i + int(rows[n]), j + int(columns[n])
                inside = 0 <= from_i < shape[1] and 0 <= from_j < shape[2]
                expected = x[n, :, from_i, from_j] if inside else torch.zeros(shape[0])
                torch.testing.assert_close(y[n, :, i, j], expected, atol=0, rtol=0)


def test_the_policy_is_applied_in_the_order_listed() -> None:
    # Brightness changes the cut-out block only if it is applied after the cutout.
    x = torch.full([16, 1, 8, 8], 0.25)
    assert (augmented(x, ["color", "cutout"]) == 0).sum((1, 2, 3)).min() >= 4
    assert (augmented(x, ["cutout", "color"]) == 0).sum() == 0


@pytest.mark.parametrize("strength", [0.0, torch.tensor(0.0)])
def test_strength_0_changes_no_bit(strength: Number) -> None:
    x = torch.randn(16, 3, 8, 8)
    assert torch.equal(augmented(x, ALL, strength=strength), x)


def test_empty_policy_changes_nothing() -> None:
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(augmented(x, []), x)


def test_strength_is_the_probability_that_a_sample_is_augmented() -> None:
    x = torch.randn(4000, 1, 4, 4)
    y = augmented(x, ["color"], strength=0.3)
    changed = (y != x).flatten(1).any(1)
    assert stats.binomtest(int(changed.sum()), len(x), 0.3).pvalue > 1e-3
    torch.testing.assert_close(y[changed], augmented(x, ["color"])[changed], atol=0, rtol=0)

    strength = torch.tensor(1.0)
    assert torch.equal(augmented(x, ["color"], strength=strength), augmented(x, ["color"]))
    strength.fill_(0.3)
    assert torch.equal(augmented(x, ["color"], strength=strength), y)


def test_samples_to_augment_are_drawn_only_if_strength_is_not_1() -> None:
    x = torch.randn(4, 3, 8, 8)

    def state_after(strength: Number) -> Tensor:
        augmented(x, ALL, strength=strength)
        return torch.get_rng_state()

    torch.manual_seed(0)
    for operation in (diffaugment.color, diffaugment.translation, diffaugment.cutout):
        operation(x)
    alone = torch.get_rng_state()
    assert torch.equal(state_after(1.0), alone)
    assert not torch.equal(state_after(0.5), alone)
    assert torch.equal(state_after(torch.tensor(1.0)), state_after(0.5))


def test_gradients_of_translation_and_cutout_match_closed_forms() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 2, 9, 8, requires_grad=True)
    rows, columns = torch.tensor([2, -3, 0, 1]), torch.tensor([-1, 4, 0, 2])
    direction = torch.randn(4, 2, 9, 8)

    (gradient,) = torch.autograd.grad(translate(x, rows, columns), x, direction)
    torch.testing.assert_close(gradient, translate(direction, -rows, -columns), atol=0, rtol=0)  # the adjoint

    y = cut_out(x, rows.abs(), columns.abs())
    (gradient,) = torch.autograd.grad(y, x, direction)
    torch.testing.assert_close(gradient, torch.where(y == 0, 0, direction), atol=0, rtol=0)


@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.parametrize("policy", [["color"], ["translation"], ["cutout"], ALL])
def test_first_and_second_derivatives_match_finite_differences(policy: list[str], strength: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 2, 4, 5, dtype=torch.float64, requires_grad=True)

    def critic(x: Tensor) -> Tensor:
        return augmented(x, policy, strength=strength).pow(3).sum((1, 2, 3))

    assert torch.autograd.gradcheck(critic, x)
    assert torch.autograd.gradgradcheck(critic, x)


@pytest.mark.parametrize("policy", [["color"], ["translation"], ["cutout"]])
def test_draws_differ_from_sample_to_sample_and_from_call_to_call(policy: list[str]) -> None:
    augment = DiffAugment(policy=policy, strength=1.0)
    x = torch.randn(1, 3, 32, 32).expand(64, 3, 32, 32)
    torch.manual_seed(0)
    first, second = augment(x, CLOCK), augment(x, CLOCK)
    # 64 of 81 translations and of 1089 cutouts: few coincide.
    assert len(first.flatten(1).unique(dim=0)) > 35
    assert (first == second).flatten(1).all(1).sum() < 8


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_draws_depend_neither_on_the_number_of_processes_nor_on_that_of_micro_batches(
    strength: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(8, 3, 8, 8)
    whole = augmented(x, ALL, strength=strength)
    for part, own in enumerate(torch.arange(8).chunk(4)):
        shard = seeding.Shard(rank=part // 2, world_size=2, micro_batch=part % 2, num_micro_batches=2, rows=2)
        monkeypatch.setattr(seeding, "shard", shard)
        torch.testing.assert_close(augmented(x[own], ALL, strength=strength), whole[own], atol=1e-6, rtol=0)


def test_colors_are_drawn_uniformly_from_the_published_ranges() -> None:
    n = 4000
    of_channel, of_pixel = torch.tensor([-1.0, 0.0, 1.0]).double(), torch.tensor([-1.5, 0.5, 1.0]).double()
    x = (of_channel[:, None, None] + of_pixel).expand(n, 3, 1, 3)  # its mean is 0
    y = augmented(x, ["color"])
    by_brightness = y.mean((1, 2, 3))
    by_contrast = (y[:, 0, 0, 1] - y[:, 0, 0, 0]) / 2
    by_saturation = (y[:, 2, 0, 0] - y[:, 0, 0, 0]) / 2 / by_contrast
    draws = torch.stack([by_brightness, by_saturation, by_contrast])
    for values, low, width in zip(draws, (-0.5, 0.0, 0.5), (1.0, 2.0, 1.0), strict=True):
        assert stats.kstest(values.numpy(), "uniform", args=(low, width)).pvalue > 1e-3
    assert (torch.corrcoef(draws) - torch.eye(3)).abs().max() < 5 * n**-0.5


def each_equally_often(values: Tensor, low: int, high: int) -> None:
    assert (int(values.min()), int(values.max())) == (low, high)
    assert low == high or stats.chisquare(torch.bincount(values - low)).pvalue > 1e-3


@pytest.mark.parametrize(("height", "width", "rows", "columns"), [(16, 24, 2, 3), (12, 28, 2, 4), (3, 4, 0, 1)])
def test_translations_are_drawn_uniformly_up_to_an_eighth(height: int, width: int, rows: int, columns: int) -> None:
    number = torch.arange(height * width).view(1, height, width).double()
    y = augmented(number.expand(4000, 1, height, width), ["translation"])
    center = y[:, 0, height // 2, width // 2].long()
    down, right = center // width - height // 2, center % width - width // 2
    each_equally_often(down, -rows, rows)
    each_equally_often(right, -columns, columns)
    if rows:
        assert abs(stats.pearsonr(down.numpy(), right.numpy()).statistic) < 5 * len(y) ** -0.5


@pytest.mark.parametrize(
    ("size", "block", "last"),
    [(12, 6, 12), (16, 8, 16), (10, 5, 9), (9, 5, 8), (2, 1, 1)],  # blocks of an even size have one more position
)
def test_cutouts_are_half_the_size_and_drawn_uniformly(size: int, block: int, last: int) -> None:
    y = augmented(torch.ones(4000, 2, size, size), ["cutout"])
    assert set(y.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(y[:, 0], y[:, 1])
    for axis in (1, 2):
        cut = (y[:, 0] == 0).any(3 - axis)  # [n, size], contiguous
        first, num = cut.int().argmax(1), cut.sum(1)
        assert num.max() == block
        start = torch.where(first == 0, num - block, first)
        each_equally_often(start + block // 2, 0, last)
    area = cut.sum(1) * (y[:, 0] == 0).any(2).sum(1)
    assert torch.equal((y[:, 0] == 0).sum((1, 2)), area)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 1, 1), (4, 7, 5), (3, 2, 33)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_of_any_size_and_number_of_channels_are_augmented(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    y = augmented(torch.rand(5, *shape, dtype=dtype), ALL, strength=0.5)
    assert y.shape == (5, *shape)
    assert y.dtype is dtype
    assert y.isfinite().all()


def test_the_layout_in_memory_does_not_matter() -> None:
    x = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(augmented(x.to(memory_format=torch.channels_last), ALL), augmented(x, ALL))


def test_nothing_waits_for_a_value_on_the_device() -> None:
    def penalty(change: Callable[[Tensor], Tensor]) -> Tensor:
        x = torch.zeros(4, 3, 8, 8, requires_grad=True)
        (gradient,) = torch.autograd.grad(change(x).square().sum(), x, create_graph=True)
        gradient.square().sum().backward()
        return x

    # Reading a value of a fake tensor fails.
    with FakeTensorMode():
        augment = DiffAugment(policy=ALL, strength=1.0)
        penalty(lambda x: augment(x, CLOCK))
        augment.strength = torch.tensor(0.5)
        penalty(lambda x: augment(x, CLOCK))
        with pytest.raises(DataDependentOutputException):
            penalty(lambda x: x if x.sum() > 0 else -x)


def test_samples_that_are_not_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"images.*shape \[8, 2\].*augment=\[\]"):
        DiffAugment(policy=ALL, strength=1.0)(torch.zeros(8, 2), CLOCK)


@pytest.mark.parametrize(
    ("policy", "strength", "message"),
    [
        (["colour"], 1.0, r"policy=\['colour'\].*color, translation, cutout"),
        (["color", "color"], 1.0, r"policy=\['color', 'color'\].*at most once"),
        (ALL, -0.1, r"strength=-0.1.*\[0, 1\]"),
        (ALL, 1.5, r"strength=1.5.*\[0, 1\]"),
        (ALL, float("nan"), r"strength=nan.*\[0, 1\]"),
    ],
)
def test_invalid_options_are_refused(policy: list[str], strength: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiffAugment(policy=policy, strength=strength)


def test_the_config_is_the_published_policy() -> None:
    (node,) = yaml.safe_load((CONF / "augment" / "diffaugment.yaml").read_text()).values()
    augment = instantiate(node, _convert_="all")
    assert isinstance(augment, DiffAugment)
    assert (augment.policy, augment.strength) == (ALL, 1.0)
