"""Collect statistics of the features of a set of images, block after block, also over several processes."""

from collections.abc import Callable, Iterable, Sequence, Set
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
    """What is needed of some of the images of a set: of images first, first + 1, ..., first + num - 1.

    Attributes:
        needs: see Need.
    """

    num: int
    needs: frozenset[Need]
    first: int = 0

    @property
    def stop(self) -> int:
        """Return the index after the last image."""
        return self.first + self.num

    def rows(self, start: int, num: int) -> slice:
        """Return which rows of a block are wanted; the block has the images start, ..., start + num - 1."""
        begin = min(max(0, self.first - start), num)
        return slice(begin, max(begin, min(num, self.stop - start)))


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
        if self.total is None or self.outer is None:
            self.total, self.outer = x.new_zeros(x.shape[1]), x.new_zeros(x.shape[1], x.shape[1])
        self.n += len(x)
        self.total += x.sum(0)
        self.outer.addmm_(x.T, x)

    def merge(self, other: "Sums") -> None:
        """Add the sums over other images."""
        if self.total is None or self.outer is None:
            self.n, self.total, self.outer = other.n, other.total, other.outer
        elif other.total is not None and other.outer is not None:
            self.n += other.n
            self.total, self.outer = self.total + other.total, self.outer + other.outer

    @classmethod
    def of(cls, statistics: Statistics) -> "Sums":
        """Return the sums that have these moments."""
        if statistics.mean is None or statistics.covariance is None:
            raise ValueError("there are no moments.")
        n, mean = statistics.num, statistics.mean
        return cls(n, n * mean, (n - 1) * statistics.covariance + n * torch.outer(mean, mean))

    def without(self, other: "Sums") -> "Sums":
        """Return the sums over the images that are not among those of `other`, which are a part of these."""
        assert self.total is not None
        assert self.outer is not None
        assert other.total is not None
        assert other.outer is not None
        return Sums(self.n - other.n, self.total - other.total, self.outer - other.outer)

    def moments(self) -> tuple[Float64[Tensor, " d"], Float64[Tensor, "d d"]]:
        """Return the mean and the unbiased covariance.

        Raises:
            ValueError: there are fewer than 2 images.
        """
        if self.total is None or self.outer is None or self.n < 2:
            raise ValueError(f"{self.n} images: a covariance needs at least 2; set num_samples higher.")
        mean = self.total / self.n
        return mean, (self.outer - self.n * torch.outer(mean, mean)) / (self.n - 1)


CHUNK_BYTES = 2**26
"""Blocks are joined to chunks of this size: the C library returns such a chunk to the system when it is freed."""


class Rows:
    """Rows of a long tensor that arrive in blocks, in any order; memory holds them only once."""

    def __init__(self) -> None:
        self.blocks: dict[int, Tensor] = {}
        """By the index of the first row."""
        self._recent: list[int] = []

    def __len__(self) -> int:
        return sum(len(block) for block in self.blocks.values())

    def add(self, start: int, block: Tensor) -> None:
        """Add the rows start, start + 1, ..."""
        self.blocks[start] = block
        self._recent.append(start)
        if sum(self.blocks[i].nbytes for i in self._recent) >= CHUNK_BYTES:
            self._join(self._recent)
            self._recent = []

    def merge(self, other: "Rows") -> None:
        """Add the rows of another process."""
        self.blocks |= other.blocks

    def __call__(self, first: int, num: int) -> Tensor:
        """Return the rows first, first + 1, ..., first + num - 1, all of which there are."""
        self._join(list(self.blocks))
        self._recent = []
        start = max((start for start in self.blocks if start <= first), default=min(self.blocks))
        return self.blocks[start][first - start : first - start + num]

    def _join(self, starts: list[int]) -> None:
        """Replace those of the blocks that follow each other by one with all their rows.

        Each block is freed when it has been copied.
        """
        runs: list[list[int]] = []
        stop = None
        for start in sorted(starts):
            if start == stop:
                runs[-1].append(start)
            else:
                runs.append([start])
            stop = start + len(self.blocks[start])
        for run in runs:
            if len(run) > 1:
                one = self.blocks[run[0]]
                whole, row = one.new_empty(sum(len(self.blocks[start]) for start in run), *one.shape[1:]), 0
                del one
                for start in run:
                    block = self.blocks.pop(start)
                    whole[row : row + len(block)] = block
                    row += len(block)
                self.blocks[run[0]] = whole


@dataclass
class Kept:
    """Features, logits and labels of images; empty if not needed."""

    features: Rows = field(default_factory=Rows)
    logits: Rows = field(default_factory=Rows)
    labels: Rows = field(default_factory=Rows)

    def merge(self, other: "Kept") -> None:
        """Add those of another process."""
        for mine, others in ((self.features, other.features), (self.logits, other.logits), (self.labels, other.labels)):
            mine.merge(others)


class Collector:
    """Collects what metrics request of one set of images, in one pass over its features.

    Features and logits are kept only as far as a request needs them; for means and covariances, sums are kept.
    """

    def __init__(self, requests: Iterable[Request]):
        self.requests = list(dict.fromkeys(requests))
        self.sums = {(r.first, r.num): Sums() for r in self.requests if "moments" in r.needs}
        self.kept = Kept()
        self.num = self.stop = 0
        """Number of images so far, and the index after the last of them; over all processes after `merge`."""

    def add(self, start: int, extracted: Extracted, labels: Int64[Tensor, " n"] | None) -> None:
        """Add the images start, start + 1, ..., in any order of blocks."""
        features, logits = extracted.features.cpu(), extracted.logits
        self.num, self.stop = self.num + len(features), max(self.stop, start + len(features))
        for (first, num), sums in self.sums.items():
            summed = features[Request(num, frozenset(), first).rows(start, len(features))]
            if len(summed):
                sums.add(summed)
        for values, kept, needs in (
            (features, self.kept.features, {"features"}),
            (logits, self.kept.logits, {"logits"}),
            (labels, self.kept.labels, {"features", "logits"}),
        ):
            rows = self._wanted(needs, start, len(features))
            if rows is None or (values is None and kept is self.kept.labels):
                continue
            if values is None:
                raise ValueError("the extractor has no classes; choose features with a classifier.")
            kept.add(start + rows.start, values[rows].cpu())

    def _wanted(self, needs: Set[str], start: int, num: int) -> slice | None:
        """Return the rows of a block from the first to the last that a request with such a need has; None: no row."""
        rows = [request.rows(start, num) for request in self.requests if needs & request.needs]
        some = [wanted for wanted in rows if wanted.stop > wanted.start]
        return slice(min(r.start for r in some), max(r.stop for r in some)) if some else None

    def merge(self, others: Sequence["Collector"]) -> None:
        """Add what other processes have collected from other images of the set."""
        for other in others:
            self.num, self.stop = self.num + other.num, max(self.stop, other.stop)
            self.kept.merge(other.kept)
            for part, sums in self.sums.items():
                sums.merge(other.sums[part])

    def statistics(self, request: Request) -> Statistics:
        """Return the statistics for a request, of fewer images if the set has fewer.

        Raises:
            ValueError: there are too few images.
        """
        num = min(request.num, self.stop - request.first)
        mean = covariance = None
        if "moments" in request.needs:
            mean, covariance = self.sums[request.first, request.num].moments()
        features = self.kept.features(request.first, num) if "features" in request.needs else None
        logits = self.kept.logits(request.first, num) if "logits" in request.needs else None
        is_kept = features is not None or logits is not None
        labels = self.kept.labels(request.first, num) if is_kept and self.kept.labels else None
        return Statistics(num, mean, covariance, features, logits, labels)
