import math
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from oracles import load, oracle_files
from torch import Tensor

from gantrain.config import CONF
from gantrain.schedules.base import Clock, Schedule
from gantrain.schedules.constant import Constant
from gantrain.schedules.cosine import Cosine
from gantrain.schedules.linear import Linear
from gantrain.schedules.ramp import Ramp
from gantrain.schedules.steps import Steps

LR = ["optimizer.lr"]
NAMES = sorted(path.stem for path in CONF.glob("schedule/*.yaml") if not path.stem.startswith("r3gan"))  # no bundles
SHAPES = sorted(path.stem for path in CONF.glob("schedule/shape/*.yaml"))
each_ramp = pytest.mark.parametrize("shape", [Linear, Cosine])


def at_fraction(fraction: float) -> Clock:
    return Clock(fraction=fraction, images=0)


def at_images(images: int | Tensor) -> Clock:
    return Clock(fraction=0.0, images=images)


@cache
def composed(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose(None, list(overrides)))
        return config["schedule"]  # type: ignore[no-any-return]


@each_ramp
def test_ramp_is_exactly_constant_before_and_after_its_span(shape: type[Ramp]) -> None:
    # Numbers whose sums and differences are rounded.
    schedule = shape(of=LR, start=0.9, end=0.99, begin=0.2, finish=0.7, unit="fraction")
    assert [schedule(at_fraction(f)) for f in (0.0, 0.1, 0.2)] == [0.9] * 3
    assert [schedule(at_fraction(f)) for f in (0.7, 0.8, 1.0)] == [0.99] * 3


@each_ramp
def test_ramp_is_monotonic_and_has_the_mean_value_in_the_middle(shape: type[Ramp]) -> None:
    schedule = shape(of=LR, start=3.0, end=-1.0, begin=0.2, finish=0.7, unit="fraction")
    assert schedule(at_fraction(0.45)) == pytest.approx(1.0, abs=1e-12)
    values = [schedule(at_fraction(0.2 + 0.5 * i / 100)) for i in range(101)]
    assert all(late < early for early, late in pairwise(values))


def test_linear_is_a_line() -> None:
    schedule = Linear(of=LR, start=1.0, end=0.0, begin=0.0, finish=1.0, unit="fraction")
    for step in range(11):
        assert schedule(at_fraction(step / 10)) == pytest.approx(1 - step / 10, abs=1e-15)


def test_cosine_is_half_a_period() -> None:
    schedule = Cosine(of=LR, start=2.0, end=0.0, begin=0.0, finish=1.0, unit="fraction")
    # 1 + cos of 60, 90 and 120 degrees
    for fraction, expected in [(1 / 3, 1.5), (1 / 2, 1.0), (2 / 3, 0.5)]:
        assert schedule(at_fraction(fraction)) == pytest.approx(expected, abs=1e-12)
    early, late = schedule(at_fraction(1e-4)), schedule(at_fraction(1 - 1e-4))
    assert 2 - early == pytest.approx((math.pi * 1e-4) ** 2 / 2, rel=1e-6)  # the slope is 0 at both ends
    assert late == pytest.approx((math.pi * 1e-4) ** 2 / 2, rel=1e-6)


@each_ramp
def test_span_in_images_follows_the_number_of_images(shape: type[Ramp]) -> None:
    schedule = shape(of=LR, start=1.0, end=0.5, begin=1000, finish=3000, unit="images")
    values = [schedule(at_images(images)) for images in (0, 1000, 2000, 3000, 4000)]
    assert values == pytest.approx([1.0, 1.0, 0.75, 0.5, 0.5], abs=1e-15)
    assert schedule(Clock(fraction=0.9, images=0)) == 1.0


def test_schedule_returns_a_float_for_a_clock_of_tensors() -> None:
    clock = Clock(fraction=torch.tensor(0.5), images=torch.tensor(2000))
    for unit, finish in (("fraction", 1.0), ("images", 4000.0)):
        value = Linear(of=LR, start=1.0, end=0.0, begin=0.0, finish=finish, unit=unit)(clock)
        assert isinstance(value, float)
        assert value == 0.5


