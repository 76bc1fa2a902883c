"""Frechet distance within the classes."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from gantrain.metrics.base import Better, FeatureMetric, Need, Statistics
from gantrain.metrics.checks import check_at_least, features_of, labels_of
from gantrain.metrics.frechet import frechet_distance_of_features

MIN_EXPECTED = 20
"""Expected number of images of the rarest class in a random subset; then fewer than the 2 needed are never drawn."""


class IntraClassFID(FeatureMetric):
    """Mean over the classes of the Frechet distance between generated and real images of the class.

    It sees images of a wrong class and classes without diversity, both of which FID may miss. With fewer images of a
    class it is higher, so compare values only for equal numbers.

    Source: Miyato 2018 (cGANs with projection discriminator), section 5.

    Args:
        num_samples: number of generated images.
        num_real: number of real images; None: all.
    """

    better: ClassVar[dict[str, Better]] = {"intra_class_fid": "lower"}
    needs: ClassVar[frozenset[Need]] = frozenset({"features", "labels"})

    def __init__(self, *, num_samples: int, num_real: int | None):
        check_at_least(2, num_samples=num_samples, num_real=num_real)
        self.num_samples, self.num_real = num_samples, num_real

    @override
    def check(self, *, num_logits: int | None, class_counts: Sequence[int] | None) -> None:
        counts = {c: count for c, count in enumerate(class_counts or ()) if count}
        c, fewest = min(counts.items(), key=lambda item: item[1], default=(0, 0))
        num_images = sum(counts.values())
        if fewest < 2:
            raise ValueError(
                f"class {c} has {fewest} real images, but 2 are needed; remove intra_class_fid, or the class."
            )
        for option, num in (("num_samples", self.num_samples), ("num_real", self.num_real)):
            is_all = option == "num_real" and (num is None or num >= num_images)
            if not is_all and num is not None and num * fewest / num_images < MIN_EXPECTED:
                raise ValueError(
                    f"with {option}={num}, about {num * fewest / num_images:.1f} images of class {c} are compared, but "
                    f"at least {MIN_EXPECTED} should be; raise {option} to {-(-MIN_EXPECTED * num_images // fewest)}."
                )

    @override
    def compute(self, fake: Statistics, real: Statistics) -> dict[str, float]:
        """Return "intra_class_fid", over the classes of the real images.

        Raises:
            ValueError: there are no labels, or fewer than 2 images of a class.
        """
        fake_labels, real_labels = labels_of(fake, "generated"), labels_of(real, "real")
        x, y = features_of(fake, "generated", 2), features_of(real, "real", 2)
        classes = torch.unique(real_labels).tolist()
        distances = [
            frechet_distance_of_features(
                _enough(x[fake_labels == c], f"generated images of class {c}", "num_samples"),
                _enough(y[real_labels == c], f"real images of class {c}", "num_real"),
            )
            for c in classes
        ]
        return {"intra_class_fid": sum(distances) / len(distances)}


def _enough(x: Float[Tensor, "n d"], what: str, option: str) -> Float[Tensor, "n d"]:
    if len(x) < 2:
        raise ValueError(f"the number of {what} is {len(x)}, but a covariance needs at least 2; raise {option}.")
    return x
