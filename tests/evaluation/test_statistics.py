import numpy as np
import pytest
import torch
from torch import Tensor

from gantrain.evaluation.features.base import Extracted
from gantrain.evaluation.statistics import Collector, Request, Rows, Sums
from gantrain.metrics.base import Statistics

MOMENTS = frozenset({"moments"})
ALL = frozenset({"moments", "features", "logits"})


def drawn(n: int = 50, d: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    features = torch.randn(n, d, generator=random) @ torch.randn(d, d, generator=random) + 3
    return features, torch.randn(n, 4, generator=random), torch.randint(0, 4, (n,), generator=random)


def collect(collector: Collector, data: tuple[Tensor, Tensor, Tensor], starts: list[int], size: int) -> Collector:
    features, logits, labels = data
    for start in starts:
        rows = slice(start, start + size)
        collector.add(start, Extracted(features[rows], logits[rows]), labels[rows])
    return collector


@pytest.mark.parametrize(("first", "num"), [(0, 50), (0, 33), (20, 30), (17, 5), (5, 40)])
def test_statistics_equal_those_of_numpy(first: int, num: int) -> None:
    features, logits, labels = (x[first : first + num] for x in drawn())
    request = Request(num, ALL, first)
    found = collect(Collector([request]), drawn(), [0, 16, 32, 48], 16).statistics(request)
    assert found.num == num
    assert found.mean is not None
    assert found.covariance is not None
    np.testing.assert_allclose(found.mean, features.double().numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(features.double().numpy().T), rtol=1e-10)
    assert torch.equal(found.features, features)
    assert torch.equal(found.logits, logits)
    assert torch.equal(found.labels, labels)


def test_several_parts_of_a_set_are_collected_in_one_pass() -> None:
    features, logits, labels = drawn()
    requests = [Request(10, ALL), Request(5, frozenset({"logits"}), 40), Request(20, frozenset({"features"}), 25)]
    collector = collect(Collector(requests), drawn(), [32, 0, 48, 16], 16)
    for request in requests:
        found, rows = collector.statistics(request), slice(request.first, request.stop)
        assert torch.equal(found.labels, labels[rows])
        assert found.features is None or torch.equal(found.features, features[rows])
        assert found.logits is None or torch.equal(found.logits, logits[rows])


def test_sums_of_a_part_are_taken_from_those_of_all() -> None:
    features = drawn()[0].double()
    all_of, part = Sums(), Sums()
    all_of.add(features)
    part.add(features[35:])
    mean, covariance = all_of.without(part).moments()
    torch.testing.assert_close(mean, features[:35].mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(covariance, torch.cov(features[:35].T), rtol=1e-10, atol=0)
    again = Sums.of(Statistics(50, *all_of.moments()))
    torch.testing.assert_close(again.outer, all_of.outer, rtol=1e-12, atol=0)


def test_collectors_of_several_processes_are_merged_in_the_order_of_the_images() -> None:
    data = drawn()
    request = Request(40, ALL)
    alone = collect(Collector([request]), data, [0, 16, 32, 48], 16).statistics(request)
    first = collect(Collector([request]), data, [32, 0], 16)
    first.merge([collect(Collector([request]), data, [48, 16], 16)])
    merged = first.statistics(request)
    assert torch.equal(merged.features, alone.features)
    assert torch.equal(merged.labels, alone.labels)
    torch.testing.assert_close(merged.covariance, alone.covariance, rtol=1e-12, atol=0)


@pytest.mark.parametrize("chunk_bytes", [1, 3 * 16 * 4, 10**9])
def test_rows_that_arrive_in_any_order_are_joined(monkeypatch: pytest.MonkeyPatch, chunk_bytes: int) -> None:
    """Whether blocks are joined as they arrive or at the end."""
    monkeypatch.setattr("gantrain.evaluation.statistics.CHUNK_BYTES", chunk_bytes)
    whole = torch.randn(80, 1)
    one, other = Rows(), Rows()
    for rows, starts in ((one, (48, 0, 16)), (other, (64, 32))):
        for start in starts:
            rows.add(start, whole[start : start + 16])
    assert len(one.blocks) == (2 if chunk_bytes == 3 * 16 * 4 else 3)
    one.merge(other)
    assert torch.equal(one(0, 80), whole)
    assert torch.equal(one(30, 20), whole[30:50])
    assert len(one.blocks) == 1


def test_only_what_is_requested_is_kept() -> None:
    requests = [Request(20, MOMENTS), Request(10, frozenset({"features"}))]
    collector = collect(Collector(requests), drawn(), [0, 16, 32, 48], 16)
    assert (len(collector.kept.features), len(collector.kept.logits)) == (10, 0)
    assert collector.statistics(requests[0]).features is None
    assert collector.statistics(requests[1]).mean is None
    assert collector.sums[0, 20].n == 20


def test_fewer_images_than_requested_are_all_used() -> None:
    request = Request(100, ALL)
    assert collect(Collector([request]), drawn(), [0, 25], 25).statistics(request).num == 50


def test_a_covariance_needs_two_images() -> None:
    request = Request(1, MOMENTS)
    with pytest.raises(ValueError, match="1 images: a covariance needs at least 2"):
        collect(Collector([request]), drawn(), [0], 5).statistics(request)


def test_an_extractor_without_classes_is_named() -> None:
    collector = Collector([Request(3, frozenset({"logits"}))])
    with pytest.raises(ValueError, match="the extractor has no classes"):
        collector.add(0, Extracted(torch.zeros(3, 2)), None)
