"""ADA's operations and controller: golden numbers, closed forms, derivatives, and the rules of augmentations."""

import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from composing import composed
from oracles import load, oracle_files
from scipy import stats
from tapes import Tape
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from gantrain import seeding
from gantrain.assemble import build_dataset, build_objective
from gantrain.augment import ada_filter, ada_operations
from gantrain.augment.ada import ADA, GATES
from gantrain.augment.ada_filter import EXPECTED_POWER, HALF_BAND, MIN_SIZE, NUM_BANDS
from gantrain.augment.ada_operations import COLOR, CORRUPTION, GEOMETRY, NORMAL, SYM6, UNIFORM, Draws, Open
from gantrain.combinations import check_data
from gantrain.config import CONF
from gantrain.errors import ConfigError
from gantrain.schedules.base import Clock

CLOCK = Clock(0.0, 0)
ALL = {gate for gates in GATES.values() for gate in gates}
BGC = (*GEOMETRY, *COLOR)
WITH_FILTER = (*BGC, "filter", *CORRUPTION)
with_and_without_filter = pytest.mark.parametrize(
    ("names", "size"), [((*BGC, *CORRUPTION), 8), (WITH_FILTER, 24)], ids=["without filter", "with filter"]
)
each_precision = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 2e-6), (torch.float32, 1e-4)])


def files(kind: str) -> Any:
    return pytest.mark.parametrize("path", oracle_files(f"ada_{kind}*.npz"), ids=lambda path: path.stem)


def made(*names: str, strength: float = 1.0, **options: Any) -> ADA:
    """Make the augmentation of the config with only these operations, or with its own if none is named."""
    (node,) = yaml.safe_load((CONF / "augment/ada.yaml").read_text()).values()
    node.pop("_target_")
    if names:
        node["operations"] = {name: float(name in names) for name in node["operations"]}
    return ADA(**node | {"strength": strength, "target": None} | options)


def percentile(q: float, n: int, dtype: torch.dtype) -> Draws:
    """Return the golden files' draws for a percentile."""
    normal = torch.erfinv(torch.tensor(2 * q - 1, dtype=torch.float64)).to(dtype)
    draws = {name: torch.full((n, count), q, dtype=dtype) for name, count in UNIFORM.items()}
    return draws | {name: normal.expand(n, count) for name, count in (NORMAL | {"filter": NUM_BANDS}).items()}


def opened(names: tuple[str, ...], n: int) -> Open:
    names = tuple("rotate_pre" if name == "rotate" else name for name in names)
    return {gate: torch.full((n,), gate in names) for gate in ALL} | {"filter": bands(*range(NUM_BANDS), n=n)}


def bands(*indices: int, n: int = 1) -> Tensor:
    """Return the gates of the filter in which only these bands are open."""
    return torch.tensor([[i in indices for i in range(NUM_BANDS)]] * n)


def apply(x: Tensor, names: tuple[str, ...], q: float) -> Tensor:
    return made(*names).apply(x, percentile(q, len(x), x.dtype), opened(names, len(x)))


def close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def operations_in(name: str) -> tuple[str, ...]:
    groups = {"all_geometric": GEOMETRY, "all_color": COLOR, "bgc": BGC, "bgc_cutout": (*BGC, "cutout")}
    return groups.get(name, (name,))


@each_precision
@files("geometric_each_op")
def test_geometric_operations_give_the_golden_images(path: Path, dtype: torch.dtype, tolerance: float) -> None:
    golden = load(path, dtype)
    for name in [name for name in golden if name.startswith("out.")]:
        operation, q = name.removeprefix("out.").rsplit("_", 1)
        close(apply(golden["in.image"], operations_in(operation), float(q)), golden[name], tolerance)


@each_precision
@files("color_each_op")
def test_color_operations_give_the_golden_images(path: Path, dtype: torch.dtype, tolerance: float) -> None:
    golden = load(path, dtype)
    for name in [name for name in golden if name.startswith("out.")]:
        kind, operation = name.removeprefix("out.").split("_", 1)
        operation, q = operation.rsplit("_", 1)
        close(apply(golden[f"in.image_{kind}"], operations_in(operation), float(q)), golden[name], tolerance)


