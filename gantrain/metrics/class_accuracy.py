"""Classification accuracy of class-conditional samples."""

from collections.abc import Sequence
from typing import ClassVar

from typing_extensions import override

from gantrain.metrics.base import Better, FeatureMetric, Need, Statistics
from gantrain.metrics.checks import check_at_least, labels_of, logits_of


class ClassAccuracy(FeatureMetric):
    """The fraction of generated images that the extractor's classifier assigns to the class that they were made for.

    The classes of the extractor must be those of the data. A generator that shows a single image of each class has a
    high accuracy too, so read it beside a diversity.

    Args:
        num_samples: number of generated images.
        num_real: number of real images whose scores are shown beside; None: all.
    """

    better: ClassVar[dict[str, Better]] = {"class_accuracy": "higher"}
    needs: ClassVar[frozenset[Need]] = frozenset({"logits", "labels"})
    compares: ClassVar[bool] = False

    def __init__(self, *, num_samples: int, num_real: int | None):
        check_at_least(1, num_samples=num_samples, num_real=num_real)
        self.num_samples, self.num_real = num_samples, num_real

    @override
    def check(self, *, num_logits: int | None, class_counts: Sequence[int] | None) -> None:
        if num_logits is None or class_counts is None or num_logits != len(class_counts):
            raise ValueError(
                f"the classes of the features ({num_logits or 'none'}) are not those of the data "
                f"({0 if class_counts is None else len(class_counts)}); choose features with a classifier for this "
                "data, or remove class_accuracy from metric=[...]."
            )

    @override
    def compute(self, fake: Statistics, real: Statistics) -> dict[str, float]:
        """Return "class_accuracy", in [0, 1].

        Raises:
            ValueError: there are no logits or labels, or the classifier knows fewer classes than there are labels.
        """
        logits, labels = logits_of(fake, "generated", 1), labels_of(fake, "generated")
        if labels.max() >= logits.shape[1]:
            raise ValueError(
                f"there are images of class {int(labels.max())}, but the extractor's classifier knows only "
                f"{logits.shape[1]} classes; choose an extractor for this data, or remove class_accuracy from "
                "metric=[...]."
            )
        return {"class_accuracy": (logits.argmax(1) == labels).double().mean().item()}
