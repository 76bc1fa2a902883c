import math
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from oracles import load, oracle_files
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from gantrain.metrics.base import Statistics
from gantrain.metrics.fd_dinov2 import FrechetDINOv2
from gantrain.metrics.fid import FID
from gantrain.metrics.frechet import factor, frechet_distance, frechet_distance_of_features
from gantrain.metrics.intra_class_fid import IntraClassFID

FILES = oracle_files("metrics_features_*.npz")


def statistics(x: Tensor) -> Statistics:
    x = x.double()
    return Statistics(len(x), mean=x.mean(0), covariance=torch.cov(x.T))


def random_rows(n: int, d: int, seed: int) -> Tensor:
    """Correlated rows with a mean."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return x @ torch.randn(d, d, generator=generator, dtype=torch.float64) + torch.rand(d, generator=generator)


def with_sqrtm(x: Tensor, y: Tensor) -> float:
    """The usual computation, right for more rows than columns."""
    a, b = torch.cov(x.T), torch.cov(y.T)
    root = np.trace(scipy.linalg.sqrtm((a @ b).numpy()).real)
    return ((x.mean(0) - y.mean(0)).square().sum() + (a + b).trace() - 2 * root).item()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_distances_match_the_golden_ones(path: Path) -> None:
    golden = load(path)
    fake, real = golden["in.fake_features"], golden["in.real_features"]
    found = [
        FID(num_samples=50_000, num_real=None).compute(statistics(fake), statistics(real))["fid"],
        FrechetDINOv2(num_samples=50_000, num_real=None).compute(statistics(fake), statistics(real))["fd_dinov2"],
        frechet_distance_of_features(fake, real),
    ]
    # Of singular covariances the usual ways have errors of 3e-7; the nuclear norm has not.
    assert found == pytest.approx([golden["out.fid_nuclear_norm"].item()] * 3, rel=1e-9)
    for route in ("scipy_sqrtm", "torch_fidelity", "clean_fid", "symmetric_eigh"):
        assert found == pytest.approx([golden[f"out.fid_{route}"].item()] * 3, rel=2e-6)


def test_distance_of_isotropic_gaussians() -> None:
    d, mean, identity = 5, torch.arange(5.0).double(), torch.eye(5, dtype=torch.float64)
    assert frechet_distance(mean, 4 * identity, 0 * mean, 9 * identity) == pytest.approx(30 + d * (3 - 2) ** 2)


def test_distance_of_gaussians_in_the_plane() -> None:
    a = torch.tensor([[2.0, 0.5], [0.5, 1.0]]).double()
    b = torch.tensor([[1.0, -0.3], [-0.3, 3.0]]).double()
    zero = torch.zeros(2).double()
    # The eigenvalues p, q of A B satisfy (sqrt p + sqrt q)^2 = p + q + 2 sqrt(p q).
    root = math.sqrt((a @ b).trace() + 2 * math.sqrt(a.det() * b.det()))
    assert frechet_distance(zero, a, zero, b) == pytest.approx((a + b).trace().item() - 2 * root, rel=1e-12)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1.0, 1e30])
def test_distance_to_a_single_point_is_the_trace(scale: float) -> None:
    covariance, zero = scale * torch.diag(torch.tensor([1.0, 2.0, 0.0])).double(), torch.zeros(3).double()
    assert frechet_distance(zero, covariance, zero, 0 * covariance) == pytest.approx(3 * scale, rel=1e-12)
    assert frechet_distance(zero, covariance, zero, covariance) == pytest.approx(0, abs=1e-12 * scale)


@pytest.mark.parametrize(("n", "m", "d"), [(40, 30, 8), (300, 250, 64)])
def test_distance_of_features_matches_scipy(n: int, m: int, d: int) -> None:
    x, y = random_rows(n, d, 0), random_rows(m, d, 1)
    assert frechet_distance_of_features(x, y) == pytest.approx(with_sqrtm(x, y), rel=1e-9)
    theirs = fid_statistics_to_metric(*(fid_features_to_statistics(z.float()) for z in (x, y)), verbose=False)
    expected = theirs["frechet_inception_distance"]
    assert frechet_distance_of_features(x.float(), y.float()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("n", "m", "d"), [(2, 2, 10), (9, 20, 40), (40, 40, 40), (41, 20, 40)])
def test_moments_and_features_agree_with_fewer_rows_than_columns(n: int, m: int, d: int) -> None:
    x, y = random_rows(n, d, 0), random_rows(m, d, 1)
    moments = [x.mean(0), torch.cov(x.T), y.mean(0), torch.cov(y.T)]
    assert frechet_distance(*moments) == pytest.approx(frechet_distance_of_features(x, y), rel=1e-9)
    assert frechet_distance(*moments[2:], *moments[:2]) == pytest.approx(frechet_distance(*moments), rel=1e-9)


@pytest.mark.parametrize("n", [10, 33, 200])
def test_factor_has_the_rank_of_the_covariance(n: int) -> None:
    covariance = torch.cov(random_rows(n, 32, 0).T)
    found = factor(covariance)
    assert found.shape == (32, min(n - 1, 32))
    torch.testing.assert_close(found @ found.T, covariance)


def test_ill_conditioned_covariance_keeps_its_small_eigenvalues() -> None:
    deviations = torch.logspace(0, -6, 50, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(50, 50, generator=torch.Generator().manual_seed(0)).double()).Q
    zero, covariance = torch.zeros(50).double(), (rotation * deviations.square()) @ rotation.T
    found = frechet_distance(zero, covariance, zero, torch.eye(50).double())
    assert found == pytest.approx((deviations - 1).square().sum().item(), rel=1e-10)


def test_nan_and_too_few_images_are_errors() -> None:
    x = random_rows(5, 3, 0)
    fid, good = FID(num_samples=10, num_real=None), statistics(x)
    with pytest.raises(ValueError, match="covariance of the features contains NaN"):
        fid.compute(Statistics(5, mean=x.mean(0), covariance=torch.full((3, 3), torch.nan).double()), good)
    with pytest.raises(ValueError, match="1 generated images"):
        fid.compute(Statistics(1, mean=x[0], covariance=torch.zeros(3, 3).double()), good)
    with pytest.raises(ValueError, match="the real images have no mean"):
        fid.compute(good, Statistics(5, features=x))
    for wrong in ({"num_samples": 1, "num_real": None}, {"num_samples": 5, "num_real": 1}):
        with pytest.raises(ValueError, match="=1: must be at least 2"):
            FID(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("num", [20, 200], ids=["fewer than dimensions", "more than dimensions"])
def test_intra_class_fid_is_the_mean_over_the_classes(num: int) -> None:
    classes = [0, 3, 7]
    x, y = [random_rows(num, 32, c) for c in classes], [random_rows(num, 32, 10 + c) for c in classes]
    labels = torch.tensor(classes).repeat_interleave(num)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    fake = Statistics(len(labels), features=torch.cat(x)[order], labels=labels[order])
    real = Statistics(len(labels), features=torch.cat(y), labels=labels)
    found = IntraClassFID(num_samples=99, num_real=None).compute(fake, real)["intra_class_fid"]
    fid = FID(num_samples=99, num_real=None)
    expected = [fid.compute(statistics(a), statistics(b))["fid"] for a, b in zip(x, y, strict=True)]
    assert found == pytest.approx(sum(expected) / 3, rel=1e-9)
    assert num < 32 or expected[0] == pytest.approx(with_sqrtm(x[0], y[0]), rel=1e-8)


def test_intra_class_fid_sees_images_of_wrong_classes_that_fid_does_not() -> None:
    x = torch.cat([random_rows(50, 4, 0), random_rows(50, 4, 1) + 30])
    labels = torch.arange(2).repeat_interleave(50)
    real = Statistics(100, features=x, labels=labels)
    metric = IntraClassFID(num_samples=99, num_real=None)
    assert metric.compute(real, real)["intra_class_fid"] == pytest.approx(0, abs=1e-9)
    assert metric.compute(Statistics(100, features=x, labels=1 - labels), real)["intra_class_fid"] > 1000


def test_classes_with_too_few_images_are_errors() -> None:
    x, metric = random_rows(6, 4, 0), IntraClassFID(num_samples=99, num_real=None)
    real = Statistics(6, features=x, labels=torch.tensor([0, 0, 0, 4, 4, 4]))
    with pytest.raises(ValueError, match=r"generated images of class 4 is 1.*raise num_samples"):
        metric.compute(Statistics(6, features=x, labels=torch.tensor([0, 0, 0, 0, 0, 4])), real)
    with pytest.raises(ValueError, match="generated images have no labels"):
        metric.compute(Statistics(6, features=x), real)