@each_precision
@files("combined")
def test_combined_operations_and_their_gradient_are_the_golden_ones(
    path: Path, dtype: torch.dtype, tolerance: float
) -> None:
    golden = load(path, dtype)
    x = golden["in.image"].requires_grad_()
    for name in [name for name in golden if name.startswith("out.")]:
        operation, q = name.removeprefix("out.").rsplit("_", 1)
        if operation.startswith("input_gradient_"):
            y = apply(x, operations_in(operation.removeprefix("input_gradient_")), float(q))
            (gradient,) = torch.autograd.grad((y * golden["in.covector"]).sum(), x)
            close(gradient, golden[name], tolerance * float(golden[name].abs().max()) * 2)
        else:
            close(apply(x, operations_in(operation), float(q)), golden[name], tolerance)
    close(torch.tensor(SYM6, dtype=dtype) / 2**0.5, golden["const.geometry_filter"], 1e-7)


@each_precision
@files("imgfilter")
def test_the_filter_gives_the_golden_images(path: Path, dtype: torch.dtype, tolerance: float) -> None:
    golden = load(path, dtype)
    x = golden["in.image"]
    for name in [name for name in golden if name.startswith("out.")]:
        match = re.fullmatch(r"out\.imgfilter_(?:band(\d)_only_)?([\d.]+)", name)
        assert match, name
        opened = bands(*range(NUM_BANDS) if match[1] is None else [int(match[1])], n=len(x))
        y = made("filter").apply(x, percentile(float(match[2]), len(x), dtype), {"filter": opened})
        close(y, golden[name], tolerance)
    close(torch.tensor(ada_filter.filter_bank(), dtype=dtype), golden["const.imgfilter_bank"], 1e-7)


