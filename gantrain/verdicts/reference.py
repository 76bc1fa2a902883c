"""What is the same at every check: the latents of the samples, the real images, and distances between real images."""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from gantrain.datasets.base import Dataset, ImageDataset
from gantrain.datasets.batches import Batch, to_signed
from gantrain.datasets.labels import Labels
from gantrain.evaluation.features.arithmetic import full_float32
from gantrain.evaluation.features.base import Extractor
from gantrain.evaluation.sampling import labels_like_data, sample
from gantrain.models.latent import Latent
from gantrain.seeding import generator

NUM_SAMPLES = 128
"""Generated samples, and as many real ones."""

SIDE = 16
"""Maximum side of a thumbnail in pixels."""

MAX_TRAINING_IMAGES = 10_000
"""Maximum number of training images among which nearest neighbors are searched."""

NUM_QUERIES = 512
"""Training images whose own nearest neighbors are searched."""

CHUNK_VALUES = 1_000_000
"""Channel values of the images that are read at a time: 4 MB as float32, which fits in the cache of a core."""


class Neighbors(NamedTuple):
    """Distances to the nearest and to the second-nearest training image, between thumbnails."""

    first: Float[Tensor, " n"]
    second: Float[Tensor, " n"]


class Reference:
    """The fixed samples of a run, on the CPU, which depend only on the data and the seed; made at their first use.

    Args:
        class_counts: number of samples of each class in the data; None if the run does not use labels.
        mirrored: whether real images are mirrored at random in the training.
        extractor: of features, already loaded at its first use here; None: there is none.
    """

    def __init__(
        self,
        dataset: Dataset,
        latent: Latent,
        *,
        seed: int,
        device: torch.device,
        class_counts: Sequence[int] | None = None,
        mirrored: bool = False,
        extractor: Extractor | None = None,
    ):
        self.dataset, self.latent, self.seed, self.device = dataset, latent, seed, device
        self.class_counts, self.mirrored, self.extractor = class_counts, mirrored, extractor

    @cached_property
    def labels(self) -> Labels:
        """Labels of the generated samples, with the class frequencies of the data; None: unconditional."""
        if self.class_counts is None:
            return None
        return labels_like_data(self.class_counts, (self.seed, "verdicts"))(0, NUM_SAMPLES)

    def generated(self, G: nn.Module) -> Batch:
        """Return samples of G, always from the same latents."""
        y = self.labels
        label_function = None if y is None else (lambda start, n: y[start : start + n])
        key = (self.seed, "verdicts")
        return Batch(sample(G, self.latent, NUM_SAMPLES, device=self.device, key=key, labels=label_function), y)

    @cached_property
    def real(self) -> Batch:
        """Random samples of the training data."""
        return self._draw(self.dataset)

    @cached_property
    def held_out(self) -> Batch | None:
        """Random images on which nothing is trained; None: none are held out."""
        return None if self.dataset.held_out is None else self._draw(self.dataset.held_out)

    def _draw(self, dataset: Dataset) -> Batch:
        if not isinstance(dataset, ImageDataset):
            return Batch(dataset.sample(NUM_SAMPLES, generator(self.seed, "verdicts", "real")))
        chosen = _random_indices(dataset, NUM_SAMPLES)
        with_labels = self.class_counts is not None and dataset.labels is not None
        y = dataset.labels[chosen] if with_labels and dataset.labels is not None else None
        return Batch(to_signed(dataset.gather(chosen)), y)

    @cached_property
    def real_thumbnails(self) -> Float[Tensor, "n d"]:
        """Thumbnails of `real`."""
        return thumbnails(self.real.x)

    @cached_property
    def training_thumbnails(self) -> Float[Tensor, "m d"] | None:
        """Thumbnails of at most 10,000 training images, mirrored ones too if the training mirrors; None for vectors."""
        if not isinstance(self.dataset, ImageDataset):
            return None
        indices = _random_indices(self.dataset, MAX_TRAINING_IMAGES // (2 if self.mirrored else 1))
        in_order, places = indices.sort()  # a file is read faster in its order
        size = max(1, CHUNK_VALUES // math.prod(self.dataset.image_shape))
        pooled = [pool(self.dataset.gather(chunk).float()) for chunk in torch.split(in_order, size)]
        found = to_signed(torch.cat(pooled))
        found = found[places.argsort()]
        both = torch.cat([found, found.flip(-1)]) if self.mirrored else found
        return both.flatten(1).to(self.device)

    def neighbors(self, queries: Float[Tensor, "n d"]) -> Neighbors | None:
        """Search the two nearest training images of thumbnails; None for vectors, and below three images."""
        training = self.training_thumbnails
        if training is None or len(training) < 3:
            return None
        return _two_nearest(_distances(queries.to(self.device), training))

    @cached_property
    def neighbors_of_training(self) -> Neighbors | None:
        """The same of training images, each among the others."""
        training = self.training_thumbnails
        if training is None or len(training) < 3:
            return None
        distances = _distances(training[:NUM_QUERIES], training)
        distances.fill_diagonal_(math.inf)
        return _two_nearest(distances)


def thumbnails(x: Float[Tensor, "n *shape"]) -> Float[Tensor, "n d"]:
    """Average images over areas to at most 16x16 pixels, and flatten them; vectors are unchanged."""
    return (pool(x) if x.dim() == 4 else x).flatten(1)


def pool(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c height width"]:
    """Average images over areas to at most 16x16 pixels."""
    return adaptive_avg_pool2d(x, (min(SIDE, x.shape[2]), min(SIDE, x.shape[3])))


def _random_indices(dataset: ImageDataset, num: int) -> Int64[Tensor, " n"]:
    return torch.randperm(dataset.num_images, generator=generator("verdicts"))[:num]


def _distances(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    with full_float32(a.device):
        return torch.cdist(a, b)


def _two_nearest(distances: Float[Tensor, "n m"]) -> Neighbors:
    nearest = distances.topk(2, largest=False).values.cpu()
    return Neighbors(nearest[:, 0], nearest[:, 1])
