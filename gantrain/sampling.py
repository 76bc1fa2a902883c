"""Samples of a generator, each a function of the key and its own number."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gantrain.models.latent import Latent
from gantrain.seeding import generator

BLOCK_SIZE = 64
"""Codes in a pass. A constant and no option: another size could change the last bits of every sample."""


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
def forward(G: nn.Module, z: Float[Tensor, "n z_dim"]) -> Float[Tensor, "n *shape"]:
    """Turn codes into samples in evaluation mode; float32 on the CPU."""
    with evaluating(G):
        samples: Tensor = G(z)
    return samples.float().cpu()


def sample_blocks(
    G: nn.Module,
    latent: Latent,
    num: int,
    *,
    device: torch.device,
    key: tuple[int | str, ...],
    first: int = 0,
    every: int = 1,
) -> Iterator[Float[Tensor, "n *shape"]]:
    """Yield `num` samples in blocks, so that memory is bounded.

    Sample i depends on the weights, the key and i alone: the noise is drawn on the CPU by block, and the generator
    always runs on whole blocks, of which the last is cut to length afterwards.

    Args:
        key: what the randomness is keyed by, for example (seed, "sample").
        first, every: which blocks to make.
    """
    blocks = list(enumerate(range(0, num, BLOCK_SIZE)))
    for block, start in blocks[first::every]:
        z = latent(BLOCK_SIZE, device=torch.device("cpu"), generator=generator(*key, block))
        yield forward(G, z.to(device))[: num - start]


def sample(
    G: nn.Module, latent: Latent, num: int, *, device: torch.device, key: tuple[int | str, ...]
) -> Float[Tensor, "n *shape"]:
    """Collect the blocks of `sample_blocks` in one tensor."""
    return torch.cat(list(sample_blocks(G, latent, num, device=device, key=key)))
