import math
import re
from pathlib import Path

import pytest
import torch
from oracles import load, oracle_files
from torch import Tensor

from gantrain.metrics import blocks
from gantrain.metrics.base import Statistics
from gantrain.metrics.vendi import Vendi

ORDERS = [0.0, 0.5, 1.0, 2.0, math.inf]


def measure(x: Tensor, order: float) -> float:
    metric = Vendi(num_samples=len(x), num_real=None, order=order)
    return metric.compute(Statistics(len(x), features=x), Statistics(0))["vendi"]


@pytest.fixture(params=[2048, 61], ids=["one block", "blocks of 61"])
def block_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "ROWS", request.param)


@pytest.mark.usefixtures("block_rows")
@pytest.mark.parametrize("path", oracle_files("metrics_features_*.npz"), ids=lambda path: path.stem)
def test_scores_match_the_golden_ones(path: Path) -> None:
    golden = load(path)
    names = [match for name in golden if (match := re.fullmatch(r"out\.vendi_(real|fake)_cosine_q(.*)", name))]
    assert names
    for name in names:
        found = measure(golden[f"in.{name[1]}_features"], float(name[2]))
        assert found == pytest.approx(golden[name[0]].item(), rel=1e-6)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("num", "d"), [(40, 8), (40, 100)])
def test_equal_clusters_count_each_once(order: float, num: int, d: int) -> None:
    rotation = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(0))).Q
    lengths = torch.linspace(0.1, 5, num)[:, None]
    assert measure(rotation[:4].repeat(num // 4, 1) * lengths, order) == pytest.approx(4, rel=1e-5)
    assert measure(rotation[:1].repeat(num, 1) * lengths, order) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("order", ORDERS)
def test_unequal_clusters_give_the_renyi_entropy(order: float) -> None:
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    x = torch.eye(3).repeat_interleave(torch.tensor([50, 30, 20]), 0)
    expected = {
        0.0: 3.0,
        0.5: p.sqrt().sum().square().item(),
        1.0: math.exp(-(p * p.log()).sum()),
        2.0: 1 / p.square().sum().item(),
        math.inf: 2.0,
    }
    assert measure(x, order) == pytest.approx(expected[order], rel=1e-12)


@pytest.mark.parametrize("order", ORDERS)
def test_features_of_zeros_are_one_cluster(order: float) -> None:
    assert measure(torch.cat([torch.zeros(5, 3), torch.eye(3)[:1].repeat(5, 1)]), order) == pytest.approx(2)
    assert measure(torch.zeros(5, 8), order) == pytest.approx(1)


def test_wrong_options_and_empty_sets_are_errors() -> None:
    for order in (-1.0, math.nan):
        with pytest.raises(ValueError, match="order="):
            measure(torch.eye(3), order)
    with pytest.raises(ValueError, match="there are 0 generated images"):
        Vendi(num_samples=5, num_real=None, order=1.0).compute(Statistics(0, features=torch.zeros(0, 3)), Statistics(0))
