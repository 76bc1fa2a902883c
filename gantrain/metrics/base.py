"""The interfaces of metrics: on samples, and on the features of images."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from jaxtyping import Float, Float64, Int64
from torch import Tensor

from gantrain.datasets.base import Dataset

Better = Literal["higher", "lower"]
"""Whether a higher or a lower value of a score is better."""

Need = Literal["moments", "features", "logits", "labels"]
"""What a metric needs of each set: mean and covariance of the features, the features, class logits, or labels."""


@runtime_checkable
class Metric(Protocol):
    """Scores the samples of a generator, for data with a closed form; for images see FeatureMetric.

    If the scores depend on other options than num_samples, it also has a method `options`, as FeatureMetric has; if
    they depend on real samples, an attribute `num_real`, the number of them. Both are for the receipts. For vectors it
    is also called with a fresh real sample in place of the generated one, which gives the score of real samples.

    Attributes:
        num_samples: number of generated samples that the metric uses.
        better: for each score, whether higher or lower is better; scores without an entry have no direction. Of these,
            x_std is the standard deviation of a score x, and is printed beside it.
    """

    num_samples: int
    better: ClassVar[dict[str, Better]]

    def check(self, real: Dataset) -> None:
        """Check, before the first step, that the metric applies to the data.

        Raises:
            ValueError: it does not; the message names the remedy.
        """
        ...

    def __call__(self, sample: Callable[[int], Tensor], real: Dataset) -> dict[str, float]:
        """Return the scores by name; `sample(n)` returns n generated samples, float32 on the CPU."""
        ...


@dataclass(frozen=True)
class Statistics:
    """What the metrics need to know of a set of images: statistics of their features, and labels.

    Attributes:
        num: number of images.
        mean, covariance: of the features, over all images; the covariance is unbiased (divided by num - 1). None if no
            metric needs them.
        features: features of the images, or None.
        logits: logits of the classes that the extractor knows, or None.
        labels: class of each image; None without labels.
    """

    num: int
    mean: Float64[Tensor, " d"] | None = None
    covariance: Float64[Tensor, "d d"] | None = None
    features: Float[Tensor, "num d"] | None = None
    logits: Float[Tensor, "num classes"] | None = None
    labels: Int64[Tensor, " num"] | None = None


class FeatureMetric(ABC):
    """Scores generated images by the features that an extractor finds in them, compared with those of real images.

    Attributes:
        better: as in Metric.
        needs: what `compute` reads of the statistics.
        standard: name of the extractor with which the published values were computed. With another extractor its name
            is appended to the names of the scores, for example fid_digits.
        extractor: name of an extractor of its own; None: the one of the group `features`.
        compares: whether the scores depend on real images. If not, `num_real` is the number of those that are scored in
            the place of generated ones.
        num_samples: number of generated images.
        num_real: number of real images; None: all.
    """

    better: ClassVar[dict[str, Better]]
    needs: ClassVar[frozenset[Need]]
    standard: ClassVar[str] = "inception"
    extractor: ClassVar[str | None] = None
    compares: ClassVar[bool] = True
    num_samples: int
    num_real: int | None

    @abstractmethod
    def compute(self, fake: Statistics, real: Statistics) -> dict[str, float]:
        """Return the scores by name, computed in float64.

        Raises:
            ValueError: the statistics do not suffice, for example because there are too few images; the message names
                the value, the rule and the remedy.
        """

    @property
    def min_images(self) -> int:
        """Return how many generated and how many real images the metric needs at least."""
        return 2

    def check(self, *, num_logits: int | None, class_counts: Sequence[int] | None) -> None:  # noqa: B027
        """Check, before the first step, that the metric applies to the extractor and to the data.

        Args:
            num_logits: number of logits of the extractor; None: it is no classifier.
            class_counts: number of real images of each class; None: they have no labels.

        Raises:
            ValueError: it does not; the message names the remedy.
        """

    def options(self) -> dict[str, Any]:
        """Return the options that the scores depend on, for their receipts: numbers and strings by name."""
        return {}
