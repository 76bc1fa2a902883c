"""KID and CMMD."""

from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import load, oracle_files
from torch import Tensor
from torch_fidelity.metric_kid import kid_features_to_metric

from gantrain.metrics import blocks
from gantrain.metrics.base import Statistics
from gantrain.metrics.cmmd import CMMD, gaussian_mmd
from gantrain.metrics.kid import KID, unbiased_mmd

FILES = oracle_files("metrics_features_*.npz")


def features(x: Tensor) -> Statistics:
    return Statistics(len(x), features=x)


def rows(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(params=[2048, 61], ids=["one block", "blocks of 61"])
def block_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "ROWS", request.param)


@pytest.mark.usefixtures("block_rows")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_kid_of_whole_sets_matches_the_golden_one(path: Path) -> None:
    golden = load(path)
    fake, real = golden["in.fake_features"], golden["in.real_features"]
    assert unbiased_mmd(fake, real) == pytest.approx(golden["out.kid_full_unbiased"].item(), rel=1e-9)
    num = int(golden["hyper.kid_first_min_n"])
    expected = golden["out.kid_first_min_n_torch_fidelity"].item()
    # All images as the subset: only their order is random.
    metric = KID(num_samples=num, num_real=None, subset_size=num, num_subsets=2)
    found = metric.compute(features(fake[:num]), features(real[:num]))
    assert found["kid"] == pytest.approx(expected, rel=1e-6)
    assert found["kid_std"] < 1e-9 * found["kid"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_kid_over_given_subsets_matches_the_golden_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = load(path)
    subsets = {kind: golden[f"in.kid_subset_indices_{kind}"].long() for kind in ("real", "fake")}
    subsets["generated"] = subsets["fake"]
    num, size = subsets["real"].shape
    monkeypatch.setattr(KID, "_subset", lambda self, _, kind, index: subsets[kind][index])
    metric = KID(num_samples=size, num_real=None, subset_size=size, num_subsets=num)
    found = metric.compute(features(golden["in.fake_features"]), features(golden["in.real_features"]))
    assert found["kid"] == pytest.approx(golden["out.kid_subsets_mean_torch_fidelity"].item(), rel=1e-6)
    assert found["kid_std"] == pytest.approx(golden["out.kid_subsets_std_torch_fidelity"].item(), rel=1e-6)


def test_kid_is_reproducible_and_close_to_torch_fidelity_with_its_own_subsets() -> None:
    fake, real = rows(400, 16, 0) * 1.3, rows(500, 16, 1)
    metric = KID(num_samples=400, num_real=None, subset_size=100, num_subsets=50)
    found = metric.compute(features(fake), features(real))
    assert metric.compute(features(fake), features(real)) == found
    theirs = kid_features_to_metric(fake, real, kid_subsets=50, kid_subset_size=100, verbose=False)
    mean, std = theirs["kernel_inception_distance_mean"], theirs["kernel_inception_distance_std"]
    assert found["kid"] == pytest.approx(mean, abs=4 * std / 50**0.5)
    assert found["kid_std"] == pytest.approx(std, rel=0.3)


def test_kid_of_equal_distributions_is_zero_on_average() -> None:
    metric = KID(num_samples=1000, num_real=None, subset_size=50, num_subsets=60)
    found = metric.compute(features(rows(2000, 8, 0)), features(rows(2000, 8, 1)))
    assert abs(found["kid"]) < 4 * found["kid_std"] / 60**0.5


def test_kid_of_too_few_images_is_an_error() -> None:
    metric = KID(num_samples=1000, num_real=None, subset_size=100, num_subsets=2)
    with pytest.raises(ValueError, match=r"99 real images.*at least 100"):
        metric.compute(features(rows(100, 2, 0)), features(rows(99, 2, 0)))
    with pytest.raises(ValueError, match="num_samples=50: must be at least 100"):
        KID(num_samples=50, num_real=None, subset_size=100, num_subsets=2)


@pytest.mark.usefixtures("block_rows")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_cmmd_matches_the_golden_one(path: Path) -> None:
    golden = load(path)
    fake, real = golden["in.fake_features"], golden["in.real_features"]
    found = CMMD(num_samples=10, num_real=None, bandwidth=10.0).compute(features(fake), features(real))["cmmd"]
    assert found == pytest.approx(golden["out.cmmd_unit_norm_features"].item(), rel=1e-6)
    raw = 1000 * gaussian_mmd(fake, real, 10.0)
    assert raw == pytest.approx(golden["out.cmmd_raw_features"].item(), rel=1e-6)


def test_cmmd_of_two_points() -> None:
    # k(x, x) + k(y, y) - 2 k(x, y), where the unit-norm points are at right angles.
    metric = CMMD(num_samples=1, num_real=None, bandwidth=1.0)
    found = metric.compute(features(torch.tensor([[3.0, 0.0]])), features(torch.tensor([[0.0, 0.1]])))["cmmd"]
    assert found == pytest.approx(1000 * (2 - 2 * torch.tensor(-1.0).double().exp().item()))
    assert metric.compute(features(rows(9, 4, 0)), features(rows(9, 4, 0)))["cmmd"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("wrong", [{"bandwidth": 0.0}, {"num_samples": 0}])
def test_options_of_cmmd_must_be_positive(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}=0"):
        CMMD(**{"num_samples": 10, "num_real": None, "bandwidth": 10.0, **wrong})
