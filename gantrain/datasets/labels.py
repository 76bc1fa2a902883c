"""Choose labels for generated samples: those of the real batch, or drawn from the data or uniformly."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from gantrain.datasets.base import Dataset
from gantrain.seeding import own_rows

Labels = Int64[Tensor, " n"] | None
"""The classes of n samples; None if they have none."""


class RealLabels:
    """Gives generated samples the labels of the real batch.

    Source: Huang 2024 (R3GAN).
    """

    needs_real = True

    def __call__(self, n: int, real_labels: Labels) -> Labels:
        """Return the labels [n] of the real samples.

        Raises:
            ValueError: the real batch does not have n labels.
        """
        if real_labels is None or len(real_labels) != n:
            raise ValueError(f"fake_labels=real: the real batch does not have {n} labels; use fake_labels=empirical.")
        return real_labels


class DrawnLabels:
    """Draws labels with given class frequencies.

    Args:
        frequencies: [num_classes], proportional to the probability of each class.
    """

    needs_real = False

    def __init__(self, frequencies: Sequence[float], device: torch.device):
        cumulative = torch.tensor(frequencies, dtype=torch.float64).cumsum(0)
        self.bounds: Float[Tensor, " num_classes"] = (cumulative / cumulative[-1]).float().to(device)
        self.num_classes = len(frequencies)

    def __call__(self, n: int, real_labels: Labels) -> Labels:
        """Draw n labels."""
        # By inverting the cumulative distribution: unlike torch.multinomial, this does not synchronize with the device.
        u = own_rows(partial(torch.rand, device=self.bounds.device), [n])
        labels: Tensor = torch.searchsorted(self.bounds, u, right=True).clamp_(max=self.num_classes - 1)
        return labels


def make_fake_labels(name: str, class_counts: Sequence[int], device: torch.device) -> Callable[[int, Labels], Labels]:
    """Make the label rule named by `fake_labels`: real, empirical (class frequencies of the data) or uniform."""
    if name == "real":
        return RealLabels()
    return DrawnLabels([1] * len(class_counts) if name == "uniform" else class_counts, device)


def count_classes(dataset: Dataset) -> list[int] | None:
    """Return the number of samples of each class, or None without labels."""
    if dataset.labels is None or dataset.num_classes is None:
        return None
    counts: list[int] = torch.bincount(dataset.labels, minlength=dataset.num_classes).tolist()
    return counts
