"""Statistics of real images, in one pass over the data for each extractor, cached on disk."""

import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from gantrain.datasets.base import ImageDataset
from gantrain.engine.distributed import Processes
from gantrain.evaluation.features.base import Extracted, Extractor
from gantrain.evaluation.statistics import Collector, Report, Request, ignore
from gantrain.files import atomic_write
from gantrain.metrics.base import FeatureMetric, Statistics
from gantrain.seeding import generator

logger = logging.getLogger(__name__)

BLOCK_SIZE = 256
"""Images in a forward pass of an extractor."""

ARRAYS = ("mean", "covariance", "features", "logits", "labels")


class RealImages:
    """The real images that metrics compare with, in a fixed random order, so that the first k are a random subset.

    Args:
        device: of the extractor, which is loaded.
        folder: of the cache; None: no cache.
        processes: they share the images; only rank 0 gets statistics.
        report: called with what is done, and how many of how many images of this rank are done.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        extractor: Extractor,
        *,
        device: torch.device,
        folder: Path | None,
        processes: Processes,
        report: Report = ignore,
    ):
        self.report = report
        self.dataset, self.extractor, self.device = dataset, extractor, device
        self.folder, self.processes = folder, processes
        self.order = torch.randperm(dataset.num_images, generator=generator("real images"))

    def measure(self, metrics: dict[str, FeatureMetric]) -> tuple[dict[str, Statistics], dict[str, dict[str, float]]]:
        """Return the statistics that each metric needs, and its scores of real images, by the names of the metrics.

        The latter are the scores of one half of the real images against the other: what a perfect generator could reach
        with as many samples; {} if there are too few images. Both are read from the cache, or computed in one pass over
        the images. Ranks other than 0 get nothing.
        """
        requests = {name: Request(metric.num_real, metric.needs) for name, metric in metrics.items()}
        found = self.read(requests, metrics) if self.processes.is_main else None
        if self.processes.broadcast(found is not None):
            return found or ({}, {})
        collectors = self.collect(list(dict.fromkeys(requests.values())))
        if not self.processes.is_main:
            return {}, {}
        every, even, odd = collectors
        statistics = {name: every.statistics(request) for name, request in requests.items()}
        scores: dict[str, dict[str, float]] = {}
        for name, metric in metrics.items():
            halves = [half(part, i, statistics[name], requests[name]) for i, part in enumerate((even, odd))]
            enough = min(part.num for part in halves) >= metric.min_images
            scores[name] = metric.compute(*halves) if enough else {}
        self.write(requests, metrics, statistics, scores)
        return statistics, scores

    def collect(self, requests: list[Request]) -> tuple[Collector, Collector, Collector]:
        """Pass over the images; return collectors of all of them, and of those at even and at odd positions."""
        sums = [Request(request.num, request.needs & {"moments"}) for request in requests]
        halves = [Request(r.num if r.num is None else r.num // 2, r.needs) for r in sums if r.needs]
        every, even, odd = Collector(requests), Collector(halves), Collector(halves)
        nums = [request.num for request in requests]
        num = None if None in nums else max((n for n in nums if n is not None), default=0)
        for start, images, labels in self.blocks(num):
            extracted = self.extractor(images.to(self.device))
            every.add(start, extracted, labels)
            for collector, first in ((even, 0), (odd, 1)):
                features = extracted.features[first::2]
                collector.add(start // 2, Extracted(features), None)
            self.report("real images", every.num, self.num_of_rank(num))
        for collector in (every, even, odd):
            gathered = self.processes.gather(collector)
            if gathered:
                collector.merge(gathered[1:])
        return every, even, odd

    def blocks(self, num: int | None) -> Iterator[tuple[int, UInt8[Tensor, "n c h w"], Int64[Tensor, " n"] | None]]:
        """Yield this rank's blocks of the first `num` images: position of the first image, images, labels."""
        indices = self.order[:num]
        starts = range(0, len(indices), BLOCK_SIZE)
        for start in starts[self.processes.rank :: self.processes.world_size]:
            chosen = indices[start : start + BLOCK_SIZE]
            labels = self.dataset.labels
            yield start, self.dataset.gather(chosen), None if labels is None else labels[chosen]

    def num_of_rank(self, num: int | None) -> int:
        """Return how many of the first `num` images belong to this rank."""
        starts = range(0, len(self.order[:num]), BLOCK_SIZE)[self.processes.rank :: self.processes.world_size]
        return sum(min(BLOCK_SIZE, len(self.order[:num]) - start) for start in starts)

    def path(self, kind: str, content: object) -> Path | None:
        """Return the path of a cached file; its name depends on the data and on the extractor."""
        if self.folder is None:
            return None
        key = {
            "fingerprint": self.dataset.fingerprint,
            "features": [self.extractor.name, self.extractor.sha256, self.extractor.resizer, self.extractor.precision],
            "content": content,
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
        return self.folder / f"{kind}-{self.extractor.name}-{digest}.npz"

    def statistics_path(self, request: Request) -> Path | None:
        """Return the path of cached statistics."""
        return self.path("statistics", [request.num, sorted(request.needs)])

    def scores_path(self, metric: FeatureMetric) -> Path | None:
        """Return the path of a metric's cached scores of real images."""
        return self.path("scores", [type(metric).__qualname__, metric.num_real, metric.options()])

    def read(
        self, requests: dict[str, Request], metrics: dict[str, FeatureMetric]
    ) -> tuple[dict[str, Statistics], dict[str, dict[str, float]]] | None:
        """Read what is cached; return None if anything is missing or damaged."""
        statistics: dict[str, Statistics] = {}
        scores: dict[str, dict[str, float]] = {}
        try:
            for name, request in requests.items():
                path, scores_path = self.statistics_path(request), self.scores_path(metrics[name])
                if path is None or scores_path is None or not (path.exists() and scores_path.exists()):
                    return None
                with np.load(path, allow_pickle=False) as archive:
                    arrays = {key: torch.from_numpy(archive[key]) for key in archive.files if key != "num"}
                    statistics[name] = Statistics(int(archive["num"]), **arrays)
                with np.load(scores_path, allow_pickle=False) as archive:
                    scores[name] = {key: float(archive[key]) for key in archive.files}
        except Exception as error:
            logger.warning("The cached statistics of real images cannot be read (%s); computing them again.", error)
            return None
        return statistics, scores

    def write(
        self,
        requests: dict[str, Request],
        metrics: dict[str, FeatureMetric],
        statistics: dict[str, Statistics],
        scores: dict[str, dict[str, float]],
    ) -> None:
        """Write the cache; if that fails, warn and go on without."""
        for name, request in requests.items():
            arrays = {key: getattr(statistics[name], key) for key in ARRAYS}
            known = {key: array.numpy() for key, array in arrays.items() if array is not None}
            content: dict[str, Any] = {"num": np.array(statistics[name].num), **known}
            floats = {key: np.array(value) for key, value in scores[name].items()}
            pairs = ((self.statistics_path(request), content), (self.scores_path(metrics[name]), floats))
            for path, saved in pairs:
                if path is None or path.exists():
                    continue
                try:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with atomic_write(path) as file:
                        np.savez(file, **saved)
                except OSError as error:
                    logger.warning("%s cannot be written (%s); the next run computes it again.", path, error.strerror)
                    return


def half(collector: Collector, first: int, every: Statistics, request: Request) -> Statistics:
    """Return the statistics of one half of the real images: sums from its collector, the rest from those of all."""
    mean = covariance = None
    if "moments" in request.needs:
        num = None if request.num is None else request.num // 2
        sums = collector.statistics(Request(num, frozenset({"moments"})))
        mean, covariance = sums.mean, sums.covariance
    parts = [None if x is None else x[first::2] for x in (every.features, every.logits, every.labels)]
    num_half = (every.num + 1 - first) // 2
    return Statistics(num_half, mean, covariance, *parts)
