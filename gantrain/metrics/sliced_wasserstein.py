"""Sliced Wasserstein distance between the patches of images."""

from typing import Any, ClassVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from typing_extensions import override

from gantrain.evaluation.features.pyramid import CHANNELS, DESCRIPTOR, levels_of
from gantrain.metrics.base import Better, FeatureMetric, Need, Statistics
from gantrain.metrics.blocks import blocks
from gantrain.metrics.checks import check_at_least, features_of
from gantrain.seeding import generator

DIRECTIONS = 32
"""Directions of one matrix product; 65,536 patches and 32 directions take 17 MB."""


class SlicedWasserstein(FeatureMetric):
    """Distance between the patches of generated and real images, in each level of a Laplacian pyramid; no network.

    In each level the Wasserstein-1 distance of the patches' projections is averaged over random directions. Fine levels
    show differences of texture, coarse levels of shape. The same number of both images is compared, the smaller one.

    8,192 images of each side at 256 px take 385 MB of features, and about 320 MB more while it is computed. Karras 2018
    takes 128 patches of each image instead of 8, so values cannot be compared with published ones.

    Source: Karras 2018, section 5 and appendix; Rabin 2011.

    Args:
        num_samples: number of generated images.
        num_real: number of real images; None: all.
        num_directions: random directions of each level.
    """

    better: ClassVar[dict[str, Better]] = {"sliced_wasserstein": "lower"}
    needs: ClassVar[frozenset[Need]] = frozenset({"features"})
    standard: ClassVar[str] = "pyramid"
    extractor: ClassVar[str | None] = "pyramid"

    def __init__(self, *, num_samples: int, num_real: int | None, num_directions: int):
        check_at_least(1, num_samples=num_samples, num_real=num_real, num_directions=num_directions)
        self.num_samples, self.num_real, self.num_directions = num_samples, num_real, num_directions

    @override
    def compute(self, fake: Statistics, real: Statistics) -> dict[str, float]:
        """Return "sliced_wasserstein", the mean over the levels, and "sliced_wasserstein_level0" (finest), ...; x 1000.

        Raises:
            ValueError: a set is empty, or the features are those of another extractor.
        """
        x, y = features_of(fake, "generated", 1), features_of(real, "real", 1)
        num = min(len(x), len(y))
        fake_levels, real_levels = levels_of(x[:num]), levels_of(y[:num])
        scores: dict[str, float] = {}
        for i in range(fake_levels.shape[1]):
            size = (DESCRIPTOR, self.num_directions)
            directions = torch.randn(size, generator=generator("sliced_wasserstein", i), dtype=torch.float64)
            a, b = fake_levels[:, i].flatten(0, 1), real_levels[:, i].flatten(0, 1)
            scores[f"sliced_wasserstein_level{i}"] = 1000 * sliced_wasserstein(a, b, directions.to(x.device))
        return {"sliced_wasserstein": sum(scores.values()) / len(scores), **scores}

    @override
    def options(self) -> dict[str, Any]:
        return {"num_directions": self.num_directions}


def sliced_wasserstein(
    x: Float[Tensor, "n descriptor"], y: Float[Tensor, "n descriptor"], directions: Float64[Tensor, "descriptor k"]
) -> float:
    """Return the Wasserstein-1 distance of the projections, averaged over the directions.

    Each set's own mean and standard deviation per channel are removed first.

    Args:
        x, y: patches, (channel, position) in each row.
        directions: of any length above 0.
    """
    directions = directions / directions.norm(dim=0)
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    scales_x, scales_y = _channel_moments(x), _channel_moments(y)
    for some in torch.chunk(directions, -(-directions.shape[1] // DIRECTIONS), dim=1):
        total += (_sorted_projections(x, *scales_x, some) - _sorted_projections(y, *scales_y, some)).abs().sum()
    return total.item() / (len(x) * directions.shape[1])


def _channel_moments(x: Float[Tensor, "n descriptor"]) -> tuple[Float64[Tensor, " c"], Float64[Tensor, " c"]]:
    """Return mean and standard deviation (divided by the count) of each channel."""
    channels = x.view(len(x), CHANNELS, -1)
    count = len(x) * channels.shape[2]
    mean = torch.stack([channels[rows].double().sum((0, 2)) for rows in blocks(len(x))]).sum(0) / count
    deviations = [(channels[rows].double() - mean[:, None]).square().sum((0, 2)) for rows in blocks(len(x))]
    return mean, (torch.stack(deviations).sum(0) / count).sqrt()


def _sorted_projections(
    x: Float[Tensor, "n descriptor"],
    mean: Float64[Tensor, " c"],
    std: Float64[Tensor, " c"],
    directions: Float64[Tensor, "descriptor k"],
) -> Float64[Tensor, "k n"]:
    """Project the normalized patches on the directions, and sort. A channel without variation becomes 0."""
    of_channel = torch.arange(CHANNELS, device=x.device).repeat_interleave(x.shape[1] // CHANNELS)
    inverse = torch.where(std > 0, 1 / std, torch.zeros_like(std))[of_channel]
    projected = [((x[rows].double() - mean[of_channel]) * inverse) @ directions for rows in blocks(len(x))]
    return torch.cat(projected).T.contiguous().sort(dim=1).values
