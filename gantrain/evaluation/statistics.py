"""Collect statistics of the features of a set of images, block after block, also over several processes."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from gantrain.evaluation.features.base import Extracted
from gantrain.metrics.base import Need, Statistics

Report = Callable[[str, int, int], None]
"""Called with what is done, and with how many of how many images are done."""


def ignore(what: str, done: int, total: int) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Request:
    """What is needed of a set of images.

    Attributes:
        num: number of images, from the first; None: all.
        needs: see Need.
    """

    num: int | None
    needs: frozenset[Need]


@dataclass
class Sums:
    """Sums over the features of n images; sums of different images can be added.

    Attributes:
        total, outer: sum of the features, and of their outer products with themselves, float64.
    """

    n: int = 0
    total: Float64[Tensor, " d"] | None = None
    outer: Float64[Tensor, "d d"] | None = None

    def add(self, features: Float[Tensor, "n d"]) -> None:
        """Add the features of more images."""
        x = features.double()
        self.merge(Sums(len(x), x.sum(0), x.T @ x))

    def merge(self, other: "Sums") -> None:
        """Add the sums over other images."""
        if self.total is None or self.outer is None:
            self.n, self.total, self.outer = other.n, other.total, other.outer
        elif other.total is not None and other.outer is not None:
            self.n += other.n
            self.total, self.outer = self.total + other.total, self.outer + other.outer

    def moments(self) -> tuple[Float64[Tensor, " d"], Float64[Tensor, "d d"]]:
        """Return the mean and the unbiased covariance.

        Raises:
            ValueError: there are fewer than 2 images.
        """
        if self.total is None or self.outer is None or self.n < 2:
            raise ValueError(f"{self.n} images: a covariance needs at least 2; set num_samples higher.")
        mean = self.total / self.n
        return mean, (self.outer - self.n * torch.outer(mean, mean)) / (self.n - 1)


@dataclass
class Kept:
    """Features, logits and labels of blocks of images, by the index of their first image; None if not needed."""

    features: dict[int, Float[Tensor, "n d"]] = field(default_factory=dict)
    logits: dict[int, Float[Tensor, "n classes"]] = field(default_factory=dict)
    labels: dict[int, Int64[Tensor, " n"]] = field(default_factory=dict)

    def merge(self, other: "Kept") -> None:
        """Add the blocks of another process."""
        self.features |= other.features
        self.logits |= other.logits
        self.labels |= other.labels


class Collector:
    """Collects what metrics request of one set of images, in one pass over its features.

    Features and logits are kept only as far as a request needs them; for means and covariances, sums are kept.
    """

    def __init__(self, requests: Iterable[Request]):
        self.requests = list(dict.fromkeys(requests))
        self.sums = {r.num: Sums() for r in self.requests if "moments" in r.needs}
        self.kept = Kept()
        self.num = 0
        """Number of images of the whole set so far, over all processes after `merge`."""

    def add(self, start: int, extracted: Extracted, labels: Int64[Tensor, " n"] | None) -> None:
        """Add the images start, start + 1, ..., in any order of blocks."""
        features, logits = extracted.features.cpu(), extracted.logits
        self.num += len(features)
        for num, sums in self.sums.items():
            wanted = len(features) if num is None else max(0, num - start)
            if wanted:
                sums.add(features[:wanted])
        for need, values, kept in (("features", features, self.kept.features), ("logits", logits, self.kept.logits)):
            if values is None and need == "logits" and self._limit(need) != 0:
                raise ValueError("the extractor has no classes; choose features with a classifier.")
            wanted = self._wanted(need, start, len(features))
            if wanted and values is not None:
                kept[start] = values[:wanted].cpu()
        if labels is not None and (self.kept.features or self.kept.logits):
            self.kept.labels[start] = labels.cpu()

    def _limit(self, need: str) -> int | None:
        """Return how many images need it: a number, or None for all."""
        nums = [request.num for request in self.requests if need in request.needs]
        return None if None in nums else max((num for num in nums if num is not None), default=0)

    def _wanted(self, need: str, start: int, n: int) -> int:
        limit = self._limit(need)
        return n if limit is None else min(n, max(0, limit - start))

    def merge(self, others: Sequence["Collector"]) -> None:
        """Add what other processes have collected from other images of the set."""
        for other in others:
            self.num += other.num
            self.kept.merge(other.kept)
            for num, sums in self.sums.items():
                sums.merge(other.sums[num])

    def statistics(self, request: Request) -> Statistics:
        """Return the statistics for a request.

        Raises:
            ValueError: there are too few images.
        """
        num = self.num if request.num is None else min(request.num, self.num)
        mean = covariance = None
        if "moments" in request.needs:
            mean, covariance = self.sums[request.num].moments()
        features = joined(self.kept.features)[:num] if "features" in request.needs else None
        logits = joined(self.kept.logits)[:num] if "logits" in request.needs else None
        labels = joined(self.kept.labels)[:num] if self.kept.labels else None
        return Statistics(num, mean, covariance, features, logits, labels)


def joined(blocks: dict[int, Tensor]) -> Tensor:
    """Join the blocks in the order of their images to a single block, which takes their place.

    Each block is freed when it has been copied, so that memory holds the whole only once, for all requests.
    """
    if len(blocks) > 1:
        one = next(iter(blocks.values()))
        whole, row = one.new_empty(sum(map(len, blocks.values())), *one.shape[1:]), 0
        for start in sorted(blocks):
            block = blocks.pop(start)
            whole[row : row + len(block)] = block
            row += len(block)
        blocks[0] = whole
    (whole,) = blocks.values()
    return whole
