"""Statistics of real images, in one pass over the data for each extractor, cached on disk."""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from gantrain.datasets.base import ImageDataset
from gantrain.engine.distributed import Processes
from gantrain.evaluation.features.base import Extractor
from gantrain.evaluation.statistics import Collector, Report, Request, Sums, ignore
from gantrain.files import atomic_write
from gantrain.metrics.base import FeatureMetric, Statistics
from gantrain.seeding import generator

logger = logging.getLogger(__name__)

BLOCK_SIZE = 64
"""Images in a forward pass of an extractor."""

FORMAT_VERSION = 3
"""Version of the cached files and of what is computed for them; a change makes older files unused."""

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

        The latter are the scores of real images in the place of generated ones (see `Parts`): what a perfect generator
        could reach. They are {} if there are too few images. Both are read from the cache, or computed in one pass over
        the images. Ranks other than 0 get nothing.
        """
        parts = {name: Parts.of(metric, self.dataset.num_images) for name, metric in metrics.items()}
        statistics, scores = self.read(metrics, parts) if self.processes.is_main else ({}, {})
        missing = [parts[name].real for name in metrics if name not in statistics]
        missing += [parts[name].stand_ins for name in metrics if name not in scores]
        missing = self.processes.broadcast(list(dict.fromkeys(missing)))
        if not missing:
            return statistics, scores
        collector = self.collect(missing)
        if not self.processes.is_main:
            return {}, {}
        found = {name: collector.statistics(parts[name].real) for name in metrics if name not in statistics}
        statistics |= found
        measured = {
            name: score_real_images(metric, collector, statistics[name], parts[name])
            for name, metric in metrics.items()
            if name not in scores
        }
        self.write({self.statistics_path(parts[name].real): as_arrays(of) for name, of in found.items()})
        self.write({self.scores_path(metrics[name], parts[name]): values for name, values in measured.items()})
        return statistics, scores | measured

    def collect(self, requests: list[Request]) -> Collector:
        """Pass over the images that the requests need; return a collector of those of all ranks, on rank 0."""
        collector = Collector(requests)
        for start, images, labels in self.blocks(requests):
            collector.add(start, self.extractor(images.to(self.device)), labels)
            self.report("real images", collector.num, self.num_of_rank(requests))
        gathered = self.processes.gather(collector)
        if gathered:
            collector.merge(gathered[1:])
        return collector

    def starts(self, requests: list[Request]) -> list[int]:
        """List the positions at which this rank's blocks of the images start that a request needs."""
        stop = max(request.stop for request in requests)
        all_starts = range(0, stop, BLOCK_SIZE)
        wanted = [i for i in all_starts if any(r.first < i + BLOCK_SIZE and i < r.stop for r in requests)]
        return wanted[self.processes.rank :: self.processes.world_size]

    def blocks(
        self, requests: list[Request]
    ) -> Iterator[tuple[int, UInt8[Tensor, "n c h w"], Int64[Tensor, " n"] | None]]:
        """Yield this rank's blocks of the images that a request needs: position of the first image, images, labels."""
        stop = max(request.stop for request in requests)
        for start in self.starts(requests):
            chosen = self.order[start : min(stop, start + BLOCK_SIZE)]
            labels = self.dataset.labels
            yield start, self.dataset.gather(chosen), None if labels is None else labels[chosen]

    def num_of_rank(self, requests: list[Request]) -> int:
        """Return how many images are in this rank's blocks."""
        stop = max(request.stop for request in requests)
        return sum(min(BLOCK_SIZE, stop - start) for start in self.starts(requests))

    def path(self, kind: str, content: object) -> Path | None:
        """Return the path of a cached file, whose name depends on all that its content depends on; None: no cache.

        Features of a user's own extractor are cached only if it names the SHA-256 of its weights.
        """
        shipped = type(self.extractor).__module__.partition(".")[0] == "gantrain"
        if self.folder is None or not (shipped or self.extractor.sha256):
            return None
        key = {
            "version": FORMAT_VERSION,
            "fingerprint": self.dataset.fingerprint,
            "features": [self.extractor.name, self.extractor.sha256, self.extractor.resizer, self.extractor.precision],
            "versions": self.extractor.versions,
            "content": content,
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
        return self.folder / f"{kind}-{self.extractor.name}-{digest}.npz"

    def statistics_path(self, request: Request) -> Path | None:
        """Return the path of cached statistics."""
        return self.path("statistics", [request.num, sorted(request.needs)])

    def scores_path(self, metric: FeatureMetric, parts: "Parts") -> Path | None:
        """Return the path of a metric's cached scores of real images."""
        kind = type(metric)
        return self.path("scores", [kind.__module__, kind.__qualname__, metric.options(), *parts.sizes])

    def read(
        self, metrics: dict[str, FeatureMetric], parts: dict[str, "Parts"]
    ) -> tuple[dict[str, Statistics], dict[str, dict[str, float]]]:
        """Read what is cached, and not damaged, by the names of the metrics."""
        statistics: dict[str, Statistics] = {}
        scores: dict[str, dict[str, float]] = {}
        try:
            for name, metric in metrics.items():
                path, scores_path = self.statistics_path(parts[name].real), self.scores_path(metric, parts[name])
                if path is not None and path.exists():
                    with np.load(path, allow_pickle=False) as archive:
                        arrays = {key: torch.from_numpy(archive[key]) for key in archive.files if key != "num"}
                        statistics[name] = Statistics(int(archive["num"]), **arrays)
                if scores_path is not None and scores_path.exists():
                    with np.load(scores_path, allow_pickle=False) as archive:
                        scores[name] = {key: float(archive[key]) for key in archive.files}
        except Exception as error:
            logger.warning("The cached statistics of real images cannot be read (%s); computing them again.", error)
            return {}, {}
        return statistics, scores

    def write(self, files: Mapping[Path | None, Mapping[str, Any]]) -> None:
        """Write arrays and numbers by name to files of the cache; if that fails, warn and go on without."""
        for path, content in files.items():
            if path is None:
                continue
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(path) as file:
                    arrays: dict[str, Any] = {key: np.asarray(value) for key, value in content.items()}
                    np.savez(file, **arrays)
            except OSError as error:
                logger.warning("%s cannot be written (%s); the next run computes it again.", path, error.strerror)
                return


def as_arrays(statistics: Statistics) -> dict[str, Any]:
    """Return the statistics as arrays by name, without those that are None."""
    known = {key: getattr(statistics, key) for key in ARRAYS}
    return {"num": statistics.num} | {key: array.numpy() for key, array in known.items() if array is not None}


@dataclass(frozen=True)
class Parts:
    """The real images that a metric uses, by their positions in the random order.

    Attributes:
        real: those that generated images are compared with.
        stand_ins: those that take the place of generated images, for the score of real images: as many as
            `num_samples`, but at most half of all. They are none of the real ones, except for metrics that compare with
            no real images.
        num_others: number of real images that the stand-ins are compared with, from the first.
    """

    real: Request
    stand_ins: Request
    num_others: int

    @classmethod
    def of(cls, metric: FeatureMetric, num_images: int) -> "Parts":
        """Choose the images of a metric."""
        num_real = num_images if metric.num_real is None else min(metric.num_real, num_images)
        real = Request(num_real, metric.needs)
        if not metric.compares:
            return cls(real, real, num_real)
        num = min(metric.num_samples, num_images // 2)
        others = min(num_real, num_images - num)
        return cls(real, Request(num, metric.needs, first=others), others)

    @property
    def sizes(self) -> tuple[int, int]:
        """How many real images take the place of generated ones, and how many they are compared with."""
        return self.stand_ins.num, self.num_others


def score_real_images(metric: FeatureMetric, collector: Collector, real: Statistics, parts: Parts) -> dict[str, float]:
    """Return a metric's scores of real images against others; {} if there are too few, also in a class.

    Args:
        collector: has the images that take the place of generated ones.
        real: of the images that generated images are compared with.
    """
    if min(parts.sizes) < metric.min_images:
        return {}
    stand_ins = collector.statistics(parts.stand_ins)
    try:
        return metric.compute(stand_ins, first_images(real, stand_ins, parts.num_others))
    except ValueError:
        return {}


def first_images(statistics: Statistics, rest: Statistics, num: int) -> Statistics:
    """Return the statistics of the first `num` images, without those of the rest.

    Args:
        rest: of the other images, if there are others.
    """
    if num == statistics.num:
        return statistics
    mean = covariance = None
    if statistics.mean is not None:
        mean, covariance = Sums.of(statistics).without(Sums.of(rest)).moments()
    kept = [None if x is None else x[:num] for x in (statistics.features, statistics.logits, statistics.labels)]
    return Statistics(num, mean, covariance, *kept)