@each_precision
@files("injected_draws")
def test_golden_draws_open_the_operations_and_give_the_golden_images(
    path: Path, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = load(path, dtype)
    x = golden["in.image"]
    draws = {part[1]: golden[name] for name in golden if len(part := name.split(".")) == 4 and part[2] != "gate"}
    gates = {part[1]: golden[name] for name in golden if len(part := name.split(".")) == 4 and part[2] == "gate"}
    unused = {"noise": torch.zeros(len(x), 1, dtype=dtype)}
    blocks = iter(
        [
            torch.cat([(draws | unused)[name] for name in UNIFORM], dim=1),
            torch.cat([(draws | unused)[name] for name in NORMAL], dim=1),
            torch.cat([(gates | unused)[gate] for names in GATES.values() for gate in names], dim=1),
        ]
    )
    monkeypatch.setattr("gantrain.augment.ada.own_rows", lambda draw, shape: next(blocks).reshape(tuple(shape)))
    close(made(*BGC, "cutout", strength=float(golden["in.p"]))(x, CLOCK), golden["out.image"], tolerance)
    assert next(blocks, None) is None


@files("p_updates")
def test_p_follows_the_golden_updates(path: Path) -> None:
    golden = load(path)
    batch, interval = int(golden["hyper.batch"]), int(golden["hyper.interval"])
    ada = made(
        strength=float(golden["hyper.p_initial"]),
        target=float(golden["hyper.target"]),
        interval=interval,
        images_to_one=1000 * float(golden["hyper.kimg_per_unit"]),
    )
    for mean, p in zip(golden["in.mean_sign_of_real_logits"], golden["out.p_after_each_update"], strict=True):
        # The state before the last update of the interval, whose logits are 0 and have no sign.
        counts = torch.tensor([float(mean) * batch * interval, batch * (interval - 1), interval - 1])
        ada.load_state_dict(deepcopy(ada.state_dict()) | {"counts": counts})
        ada.observe(torch.zeros(batch))
        torch.testing.assert_close(ada.strength, p.float(), rtol=0, atol=5e-8)
        assert ada.counts.tolist() == [0, 0, 0]


def test_observed_logits_that_need_a_gradient_leave_the_state_without_one() -> None:
    ada = made(strength=0.0, target=0.6, interval=1)
    ada.observe(torch.ones(4, requires_grad=True))
    assert float(ada.strength) > 0
    assert not any(value.requires_grad for value in ada.state_dict().values())


def test_p_rises_by_its_step_for_positive_logits_and_stays_at_0_for_negative_ones() -> None:
    ada = made(strength=0.0, target=0.6)
    for _ in range(12):
        ada.observe(torch.full((64,), 0.1))
    assert float(ada.strength) == pytest.approx(3 * 64 * 4 / 500_000)  # 5.12e-4 for each of three intervals
    assert float(ada.sign) == 1.0
    for _ in range(400):
        ada.observe(torch.full((64,), -0.1))
    assert (float(ada.strength), float(ada.sign)) == (0.0, -1.0)
    fixed = made(strength=0.3)
    fixed.observe(torch.ones(64))
    assert (fixed.strength, fixed.state_dict(), fixed.logs()) == (0.3, {}, {"p": 0.3})


@pytest.mark.parametrize("strength", [0.0, torch.tensor(0.0)])
@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 9, 14)])
def test_p_0_changes_nothing_but_rounding(strength: Any, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.rand(4, *shape) * 2 - 1
    ada = made(*BGC, *CORRUPTION)
    ada.strength = strength
    close(ada(x, CLOCK), x, 2e-5)
    close(ada(x.double(), CLOCK), x.double(), 1e-11)


def test_the_filter_is_orthogonal_so_that_resampling_without_a_change_is_exact() -> None:
    taps = torch.tensor(SYM6, dtype=torch.float64)
    products = torch.stack([(taps[: 12 - 2 * m] * taps[2 * m :]).sum() for m in range(6)])
    close(products, torch.eye(6, dtype=torch.float64)[0], 1e-10)
    assert float(taps.sum()) == pytest.approx(2**0.5)


def test_bands_are_split_by_the_wavelet_sym2() -> None:
    root = 3**0.5  # the closed form of its filter
    taps = np.array([1 - root, 3 - root, 3 + root, 1 + root]) / (4 * 2**0.5)
    np.testing.assert_allclose(HALF_BAND, np.correlate(taps, taps, "full") / 2, atol=1e-15)


@pytest.mark.parametrize("strength", [0.0, torch.tensor(0.0)])
@pytest.mark.parametrize("shape", [(3, 24, 24), (1, 22, 31)])
def test_a_filter_with_p_0_changes_no_bit(strength: Any, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, *shape)
    ada = made("filter")
    assert (ada(x, CLOCK) - x).abs().amax((1, 2, 3)).min() > 0.01
    ada.strength = strength
    assert torch.equal(ada(x, CLOCK), x)


@pytest.mark.parametrize("band", range(NUM_BANDS))
def test_gains_follow_their_closed_form(band: int) -> None:
    """A constant image has only the lowest frequency, a checkerboard only the highest, also with reflected edges."""
    q = 0.8
    factor = 2 ** float(percentile(q, 1, torch.float64)["filter"][0, 0])
    scale = (1 + EXPECTED_POWER[band] * (factor**2 - 1)) ** -0.5
    gains = [scale * (factor if i == band else 1.0) for i in range(NUM_BANDS)]
    assert sum(gain**2 * power for gain, power in zip(gains, [10 / 13, 1 / 13, 1 / 13, 1 / 13], strict=True)) == (
        pytest.approx(1)
    )
    constant = torch.ones(1, 1, 22, 25, dtype=torch.float64)
    checkerboard = (-1.0) ** (torch.arange(22)[:, None] + torch.arange(25)) * constant
    for x, gain in ((constant, gains[0]), (checkerboard, gains[-1])):
        y = made("filter").apply(x, percentile(q, 1, x.dtype), {"filter": bands(band)})
        close(y, x * gain**2, 1e-12)  # once for the rows and once for the columns


def test_the_filter_follows_geometry_and_color_and_precedes_noise_and_cutout() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 24, 24, dtype=torch.float64)
    draws, is_open = made(*WITH_FILTER).draw(x)
    torch.manual_seed(1)
    together = made(*WITH_FILTER).apply(x, draws, is_open)
    torch.manual_seed(1)
    for names in (BGC, ("filter",), CORRUPTION):
        x = made(*names).apply(x, draws, is_open)
    close(together, x, 1e-12)


