"""Samples of a generator, each a function of the key and its own number."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from gantrain.models.calling import takes_labels
from gantrain.models.latent import Latent
from gantrain.seeding import generator

BLOCK_SIZE = 64
"""Latents in a forward pass. A constant and no option: another size could change the last bits of every sample."""


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Hold the module and all below it in evaluation mode; afterwards each has its own mode again."""
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
    """Turn latents, and labels if G takes them, into samples in evaluation mode; float32 on the CPU."""
    with evaluating(G):
        samples: Tensor = G(z, y) if takes_labels(G) else G(z)
    return samples.float().cpu()


Labels = Callable[[int, int], Int64[Tensor, " n"]]
"""From the number of the first sample and that of samples to their labels, on the CPU."""


def sample_blocks(
    G: nn.Module,
    latent: Latent,
    num: int,
    *,
    device: torch.device,
    key: tuple[int | str, ...],
    labels: Labels | None = None,
    first: int = 0,
    every: int = 1,
) -> Iterator[Float[Tensor, "n *shape"]]:
    """Yield `num` samples in blocks, so that memory is bounded.

    Sample i depends on the weights, the key, its label and i alone: random numbers are drawn on the CPU by block, and
    the generator always runs on whole blocks, of which the last is cut to length afterwards.

    Args:
        key: what the randomness is keyed by, for example (seed, "sample").
        labels: of the samples, where G is conditional.
        first, every: which blocks to make.
    """
    blocks = list(enumerate(range(0, num, BLOCK_SIZE)))
    for block, start in blocks[first::every]:
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
    labels: Labels | None = None,
) -> Float[Tensor, "n *shape"]:
    """Return the blocks of `sample_blocks` as one tensor."""
    return torch.cat(list(sample_blocks(G, latent, num, device=device, key=key, labels=labels)))


def drawn_labels(class_counts: Sequence[int], key: tuple[int | str, ...]) -> Labels:
    """Draw labels as the data have them; that of sample i depends on the key and i alone.

    Args:
        class_counts: samples of each class in the data.
    """
    weights = torch.tensor(class_counts, dtype=torch.float64)

    def draw(start: int, n: int) -> Int64[Tensor, " n"]:
        return torch.multinomial(weights, n, replacement=True, generator=generator(*key, "labels", start))

    return draw


def rows_of_classes(classes: Sequence[int], num: int) -> Labels:
    """Give each class an equal, consecutive part of `num` samples: its row in a grid."""

    def rows(start: int, n: int) -> Int64[Tensor, " n"]:
        index = torch.arange(start, start + n).clamp_(max=num - 1)
        return torch.tensor(list(classes))[index * len(classes) // num]

    return rows