def test_constant_is_constant() -> None:
    schedule = Constant(of=LR, value=0.3)
    assert {schedule(Clock(f, i)) for f, i in ((0.0, 0), (0.5, 10), (0.99, 10**9))} == {0.3}


def test_steps_change_exactly_at_their_times() -> None:
    values, at = [1.0, 0.1, 5.0, 0.0], [0.1, 0.3, 0.7]
    schedule = Steps(of=LR, values=values, at=at, unit="fraction")
    assert schedule(at_fraction(0.0)) == 1.0
    for time, before, after in zip(at, values, values[1:], strict=False):
        assert schedule(at_fraction(math.nextafter(time, 0))) == before
        assert schedule(at_fraction(time)) == schedule(at_fraction(math.nextafter(time, 1))) == after


def test_steps_in_images_count_images() -> None:
    values, at = [1.0, 0.1, 5.0, 0.0], [3, 10, 49_999_999]
    schedule = Steps(of=LR, values=values, at=at, unit="images")
    for time, before, after in zip(at, values, values[1:], strict=False):
        assert [schedule(at_images(time + i)) for i in (-1, 0, 1)] == [before, after, after]
    assert schedule(Clock(fraction=0.9, images=0)) == 1.0


@pytest.mark.parametrize("path", oracle_files("r3gan_schedules*.npz"), ids=lambda path: path.stem)
@pytest.mark.parametrize("factored", [False, True], ids=["value", "factor"])
def test_cosine_gives_the_golden_schedules(path: Path, factored: bool) -> None:
    golden = load(path)
    images = golden["in.images_seen"]
    first, last = int(images.argmin()), int(images.argmax())
    assert images[first] == 0
    for name in ("lr", "beta2", "gamma", "ema_half_life_images", "augment_p"):
        expected = golden[f"out.{name}"]
        start, end = expected[first].item(), expected[last].item()
        configured = (start or end) if factored else 1.0
        schedule = Cosine(
            of=LR,
            start=start / configured,
            end=end / configured,
            begin=0,
            finish=num_images(images, (expected - start) / (end - start)),
            unit="images",
        )
        made = torch.tensor([configured * schedule(at_images(int(i))) for i in images], dtype=torch.float64)
        torch.testing.assert_close(made, expected, atol=1e-12 * expected.abs().max().item(), rtol=0)


def num_images(images: Tensor, weights: Tensor) -> float:
    """Compute the length of a recorded schedule, which the files do not hold, from its point closest to the middle."""
    middle = int((weights - 0.5).abs().argmin())
    return round(images[middle].item() * math.pi / math.acos(1 - 2 * weights[middle].item()))


@each_ramp
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"begin": 0.5, "finish": 0.5}, r"begin=0.5, finish=0.5.*begin < finish"),
        ({"begin": -0.1}, r"begin=-0.1.*0 <= begin"),
        ({"finish": 2000.0}, r"finish=2000.0, unit=fraction.*finish <= 1"),
        ({"unit": "steps"}, r"unit=steps.*unit=fraction.*unit=images"),
        ({"start": math.nan}, r"start=nan.*finite"),
        ({"end": math.inf}, r"end=inf.*finite"),
        ({"of": []}, r"of=\[\].*at least one config key"),
        ({"of": ""}, r"of=.*at least one config key"),
    ],
)
def test_invalid_ramps_are_refused(shape: type[Ramp], values: dict[str, Any], message: str) -> None:
    usual: dict[str, Any] = {"of": LR, "start": 1.0, "end": 0.0, "begin": 0.0, "finish": 1.0, "unit": "fraction"}
    with pytest.raises(ValueError, match=message):
        shape(**usual | values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"values": [1.0, 0.1]}, r"values=\[1.0, 0.1\], at=\[0.5, 0.75\].*one element more than at"),
        ({"values": [1.0, 0.1, 0.2, 0.3]}, "one element more than at"),
        ({"at": [0.75, 0.5]}, r"at=\[0.75, 0.5\].*increase"),
        ({"at": [0.5, 0.5]}, "increase"),
        ({"at": [0.0, 0.5]}, "above 0"),
        ({"at": [0.5, 1.5]}, r"at=\[0.5, 1.5\], unit=fraction.*up to 1"),
        ({"unit": "epochs"}, r"unit=epochs"),
        ({"values": [1.0, math.nan, 0.0]}, r"values=nan.*finite"),
    ],
)
def test_invalid_steps_are_refused(values: dict[str, Any], message: str) -> None:
    usual: dict[str, Any] = {"of": LR, "values": [1.0, 0.1, 0.01], "at": [0.5, 0.75], "unit": "fraction"}
    with pytest.raises(ValueError, match=message):
        Steps(**usual | values)