def test_without_the_filter_random_numbers_are_those_of_earlier_versions() -> None:
    x, ada = torch.zeros(5, 3, 24, 24), made(*BGC, *CORRUPTION, strength=0.4)
    torch.manual_seed(0)
    uniform, normal, gates = torch.rand(5, 10), torch.randn(5, 8), torch.rand(5, 15)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    draws, is_open = ada.draw(x)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(torch.cat([draws[name] for name in UNIFORM], 1), uniform)
    assert torch.equal(torch.cat([draws[name] for name in NORMAL], 1), normal)
    assert torch.equal(is_open["cutout"], gates[:, -1] < 0.4)
    assert draws.keys() == {*UNIFORM, *NORMAL}
    assert is_open.keys() == ALL
    torch.manual_seed(0)
    more_draws, more_open = made(*WITH_FILTER, strength=0.4).draw(x)  # and the filter changes none of the others
    assert all(torch.equal(more_draws[name], value) for name, value in draws.items())
    assert all(torch.equal(more_open[name], value) for name, value in is_open.items())


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_quarter_turns_and_flips_move_smooth_images_as_torch_does(quarters: int) -> None:
    rows, columns = torch.meshgrid(*[torch.linspace(-1, 1, 33, dtype=torch.float64)] * 2, indexing="ij")
    x = torch.exp(-4 * ((rows - 0.2) ** 2 + (columns + 0.3) ** 2))[None, None]
    turned = apply(x, ("rotate90",), (quarters + 0.5) / 4)
    close(turned, torch.rot90(x, quarters, (2, 3)), 0.02)
    close(apply(x, ("xflip",), 0.75), x.flip(3), 0.02)


def test_colors_follow_their_closed_forms() -> None:
    torch.manual_seed(0)
    x, q = torch.randn(5, 3, 4, 4, dtype=torch.float64), 0.8
    e = float(percentile(q, 1, torch.float64)["scale"][0])
    gray = x.mean(1, keepdim=True)
    close(apply(x, ("brightness",), q), x + 0.2 * e, 1e-12)
    close(apply(x, ("contrast",), q), x * 2 ** (0.5 * e), 1e-12)
    close(apply(x, ("lumaflip",), q), x - 2 * gray, 1e-12)
    close(apply(x, ("saturation",), q), gray + (x - gray) * 2**e, 1e-12)
    turned = apply(x, ("hue",), q)
    close(turned.mean(1), x.mean(1), 1e-12)
    close(turned.norm(dim=1), x.norm(dim=1), 1e-12)
    thrice = x
    for _ in range(3):
        thrice = apply(thrice, ("hue",), (1 / 3 + 1) / 2)  # a third of pi, so a sixth of a full turn
    pairs = (thrice - gray) * (x - gray)
    assert float(pairs.sum()) == pytest.approx(-float(((x - gray) ** 2).sum()))


def test_cutout_is_a_square_of_a_quarter_of_the_image() -> None:
    torch.manual_seed(0)
    y = made("cutout")(torch.ones(500, 1, 16, 16), CLOCK)
    assert set(y.unique().tolist()) == {0.0, 1.0}
    centered = (y[:, 0, 4, 4] == 0).double().mean()
    assert float((y == 0).sum((1, 2, 3)).max()) == 64
    assert float(centered) == pytest.approx(0.25, abs=0.08)


def test_noise_has_a_half_normal_amplitude() -> None:
    torch.manual_seed(0)
    y = made("noise")(torch.zeros(2000, 1, 8, 8), CLOCK)
    stds = y.flatten(1).std(1) / 0.1
    assert stats.kstest(stds.numpy(), stats.halfnorm.cdf).pvalue > 1e-4


