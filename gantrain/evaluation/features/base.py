"""The interface of feature extractors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


@dataclass(frozen=True)
class Extracted:
    """Features of images, and the logits of the classes that the extractor knows, or None; both float32."""

    features: Float[Tensor, "n d"]
    logits: Float[Tensor, "n classes"] | None = None


CPU_BATCH = 16
"""Images in a forward pass of a large network on a CPU, where more take memory and are no faster."""


def in_batches(images: Tensor, device: torch.device, network: Callable[[Tensor], Extracted]) -> Extracted:
    """Apply a large network to images: to all at once on a GPU, to CPU_BATCH at a time on a CPU."""
    size = CPU_BATCH if device.type == "cpu" else len(images)
    parts = [network(part) for part in torch.split(images, max(size, 1))]
    logits = [part.logits for part in parts if part.logits is not None]
    return Extracted(torch.cat([part.features for part in parts]), torch.cat(logits) if logits else None)


@runtime_checkable
class Extractor(Protocol):
    """Maps images to features.

    Attributes:
        name: short name, which becomes part of the names of scores, for example fid_digits.
        resizer: how images get the size of the network's input, in words, for receipts.
        sha256: SHA-256 of the file of the weights, or None if it has none; known after `load`.
        precision: of the arithmetic, for example "float32".
        versions: versions of the libraries that the features depend on, by name; known after `load`.
    """

    name: str
    resizer: str
    sha256: str | None
    precision: str
    versions: dict[str, str]

    def check(self, image_shape: tuple[int, ...]) -> None:
        """Check that the extractor applies to images of this shape, and that its weights are available.

        Weights that are missing are downloaded here, before the first step of a training.

        Raises:
            ConfigError: it does not, or they are not; the message names the remedy.
            DataError: the weights are not those expected.
        """
        ...

    def load(self, device: torch.device) -> None:
        """Load the weights to the device.

        Raises:
            ConfigError: they are missing.
            DataError: they are damaged.
        """
        ...

    def __call__(self, images: UInt8[Tensor, "n c h w"]) -> Extracted:
        """Return the features of images in [0, 255], gray (c = 1) or RGB (c = 3), of any size; on their device."""
        ...
