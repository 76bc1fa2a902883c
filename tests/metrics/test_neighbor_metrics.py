"""Precision and recall, density and coverage."""

import re
from pathlib import Path

import pytest
import torch
from oracles import load, oracle_files
from prdc import compute_prdc
from torch import Tensor
from torch_fidelity.metric_prc import prc_features_to_metric

from gantrain.metrics import blocks
from gantrain.metrics.base import Statistics
from gantrain.metrics.density_coverage import DensityCoverage
from gantrain.metrics.precision_recall import PrecisionRecall

FILES = oracle_files("metrics_features_*.npz") + oracle_files("metrics_prdc*.npz")


def measure(fake: Tensor, real: Tensor, k: int) -> dict[str, float]:
    sets = Statistics(len(fake), features=fake), Statistics(len(real), features=real)
    options = {"num_samples": 50_000, "num_real": None, "k": k}
    return PrecisionRecall(**options).compute(*sets) | DensityCoverage(**options).compute(*sets)  # type: ignore[arg-type]


def rows(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[2048, 61], ids=["one block", "blocks of 61"])
def block_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "ROWS", request.param)


@pytest.mark.usefixtures("block_rows")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_values_match_the_golden_ones(path: Path) -> None:
    golden = load(path)
    neighbors = sorted(int(match[1]) for name in golden if (match := re.fullmatch(r"out\.density_k(\d+)", name)))
    assert neighbors
    for k in neighbors:
        names = {
            "precision": f"out.precision_torch_fidelity_k{k}",
            "recall": f"out.recall_torch_fidelity_k{k}",
            "density": f"out.density_k{k}",
            "coverage": f"out.coverage_k{k}",
        }
        expected = {name: golden[key].item() for name, key in names.items()}
        assert measure(golden["in.fake_features"], golden["in.real_features"], k) == pytest.approx(expected, rel=1e-6)


@pytest.mark.usefixtures("block_rows")
@pytest.mark.parametrize(("k", "shift"), [(1, 0.0), (3, 1.0), (5, 0.5)])
def test_values_match_prdc_and_torch_fidelity(k: int, shift: float) -> None:
    fake, real = rows(90, 6, 0) + shift, rows(110, 6, 1)
    found = measure(fake, real, k)
    theirs = compute_prdc(real.double().numpy(), fake.double().numpy(), nearest_k=k)
    assert found == pytest.approx({name: float(theirs[name]) for name in found}, rel=1e-12)
    same = prc_features_to_metric(fake.double(), real.double(), prc_neighborhood=k, verbose=False)
    assert {name: found[name] for name in ("precision", "recall")} == pytest.approx(
        {name: same[name] for name in ("precision", "recall")}, rel=1e-6
    )


@pytest.mark.parametrize("path", oracle_files("metrics_prdc*.npz"), ids=lambda path: path.stem)
def test_ties_match_the_golden_values_in_small_blocks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "ROWS", 3)
    test_values_match_the_golden_ones(path)


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_equal_sets_tie_at_the_radius_in_spite_of_rounding(k: int, scale: float) -> None:
    x = scale * (rows(60, 50, 0) + 3)
    # A row lies in the open balls of itself and of the rows to which it is among the k - 1 nearest: k balls on average.
    assert measure(x, x.clone(), k) == {"precision": 1, "recall": 1, "density": pytest.approx(1), "coverage": 1}


def test_duplicates_have_balls_of_radius_zero() -> None:
    real = rows(1, 40, 0).expand(6, 40) * 1.1
    far = rows(6, 40, 1)
    assert measure(real.clone(), real, 2) == {"precision": 1, "recall": 1, "density": 0, "coverage": 0}
    assert measure(far, real, 2)["precision"] == 0


def test_a_collapsed_generator_is_precise_but_covers_little() -> None:
    real = rows(200, 2, 0)
    found = measure(real[:1] + 1e-3 * rows(200, 2, 1), real, 3)
    assert found["precision"] == 1
    assert found["recall"] < 0.05
    assert found["coverage"] < 0.1


def test_points_on_a_line() -> None:
    real, fake = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.5], [2.0]])
    # Radii: real 1, 1, 2 and fake 1.5, 1.5. Fake 2 lies on the surface of the ball of 1, and inside that of 3.
    found = measure(fake, real, 1)
    assert found == {"precision": 1, "recall": 1, "density": 3 / 2, "coverage": 1}


def test_too_few_images_are_errors() -> None:
    with pytest.raises(ValueError, match=r"there are 3 real images.*at least 4"):
        measure(rows(9, 2, 0), rows(3, 2, 0), 3)
    with pytest.raises(ValueError, match="k=0: must be at least 1"):
        measure(rows(9, 2, 0), rows(9, 2, 0), 0)
    with pytest.raises(ValueError, match="num_real=5: must be at least 6"):
        DensityCoverage(num_samples=9, num_real=5, k=5)