@pytest.mark.parametrize("p", [0.3, 1.5])
def test_each_operation_opens_with_its_probability(p: float) -> None:
    torch.manual_seed(0)
    ada = made(*BGC, *CORRUPTION)
    ada.operations["hue"] = 0.5
    ada.strength = p
    _, is_open = ada.draw(torch.zeros(4000, 3, 4, 4))
    assert is_open.keys() == ALL
    for gate, values in is_open.items():
        of_rotation = 1 - max(1 - p, 0.0) ** 0.5
        chance = of_rotation if gate.startswith("rotate_") else p / 2 if gate == "hue" else p
        assert stats.binomtest(int(values.sum()), 4000, min(chance, 1.0)).pvalue > 1e-4, gate
    # Independent of each other.
    assert p > 1 or (torch.corrcoef(torch.stack([*is_open.values()]).double()) - torch.eye(15)).abs().max() < 0.08


def test_each_band_is_amplified_with_its_probability_by_a_factor_of_its_own() -> None:
    torch.manual_seed(0)
    ada = made("hue", "filter", strength=0.6)
    ada.operations["filter"] = 0.5
    draws, is_open = ada.draw(torch.zeros(4000, 3, 24, 24))
    counts = is_open["filter"].sum(0).tolist()
    assert all(stats.binomtest(count, 4000, 0.3).pvalue > 1e-4 for count in counts)
    assert stats.kstest(draws["filter"].flatten().numpy(), stats.norm.cdf).pvalue > 1e-4
    for values in (draws["filter"], torch.cat([is_open["filter"], is_open["hue"][:, None]], 1).double()):
        assert (torch.corrcoef(values.T) - torch.eye(values.shape[1])).abs().max() < 0.08