def test_infinite_constant_is_refused() -> None:
    with pytest.raises(ValueError, match=r"value=inf.*finite"):
        Constant(of=LR, value=math.inf)


def test_single_key_may_be_given_without_a_list() -> None:
    assert Constant(of="optimizer.lr", value=1.0).of == ["optimizer.lr"]


def test_schedule_options_merge_by_name() -> None:
    nodes = composed(f"+schedule=[{','.join(NAMES)}]")
    assert list(nodes) == NAMES
    for name, node in nodes.items():
        schedule = instantiate(node, _convert_="all")
        assert isinstance(schedule, Linear), name
        assert isinstance(schedule, Schedule)
        assert schedule.of == node["of"]


@pytest.mark.parametrize(
    ("name", "begins", "ends"),
    [
        *[(name, 1.0, 0.0) for name in ("lr", "generator_lr", "discriminator_lr")],
        *[(name, 0.0, 1.0) for name in ("ema_halflife", "augment")],
        ("betas", 0.9, 0.99),
        ("penalty", 1.0, 0.1),
    ],
)
def test_shipped_schedules_have_their_values_at_start_middle_and_end(name: str, begins: float, ends: float) -> None:
    schedule = instantiate(composed(f"+schedule=[{name}]")[name], _convert_="all")
    assert [schedule(at_fraction(f)) for f in (0.0, 0.5, 1.0)] == pytest.approx([begins, (begins + ends) / 2, ends])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_every_schedule_takes_every_shape(name: str, shape: str) -> None:
    ends_set = {"start", "end"} & set(yaml.safe_load((CONF / "schedule" / f"{name}.yaml").read_text())[name])
    without = [f"~schedule.{name}.{key}" for key in sorted(ends_set) if shape in ("constant", "steps")]
    node = composed(f"+schedule=[{name}]", f"schedule/shape@schedule.{name}={shape}", *without)[name]
    schedule = instantiate(node, _convert_="all")
    assert type(schedule).__name__.lower() == shape
    assert schedule.of == composed(f"+schedule=[{name}]")[name]["of"]


def test_one_of_two_schedules_can_have_another_shape_and_end() -> None:
    overrides = (
        "schedule/shape@schedule.lr=cosine",
        "schedule.lr.end=0.25",
        "schedule.penalty.of=[regularizer.r1.gamma]",
    )
    nodes = composed("+schedule=[lr,penalty]", *overrides)
    lr, penalty = (instantiate(nodes[name], _convert_="all") for name in ("lr", "penalty"))
    assert isinstance(lr, Cosine)
    assert lr.of == ["optimizer.lr", "discriminator_optimizer.lr"]
    assert lr(at_fraction(0.25)) == pytest.approx(0.25 + 0.75 * (1 + math.cos(math.pi / 4)) / 2)
    assert isinstance(penalty, Linear)
    assert penalty.of == ["regularizer.r1.gamma"]
