"""Sample from a generator so that sample i depends only on the weights, the key, its label and i."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from gantrain.models.interface import takes_labels
from gantrain.models.latent import Latent
from gantrain.seeding import generator

BLOCK_SIZE = 64
"""Latents in a forward pass. It is not an option, because another size could change the last bits of every sample."""


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Set the module and its submodules to evaluation mode while the block runs; restore each one's mode afterwards."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for m, mode in modes:
            m.training = mode


@torch.no_grad()
def forward(
    G: nn.Module, z: Float[Tensor, "n z_dim"], y: Int64[Tensor, " n"] | None = None
) -> Float[Tensor, "n *shape"]:
    """Run G in evaluation mode on latents, and on labels if G takes them; return float32 samples on the CPU."""
    with evaluating(G):
        samples: Tensor = G(z, y) if takes_labels(G) else G(z)
    return samples.float().cpu()


LabelFunction = Callable[[int, int], Int64[Tensor, " n"]]
"""Called as labels(start, n): returns the labels of samples start to start + n - 1, on the CPU."""


def sample_blocks(
    G: nn.Module,
    latent: Latent,
    num: int,
    *,
    device: torch.device,
    key: tuple[int | str, ...],
    labels: LabelFunction | None = None,
    first: int = 0,
    every: int = 1,
) -> Iterator[Float[Tensor, "n *shape"]]:
    """Yield `num` samples in blocks, so that memory is bounded.

    Sample i depends only on the weights, the key, its label and i: the latents of each block are drawn on the CPU from
    its own key, and the generator always runs on full blocks, of which the last is truncated afterwards.

    Args:
        key: key of the random numbers, for example (seed, "sample").
        labels: labels of the samples, if G is conditional.
        first, every: yield only the blocks first, first + every, first + 2 * every, ...
    """
    for block, start in islice(enumerate(range(0, num, BLOCK_SIZE)), first, None, every):
        z = latent(BLOCK_SIZE, device=torch.device("cpu"), generator=generator(*key, block))
        y = None if labels is None else labels(start, BLOCK_SIZE).to(device)
        yield forward(G, z.to(device), y)[: num - start]


def sample(
    G: nn.Module,
    latent: Latent,
    num: int,
    *,
    device: torch.device,
    key: tuple[int | str, ...],
    labels: LabelFunction | None = None,
) -> Float[Tensor, "n *shape"]:
    """Return the blocks of `sample_blocks` as one tensor."""
    return torch.cat(list(sample_blocks(G, latent, num, device=device, key=key, labels=labels)))


def labels_like_data(class_counts: Sequence[int], key: tuple[int | str, ...]) -> LabelFunction:
    """Return a function that draws labels with the class frequencies of the data; see LabelFunction.

    The label of sample i depends only on the key and i, if all blocks have the same size.

    Args:
        class_counts: number of samples of each class in the data.
    """
    weights = torch.tensor(class_counts, dtype=torch.float64)

    def draw(start: int, n: int) -> Int64[Tensor, " n"]:
        return torch.multinomial(weights, n, replacement=True, generator=generator(*key, "labels", start))

    return draw


def labels_by_row(classes: Sequence[int], num: int) -> LabelFunction:
    """Return a function that gives each class an equal, consecutive part of `num` samples, as in the rows of a grid."""

    def rows(start: int, n: int) -> Int64[Tensor, " n"]:
        index = torch.arange(start, start + n).clamp_(max=num - 1)
        return torch.tensor(list(classes))[index * len(classes) // num]

    return rows
