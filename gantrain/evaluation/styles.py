"""Samples made from styles: truncated, on lines in W between two samples, and with the styles of two samples."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gantrain.evaluation.sampling import BLOCK_SIZE, LabelFunction, evaluating
from gantrain.models.latent import Latent
from gantrain.seeding import generator

Styles = Float[Tensor, "n num_styles w_dim"]
Images = Float[Tensor, "n c h w"]


class Truncated(nn.Module):
    """A generator with truncated styles, which can be sampled like the generator itself.

    Source: Karras 2019 (StyleGAN), appendix B (truncation trick in W).

    Args:
        G: a generator with styles, such as StyleGAN2's.
        truncation: 1: the generator itself; 0: all styles are the mean of w.
    """

    def __init__(self, G: nn.Module, truncation: float):
        super().__init__()
        self.G: Any = G
        self.truncation, self.num_classes = truncation, getattr(G, "num_classes", None)

    def styles(self, z: Float[Tensor, "n z_dim"], *labels: Tensor) -> Styles:
        """Return the truncated styles of latents."""
        styles: Tensor = self.G.truncate(self.G.styles(z, *labels), self.truncation)
        return styles

    def synthesize(self, styles: Styles) -> Images:
        """Return the images of styles."""
        images: Tensor = self.G.synthesize(styles)
        return images

    def forward(self, z: Float[Tensor, "n z_dim"], *labels: Tensor) -> Images:
        """Return the images of latents."""
        return self.synthesize(self.styles(z, *labels))


@torch.no_grad()
def draw_styles(
    G: Truncated,
    latent: Latent,
    num: int,
    *,
    device: torch.device,
    key: tuple[int | str, ...],
    labels: LabelFunction | None,
) -> Styles:
    """Draw the styles of `num` samples: those of sampling.sample_blocks with the same key and labels."""
    blocks = []
    for block, start in enumerate(range(0, num, BLOCK_SIZE)):
        z = latent(BLOCK_SIZE, device=torch.device("cpu"), generator=generator(*key, block)).to(device)
        y = () if labels is None else (labels(start, BLOCK_SIZE).to(device),)
        with evaluating(G):
            blocks.append(G.styles(z, *y)[: num - start])
    return torch.cat(blocks)


@torch.no_grad()
def image_blocks(G: Truncated, num: int, styles_of: Callable[[Tensor], Styles]) -> Iterator[Images]:
    """Yield the images 0 to num - 1 in blocks, on the CPU.

    Args:
        styles_of: from the indices of images to their styles. All blocks have the same size, because another size would
            round differently; the last index is repeated in the last block.
    """
    for start in range(0, num, BLOCK_SIZE):
        indices = torch.arange(start, start + BLOCK_SIZE).clamp_(max=num - 1)
        with evaluating(G):
            images = G.synthesize(styles_of(indices))
        yield images[: num - start].float().cpu()


def interpolated_blocks(G: Truncated, ends: Styles, num_per_line: int) -> Iterator[Images]:
    """Yield blocks of the images on lines in W: line i goes from end i to end i + 1, both included.

    Source: Karras 2019 (StyleGAN), section 4.1 (paths in W).
    """

    def styles_of(indices: Tensor) -> Styles:
        line, where = indices // num_per_line, indices % num_per_line / (num_per_line - 1)
        return ends[line].lerp(ends[line + 1], where[:, None, None].to(ends))

    return image_blocks(G, (len(ends) - 1) * num_per_line, styles_of)


def mixing_grid(G: Truncated, sources: Styles, num_rows: int, layer: int) -> Float[Tensor, "cells c h w"]:
    """Return the cells of a grid, row by row, whose images have the styles of two sources.

    The first column shows the sources of the rows and the first row those of the columns; the corner is white. A cell
    has the styles of its row up to a layer, and those of its column from this layer on.

    Source: Karras 2019 (StyleGAN), figure 3.

    Args:
        sources: of the rows, and then of the columns.
        layer: index of the first layer with the style of the column.
    """
    rows, columns = sources[:num_rows], sources[num_rows:]
    width = len(columns) + 1

    def styles_of(indices: Tensor) -> Styles:
        row, column = indices // width - 1, indices % width - 1
        of_row, of_column = rows[row.clamp(min=0)], columns[column.clamp(min=0)]
        # Sources are not mixed.
        of_row = torch.where((row < 0)[:, None, None].to(of_row.device), of_column, of_row)
        of_column = torch.where((column < 0)[:, None, None].to(of_row.device), of_row, of_column)
        return torch.cat([of_row[:, :layer], of_column[:, layer:]], dim=1)

    images = torch.cat(list(image_blocks(G, (num_rows + 1) * width, styles_of)))
    images[0] = 1.0
    return images
