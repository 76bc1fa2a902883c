"""Compute metrics of images that gantrain did not make."""

import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gantrain.datasets.base import Dataset, ImageDataset
from gantrain.datasets.batches import to_signed
from gantrain.errors import ConfigError
from gantrain.evaluation.evaluator import Evaluator, Score, numbered
from gantrain.evaluation.sampling import BLOCK_SIZE
from gantrain.metrics.base import FeatureMetric, Metric
from gantrain.seeding import generator

logger = logging.getLogger(__name__)


def require_no_labels(metrics: Mapping[str, Metric | FeatureMetric]) -> None:
    """Check that no metric needs the classes of the images.

    Raises:
        ConfigError: one does.
    """
    for name, metric in metrics.items():
        if isinstance(metric, FeatureMetric) and "labels" in metric.needs:
            raise ConfigError(
                f"metric=[{name}] needs to know the class of each image, which is not known of given images; remove "
                f"{name}, or evaluate the run that made them with run=FOLDER."
            )


def use_all_images(metrics: Mapping[str, Metric | FeatureMetric], num: int, typed_keys: Collection[str]) -> None:
    """Let each metric use all `num` given images, or as many of them as its num_samples was typed."""
    for name, metric in metrics.items():
        key, wanted = f"metric.{name}.num_samples", metric.num_samples
        if key in typed_keys and wanted > num:
            logger.warning("%s=%s: there are only %s images; all of them are used.", key, wanted, f"{num:,}")
        metric.num_samples = min(wanted, num) if key in typed_keys else num


def require_fit(images: ImageDataset, dataset: Dataset, evaluator: Evaluator) -> None:
    """Check that the extractors apply to the given images as well as to the real ones.

    Raises:
        ConfigError: the dataset has vectors, or an extractor does not apply, or it needs equal sizes.
    """
    if not isinstance(dataset, ImageDataset):
        raise ConfigError(f"dataset={dataset.name} has vectors, which images cannot be compared with; choose images.")
    (_, *size), (_, *real_size) = images.image_shape, dataset.image_shape
    if size == real_size and images.image_shape == dataset.image_shape:
        return
    for extractor in evaluator.extractors.values():
        extractor.check(images.image_shape)
        if size != real_size and extractor.resizer.startswith("none"):
            raise ConfigError(
                f"the images have {size[1]}x{size[0]} pixels and the real ones {real_size[1]}x{real_size[0]}, but "
                f"{extractor.name} does not resize; use images of one size, or other metrics."
            )
    if size != real_size:
        logger.warning(
            "The images have %sx%s pixels and the real ones %sx%s: metrics resize both, so the smaller are blurred.",
            *(*size[::-1], *real_size[::-1]),
        )


def score_images(evaluator: Evaluator, images: ImageDataset, given: str, *, real: str | None) -> dict[str, Score]:
    """Compute the metrics; the receipts say where the images came from, and that no generator of gantrain made them.

    Args:
        given: the path of the images.
        real: the path of the real images; None: a dataset of gantrain.
    """
    blocks = numbered(blocks_of(images, evaluator.num_samples), None, block_size=BLOCK_SIZE)
    facts: dict[str, Any] = {
        "ema": None,
        "seed": None,
        "generated": {"source": given, "sha256": images.fingerprint, "num_images": images.num_images},
    }
    if real is not None:
        facts |= {"dataset": real, "split": None}
    scores = evaluator(blocks, ema=False, seed=0)
    return {name: replace(score, receipt=score.receipt | facts) for name, score in scores.items()}


def blocks_of(images: ImageDataset, num: int) -> Iterator[Float[Tensor, "n c h w"]]:
    """Yield `num` images in [-1, 1], in blocks as those of samples, so that memory is bounded.

    If there are more images, it is a random part of them, the same at every call: files are often sorted by class.
    """
    order = torch.arange(images.num_images)
    if num < images.num_images:
        order = torch.randperm(images.num_images, generator=generator("given images"))[:num]
    for start in range(0, len(order), BLOCK_SIZE):
        yield to_signed(images.gather(order[start : start + BLOCK_SIZE]))
