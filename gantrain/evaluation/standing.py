"""Standing statistics: measure the statistics of a generator's BatchNorm anew before sampling from it."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from gantrain.errors import ConfigError
from gantrain.evaluation.sampling import evaluating, labels_like_data
from gantrain.models.interface import takes_labels
from gantrain.models.latent import Latent
from gantrain.seeding import generator


@torch.no_grad()
def measure_statistics(
    G: nn.Module,
    latent: Latent,
    *,
    num_batches: int,
    max_size: int,
    device: torch.device,
    key: tuple[int | str, ...],
    class_counts: Sequence[int] | None = None,
) -> None:
    """Set the running statistics of BatchNorm to the mean over batches of generated samples, in place.

    Those of the training are averages over past weights, and with an EMA they belong to other weights than its own.
    Everything except BatchNorm is in evaluation mode, as in sampling.

    Source: Brock 2019 (BigGAN), section 3 and appendix C.1; batches of random sizes as in StudioGAN.

    Args:
        num_batches: each batch has the same weight in the mean.
        max_size: the sizes of the batches are drawn from 2 to this number.
        key: key of the random numbers, on which the result depends, beside the weights.
        class_counts: number of samples of each class in the data, if G is conditional.

    Raises:
        ConfigError: G has no BatchNorm with running statistics.
    """
    layers = [m for m in G.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not layers:
        raise ConfigError(
            f"standing_statistics={num_batches}: this generator has no BatchNorm, so there are no "
            "statistics to measure; leave it out."
        )
    sizes = torch.randint(2, max(max_size, 2) + 1, (num_batches,), generator=generator(*key, "sizes")).tolist()
    labels = None if class_counts is None else labels_like_data(class_counts, key)
    momenta = [layer.momentum for layer in layers]
    with evaluating(G):
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # a mean in which all batches have the same weight
            layer.train()
        for i, n in enumerate(sizes):
            z = latent(n, device=torch.device("cpu"), generator=generator(*key, i)).to(device)
            G(*((z, labels(i, n).to(device)) if labels is not None and takes_labels(G) else (z,)))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
