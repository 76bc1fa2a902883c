"""Patches of a Laplacian pyramid, the features of the sliced Wasserstein distance; no network."""

import hashlib

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn.functional import pad

from gantrain.errors import ConfigError
from gantrain.evaluation.features.base import Extracted
from gantrain.seeding import generator

PATCH_SIZE = 7
"""Height and width of a patch."""

PATCHES = 8
"""Patches of each level of an image. Karras 2018 takes 128, which of 8,192 images at 256 px are 3 GB in each level."""

COARSEST = 16
"""The coarsest level has at least this height and width, unless the image is smaller."""

CHANNELS = 3
"""Gray images count as RGB, so that the size of a descriptor is always the same."""

DESCRIPTOR = CHANNELS * PATCH_SIZE**2
"""Numbers of a patch, in the order (channel, column, row)."""


class Pyramid:
    """Cuts patches of 7 x 7 pixels out of all levels of the image's Laplacian pyramid, at random positions.

    The features are float32 [n, levels * PATCHES * DESCRIPTOR], the finest level first. An image of 256 px has 5 levels
    and 24 kB of features, so 8,192 images take 193 MB. The positions are a function of the pixels, so the features of
    an image depend neither on its batch nor on its rank.

    Source: Karras 2018, section 5; Burt 1983 for the pyramid.
    """

    name = "pyramid"
    resizer = f"none; {PATCHES} patches of {PATCH_SIZE}x{PATCH_SIZE} px in each level"
    sha256: str | None = None
    precision = "float32"

    def __init__(self) -> None:
        self.versions = {"torch": str(torch.__version__)}

    def check(self, image_shape: tuple[int, ...]) -> None:
        """Check that the data are images of at least 7 x 7 pixels.

        Raises:
            ConfigError: they are not.
        """
        if len(image_shape) != 3 or image_shape[0] not in (1, CHANNELS) or min(image_shape[1:]) < PATCH_SIZE:
            raise ConfigError(
                f"the Laplacian pyramid needs gray or RGB images of at least {PATCH_SIZE} x {PATCH_SIZE} px, but the "
                f"data has the shape {list(image_shape)}; remove sliced_wasserstein from metric=[...]."
            )

    def load(self, device: torch.device) -> None:
        """Do nothing, because there are no weights."""

    def __call__(self, images: UInt8[Tensor, "n c h w"]) -> Extracted:
        """Return the patches of all levels of each image."""
        num_levels = count_levels(*images.shape[2:])
        fractions = torch.stack([_draw(image, num_levels) for image in images.cpu()]).to(images.device)
        levels = []
        for i, level in enumerate(laplacian_pyramid(images.float(), num_levels)):
            size = torch.tensor([level.shape[3], level.shape[2]], device=images.device)
            centers = (fractions[:, i] * (size - PATCH_SIZE + 1)).long() + PATCH_SIZE // 2
            patches = patches_at(level, centers[..., 0], centers[..., 1])
            levels.append(patches.expand(-1, -1, CHANNELS, -1, -1).flatten(1))
        return Extracted(torch.cat(levels, 1))


def _draw(image: UInt8[Tensor, "c h w"], num_levels: int) -> Float[Tensor, "levels patches 2"]:
    """Draw column and row of each patch, as fractions of their range in [0, 1), keyed by the pixels."""
    pixels = hashlib.blake2b(image.numpy().tobytes(), digest_size=16).hexdigest()
    return torch.rand(num_levels, PATCHES, 2, generator=generator("pyramid", pixels))


def levels_of(features: Float[Tensor, "n d"]) -> Float[Tensor, "n levels patches descriptor"]:
    """Reshape features of Pyramid to their patches, without a copy.

    Raises:
        ValueError: they are those of another extractor.
    """
    if features.shape[1] % (PATCHES * DESCRIPTOR):
        raise ValueError(f"features of {features.shape[1]} numbers are not those of the extractor pyramid; choose it.")
    return features.view(len(features), -1, PATCHES, DESCRIPTOR)


def count_levels(height: int, width: int) -> int:
    """Return the number of levels: as many as have at least COARSEST rows and columns, and at least 1."""
    num, size = 1, min(height, width)
    while (size := (size + 1) // 2) >= COARSEST:
        num += 1
    return num


def laplacian_pyramid(images: Float[Tensor, "n c h w"], num_levels: int) -> list[Float[Tensor, "n c _ _"]]:
    """Return the levels: differences to the blurred image at half the size, and as the last one that image itself."""
    levels = [images]
    for _ in range(num_levels - 1):
        smaller = blur(levels[-1])[..., ::2, ::2]
        enlarged = torch.zeros_like(levels[-1])
        enlarged[..., ::2, ::2] = 4 * smaller  # three of four pixels are 0
        levels[-1] = levels[-1] - blur(enlarged)
        levels.append(smaller)
    return levels


def blur(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Blur with the 5 x 5 binomial filter; the image is mirrored at its borders, without repeating them."""
    blurred = pad(images, (2, 2, 2, 2), "reflect")
    for axis in (2, 3):
        # Sums of shifted images take half of the time of a depthwise convolution on a CPU.
        a, b, c, d, e = (blurred.narrow(axis, i, images.shape[axis]) for i in range(5))
        blurred = (a + e + 4 * (b + d) + 6 * c) / 16
    return blurred


def patches_at(
    images: Float[Tensor, "n c h w"], columns: Int64[Tensor, "n k"], rows: Int64[Tensor, "n k"]
) -> Float[Tensor, "n k c 7 7"]:
    """Cut patches out of each image, with these columns and rows as centers; the last axes are (column, row)."""
    offsets = torch.arange(PATCH_SIZE, device=images.device) - PATCH_SIZE // 2
    of_image = torch.arange(len(images), device=images.device)[:, None, None, None]
    at_row = (rows[:, :, None] + offsets)[:, :, None, :]
    at_column = (columns[:, :, None] + offsets)[:, :, :, None]
    return images.permute(0, 2, 3, 1)[of_image, at_row, at_column].permute(0, 1, 4, 2, 3)
