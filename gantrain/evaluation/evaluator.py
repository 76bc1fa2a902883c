"""Compute all metrics of generated samples in one pass, each with a receipt."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from gantrain.datasets.base import Dataset, Distribution, ImageDataset
from gantrain.datasets.batches import to_bytes
from gantrain.engine.distributed import Processes, interleave
from gantrain.engine.memory import require_memory
from gantrain.errors import ConfigError
from gantrain.evaluation.features.base import Extractor
from gantrain.evaluation.real import Parts, RealImages
from gantrain.evaluation.receipts import Receipt
from gantrain.evaluation.sampling import LabelFunction
from gantrain.evaluation.statistics import Collector, Report, Request, ignore
from gantrain.metrics.base import Better, FeatureMetric, Metric, Statistics
from gantrain.seeding import generator

Block = tuple[int, Float[Tensor, "n *shape"], Int64[Tensor, " n"] | None]
"""Index of the first sample, samples (images in [-1, 1]), and the labels that they should show, or None."""


@dataclass(frozen=True)
class Score:
    """A number and how it was measured.

    Attributes:
        real: the same score of real samples, for a distance against other real samples; None if it was not measured.
    """

    value: float
    receipt: Receipt
    real: float | None = None


class Evaluator:
    """Computes metrics of samples against a dataset.

    Extractors are loaded, and statistics of the real images are computed or read from the cache, at the first call.

    Args:
        metrics: by name.
        extractors: by name; the one of the config group `features` under "features".
        folder: of cached statistics of real images; None: no cache.
        processes: they share the images; only rank 0 gets scores.
    """

    def __init__(
        self,
        metrics: dict[str, Metric | FeatureMetric],
        extractors: dict[str, Extractor],
        dataset: Dataset,
        *,
        device: torch.device,
        folder: Path | None,
        processes: Processes,
    ):
        self.extractors, self.dataset, self.device = extractors, dataset, device
        self.folder, self.processes = folder, processes
        self.on_samples = {name: metric for name, metric in metrics.items() if isinstance(metric, Metric)}
        on_features = {name: metric for name, metric in metrics.items() if isinstance(metric, FeatureMetric)}
        self.by_extractor: dict[str, dict[str, FeatureMetric]] = {}
        for name, metric in on_features.items():
            self.by_extractor.setdefault(metric.extractor or "features", {})[name] = metric
        self.all = metrics
        self.report: Report = ignore
        """Called with the progress of an evaluation on this rank."""
        self._loaded: set[str] = set()
        self.real: dict[str, tuple[dict[str, Statistics], dict[str, dict[str, float]]]] = {}

    def __bool__(self) -> bool:
        return bool(self.all)

    @property
    def num_samples(self) -> int:
        """Number of generated samples that are needed."""
        return max(metric.num_samples for metric in self.all.values())

    @property
    def better(self) -> dict[str, Better]:
        """For each score, whether higher or lower is better; scores without an entry have no direction."""
        found = {name: better for metric in self.on_samples.values() for name, better in metric.better.items()}
        for key, metrics in self.by_extractor.items():
            for metric in metrics.values():
                found |= {self.score_name(key, metric, name): better for name, better in metric.better.items()}
        return found

    def score_name(self, key: str, metric: FeatureMetric, name: str) -> str:
        """Return the name of a score: that of the metric, and of the extractor if it is not the usual one."""
        extractor = self.extractors[key].name
        return name if extractor == metric.standard else f"{name}_{extractor}"

    def check(self, *, conditional: bool) -> None:
        """Check, before the first step, that the metrics apply to the data and that all weights are there.

        Args:
            conditional: whether samples are generated for given labels.

        Raises:
            ConfigError: they do not, or some are missing.
        """
        for name, metric in self.on_samples.items():
            try:
                metric.check(self.dataset)
            except ValueError as error:
                raise ConfigError(f"metric=[{name}]: {error}") from error
        for key, metrics in self.by_extractor.items():
            assert isinstance(self.dataset, ImageDataset)  # choose_extractor has refused others
            self.extractors[key].check(self.dataset.image_shape)
            for name, feature_metric in metrics.items():
                check_sizes(name, feature_metric, self.dataset.num_images)
                if "labels" in feature_metric.needs and not conditional:
                    raise ConfigError(
                        f"metric=[{name}] needs samples with labels, but the networks are unconditional; use "
                        f"conditional networks (for example network=cdcgan) on labelled data, or remove {name}."
                    )
            self._check_extractor(key, metrics)
        for name, metric in self.on_samples.items():
            shapes = [self.dataset.image_shape]  # the samples are kept on the host
            require_memory(f"metric.{name}.num_samples", metric.num_samples, shapes, torch.device("cpu"))

    def _check_extractor(self, key: str, metrics: dict[str, FeatureMetric]) -> None:
        """Check that metrics apply to an extractor, and that the features that they keep, on the host, fit there.

        Raises:
            ConfigError: they do not.
        """
        self._load(key)
        one = torch.zeros(1, *self.dataset.image_shape, dtype=torch.uint8, device=self.device)
        found = self.extractors[key](one)
        for name, metric in metrics.items():
            try:
                metric.check(
                    num_logits=None if found.logits is None else found.logits.shape[1],
                    class_counts=count_classes(self.dataset),
                )
            except ValueError as error:
                raise ConfigError(f"metric=[{name}]: {error}") from error
            if "features" in metric.needs:
                num = sum(num_images_of(metric, self.dataset.num_images or 0).values())
                what = f"metric.{name}: num_samples + num_real"
                require_memory(what, num, [found.features.shape[1:]], torch.device("cpu"), kept="features")

    def _load(self, key: str) -> None:
        """Load an extractor if that has not been done yet."""
        if key not in self._loaded:
            self.extractors[key].load(self.device)
            self._loaded.add(key)

    def __call__(self, blocks: Iterable[Block], *, ema: bool, seed: int) -> dict[str, Score]:
        """Return the scores by name, on rank 0; {} on the other ranks.

        Args:
            blocks: blocks of this rank; together, those of all ranks are `num_samples` samples.
            ema: whether the samples are those of the EMA, for the receipts.
            seed: seed of the samples, for the receipts.

        Raises:
            ConfigError: a metric cannot be computed from these samples.
        """
        self.prepare()
        kept: list[tuple[int, Tensor]] = []
        collectors = {
            key: Collector(Request(metric.num_samples, metric.needs) for metric in metrics.values())
            for key, metrics in self.by_extractor.items()
        }
        done, total = 0, -(-self.num_samples // self.processes.world_size)
        for start, x, labels in blocks:
            done += len(x)
            self.report("generated samples", done, max(done, total))
            if self.on_samples:
                kept.append((start, x))
            images = to_bytes(x).to(self.device) if collectors else None
            for key, collector in collectors.items():
                assert images is not None
                collector.add(start, self.extractors[key](images), labels)
        scores = self._score_samples(kept, ema=ema, seed=seed) if self.on_samples else {}
        for key, collector in collectors.items():
            scores |= self._score_features(key, collector, ema=ema, seed=seed)
        return scores

    def prepare(self) -> None:
        """Load the extractors, and measure the real images or read their statistics from the cache, if not done yet."""
        for key, metrics in self.by_extractor.items():
            if key not in self.real:
                assert isinstance(self.dataset, ImageDataset)
                self._load(key)
                real = RealImages(
                    self.dataset,
                    self.extractors[key],
                    device=self.device,
                    folder=self.folder,
                    processes=self.processes,
                    report=self.report,
                )
                self.real[key] = real.measure(metrics)
        if self.processes.is_main:
            _ = self._real_vectors  # cached at the first access

    def _score_samples(self, kept: list[tuple[int, Tensor]], *, ema: bool, seed: int) -> dict[str, Score]:
        by_rank = self.processes.gather([x for _, x in kept])
        if not self.processes.is_main:
            return {}
        samples = torch.cat(interleave(by_rank))
        scores: dict[str, Score] = {}
        for name, metric in self.on_samples.items():
            receipt = self._receipt(name, metric.num_samples, getattr(metric, "num_real", None), ema=ema, seed=seed)
            receipt["options"] = getattr(metric, "options", dict)()
            values = metric(lambda n: samples[:n], self.dataset)
            for score, value in values.items():
                real = self._real_vectors.get(name, {}).get(score)
                scores[score] = Score(float(value), receipt | {"score": score}, real)
        return scores

    @cached_property
    def _real_vectors(self) -> dict[str, dict[str, float]]:
        """The scores of fresh real samples, always the same ones, by metric; {} for images."""
        if not isinstance(data := self.dataset, Distribution):
            return {}
        found = {}
        for name, metric in self.on_samples.items():
            scores = metric(lambda n: data.sample(n, generator("real samples")), data)
            found[name] = {score: float(value) for score, value in scores.items()}
        return found

    def _score_features(self, key: str, collector: Collector, *, ema: bool, seed: int) -> dict[str, Score]:
        gathered = self.processes.gather(collector)
        if not gathered:
            return {}
        collector.merge(gathered[1:])
        statistics, of_real = self.real[key]
        scores = {}
        metrics = self.by_extractor[key]
        for i, (name, metric) in enumerate(metrics.items()):
            self.report(f"computing {name}", i, len(metrics))
            fake = collector.statistics(Request(metric.num_samples, metric.needs))
            try:
                values = metric.compute(fake, statistics[name])
            except ValueError as error:
                raise ConfigError(f"metric=[{name}]: {error}") from error
            receipt = self._receipt(name, fake.num, statistics[name].num, ema=ema, seed=seed)
            num_stand_ins, num_others = Parts.of(metric, self.dataset.num_images or 0).sizes
            extractor = self.extractors[key]
            receipt |= {
                "features": extractor.name,
                "weights_sha256": extractor.sha256,
                "resizer": extractor.resizer,
                "precision": extractor.precision,
                "options": metric.options(),
                "versions": receipt["versions"] | extractor.versions,
                "real_images": {"num_generated": num_stand_ins, "num_real": num_others if metric.compares else None},
            }
            for score, value in values.items():
                named = self.score_name(key, metric, score)
                scores[named] = Score(value, receipt | {"score": named}, of_real[name].get(score))
        self.report("computed metrics", len(metrics), len(metrics))
        return scores

    def _receipt(self, name: str, num_generated: int, num_real: int | None, *, ema: bool, seed: int) -> Receipt:
        return {
            "metric": name,
            "num_generated": num_generated,
            "num_real": num_real,
            "dataset": self.dataset.name,
            "split": self.dataset.split,
            "fingerprint": self.dataset.fingerprint,
            "ema": ema,
            "seed": seed,
            "versions": {"gantrain": version("gantrain"), "torch": str(torch.__version__)},
        }


def num_images_of(metric: FeatureMetric, num_images: int) -> dict[str, int]:
    """Return how many generated and how many of the dataset's images a metric uses, by the option that says so."""
    num_real = num_images if metric.num_real is None else min(metric.num_real, num_images)
    return {"num_samples": metric.num_samples, "num_real": num_real}


def count_classes(dataset: Dataset) -> list[int] | None:
    """Count the images of each class; None without labels."""
    if dataset.labels is None:
        return None
    return torch.bincount(dataset.labels, minlength=dataset.num_classes or 0).tolist()


def check_sizes(name: str, metric: FeatureMetric, num_images: int) -> None:
    """Check that a metric gets as many images as it needs.

    Raises:
        ConfigError: it does not.
    """
    for option, num in num_images_of(metric, num_images).items():
        if num < metric.min_images:
            kind = "generated" if option == "num_samples" else "real"
            raise ConfigError(
                f"metric.{name}: {num} {kind} images, but with these options it needs at least {metric.min_images}; "
                f"raise metric.{name}.{option} if there are more, lower the metric's other options, or remove {name}."
            )


def numbered(
    blocks: Iterable[Tensor], labels: LabelFunction | None, *, block_size: int, first: int = 0, every: int = 1
) -> Iterator[Block]:
    """Number the blocks first, first + every, ... of samples by the index of their first sample."""
    for i, x in enumerate(blocks):
        start = (first + i * every) * block_size
        yield start, x, None if labels is None else labels(start, block_size)[: len(x)]