@pytest.mark.parametrize(
    ("names", "shape"), [(GEOMETRY, (3, 3, 4)), (COLOR, (3, 3, 4)), (CORRUPTION, (3, 3, 4)), (("filter",), (1, 22, 23))]
)
def test_first_and_second_derivatives_match_finite_differences(names: tuple[str, ...], shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    ada = made(*names)
    x = torch.randn(1, *shape, dtype=torch.float64, requires_grad=True)
    fast = names == ("filter",)  # its smallest image has too many pixels for one difference each

    def critic(x: Tensor) -> Tensor:
        torch.manual_seed(0)
        return ada(x, CLOCK).pow(3).sum((1, 2, 3))

    assert torch.autograd.gradcheck(critic, x, fast_mode=fast)
    assert torch.autograd.gradgradcheck(critic, x, fast_mode=fast)


@with_and_without_filter
def test_draws_depend_neither_on_the_number_of_processes_nor_on_that_of_micro_batches(
    monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], size: int
) -> None:
    x, ada = torch.randn(8, 3, size, size), made(*names, strength=0.7)
    torch.manual_seed(0)
    whole = ada(x, CLOCK)
    assert (whole - x).abs().amax((1, 2, 3)).min() > 0.01
    for part, own in enumerate(torch.arange(8).chunk(4)):
        shard = seeding.Shard(rank=part // 2, world_size=2, micro_batch=part % 2, num_micro_batches=2, rows=2)
        monkeypatch.setattr(seeding, "shard", shard)
        torch.manual_seed(0)
        close(ada(x[own], CLOCK), whole[own], 1e-5)


@pytest.fixture
def without_constants() -> Iterator[None]:
    """Forget constants that are computed once, before and after the test."""
    caches = (ada_operations._resampling_matrix, ada_filter._band_matrices)
    for function in caches:
        function.cache_clear()
    yield
    for function in caches:
        function.cache_clear()


@with_and_without_filter
@pytest.mark.usefixtures("without_constants")
def test_nothing_waits_for_a_value_on_the_device(names: tuple[str, ...], size: int) -> None:
    with FakeTensorMode():  # reading a value of a fake tensor fails
        ada = made(*names, strength=0.5, target=0.6)
        x = torch.zeros(4, 3, size, size, requires_grad=True)
        (gradient,) = torch.autograd.grad(ada(x, CLOCK).square().sum(), x, create_graph=True)
        gradient.square().sum().backward()
        ada.observe(torch.zeros(4))


@with_and_without_filter
def test_recorded_operations_are_those_for_any_image_and_p(names: tuple[str, ...], size: int) -> None:
    """A capture as a CUDA graph records operations for one p, and replays them for others."""
    ada = made(*names, strength=0.0, target=0.6)
    x = torch.randn(4, 3, size, size, requires_grad=True)

    def run() -> tuple[Tensor, Tensor]:
        y = ada(x, CLOCK)
        (gradient,) = torch.autograd.grad(y.square().sum(), x)
        return y, gradient

    run()  # constants are copied to the device before a capture
    with Tape() as tape:
        recorded = run()
    with torch.no_grad():
        x.normal_()
        ada.strength.fill_(0.7)
    torch.manual_seed(0)
    tape.replay()
    torch.manual_seed(0)
    for replayed, eager in zip(recorded, run(), strict=True):
        assert torch.equal(replayed, eager)


@pytest.fixture
def with_tf32() -> Iterator[None]:
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, True
    yield
    matmul.allow_tf32 = before


@pytest.mark.usefixtures("with_tf32")
def test_tf32_is_off_in_all_products() -> None:
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if "mm" in str(function):
                seen.append(torch.backends.cuda.matmul.allow_tf32)
            return function(*args, **kwargs or {})

    with Watch():
        made(*WITH_FILTER)(torch.zeros(2, 3, 24, 24), CLOCK)
    assert len(seen) >= 9
    assert not any(seen)
    assert torch.backends.cuda.matmul.allow_tf32


def test_images_that_are_too_small_for_the_filter_are_refused_before_the_training() -> None:
    settings = ("dataset=digits", "dataset.image_size=21", "augment=[ada]", "augment.ada.operations.filter=0.5")
    config = composed(*settings)
    with pytest.raises(ConfigError, match=r"digits: .*filter=0\.5 .*at least 22 x 22 .* 21 x 21; .*filter=0\."):
        check_data(config, build_objective(config), build_dataset(config.dataset))
    with pytest.raises(ValueError, match=r"at least 22 x 22 .* 30 x 21"):
        made("filter")(torch.zeros(1, 3, 30, 21), CLOCK)
    made("filter").check_shape((3, MIN_SIZE, MIN_SIZE))
    made(*BGC).check_shape((3, 2, 2))


def test_a_config_without_the_filter_turns_it_off() -> None:
    operations, ranges = made().operations, made().ranges
    older = {name: value for name, value in operations.items() if name != "filter"}
    without = {name: value for name, value in ranges.items() if name != "filter"}
    assert operations["filter"] == 0.0
    assert made(operations=older, ranges=without).operations == operations
    with pytest.raises(ValueError, match=r"ranges: filter: there must be a number"):
        made(operations=operations | {"filter": 1.0}, ranges=without)
    with pytest.raises(ValueError, match=r"operations: hue: there must be a number"):
        made(operations={name: value for name, value in older.items() if name != "hue"})


@pytest.mark.parametrize("shape", [(8, 2), (2, 4, 8, 8)])
def test_samples_that_are_not_images_of_1_or_3_channels_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"1 or 3 channels.*augment=\[\]"):
        made()(torch.zeros(shape), CLOCK)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": -0.1}, r"strength=-0.1.*\[0, 1\]"),
        ({"target": 1.5}, r"target=1.5.*\(-1, 1\)"),
        ({"interval": 0}, "interval=0.*at least 1"),
        ({"images_to_one": 0.0}, "images_to_one=0.0.*above 0"),
        ({"operations": {"xflop": 1.0}}, "operations: .*xflop.*xflip, rotate90"),
        ({"ranges": {}}, "ranges: .*scale"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(**options)


def test_a_negative_multiple_is_refused() -> None:
    operations = made().operations | {"hue": -1.0}
    with pytest.raises(ValueError, match=r"operations.hue=-1.0.*at least 0"):
        made(operations=operations)
