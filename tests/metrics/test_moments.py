import math

import pytest
import torch
from torch import Tensor

from gantrain.datasets.base import Dataset, ImageDataset
from gantrain.datasets.toys import gaussian, gaussians_8, swiss_roll
from gantrain.metrics.moments import Moments


def images() -> ImageDataset:
    return ImageDataset("pictures", torch.zeros(2, 1, 4, 4, dtype=torch.uint8), None, None, "f")


def test_moments_of_known_numbers() -> None:
    values = torch.tensor([1.0, 2.0, 3.0, 6.0])[:, None]
    numbers = Moments(num_samples=4)(lambda n: values[:n], gaussian(mean=2.5, std=1.0))
    std = math.sqrt(14 / 3)
    assert numbers == pytest.approx({"mean": 3.0, "std": std, "mean_error": 0.5, "std_error": std - 1})


def test_the_error_is_the_maximum_over_coordinates() -> None:
    dataset = gaussians_8(radius=2.0, std=0.02, scale=1.0)

    def sample(n: int) -> Tensor:
        return dataset.sample(n, torch.Generator().manual_seed(0)) * torch.tensor([1.0, 3.0]) + torch.tensor([0.0, 5.0])

    numbers = Moments(num_samples=50_000)(sample, dataset)
    std = math.sqrt(2 + 0.02**2)
    assert numbers == pytest.approx(
        {
            "mean_0": 0, "mean_1": 5, "std_0": std, "std_1": 3 * std, "mean_error": 5, "std_error": 2 * std
        },
        abs=0.05,
    )  # fmt: skip


def test_a_perfect_generator_has_a_small_error() -> None:
    for dataset in (swiss_roll(std=0.25, scale=7.5), gaussian(mean=3.0, std=1.0), without_closed_form()):
        numbers = Moments(num_samples=50_000)(
            lambda n, data=dataset: data.sample(n, torch.Generator().manual_seed(1)),  # type: ignore[misc]
            dataset,
        )
        assert 0 < numbers["mean_error"] < 0.02
        assert 0 < numbers["std_error"] < 0.02


def without_closed_form() -> Dataset:
    dataset = gaussian(mean=3.0, std=1.0)
    known = dataset.sample

    class Unknown(type(dataset)):  # type: ignore[misc]
        def __init__(self) -> None:
            pass

        def sample(self, n: int, generator: torch.Generator) -> Tensor:
            return known(n, generator)

    unknown: Dataset = Unknown()
    unknown.mean = unknown.std = None  # type: ignore[union-attr]
    return unknown


def test_images_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"dataset=pictures.*metric=\["):
        Moments(num_samples=10).check(images())
    Moments(num_samples=10).check(gaussian(mean=0.0, std=1.0))


def test_one_sample_is_an_error() -> None:
    with pytest.raises(ValueError, match="num_samples=1"):
        Moments(num_samples=1)
