"""DINOv2, through timm."""

import math
from pathlib import Path

import numpy as np
import PIL
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from gantrain.datasets.images import from_array, to_array
from gantrain.errors import ConfigError, DataError
from gantrain.evaluation.features.arithmetic import full_float32
from gantrain.evaluation.features.base import Extracted, Extractor, in_batches
from gantrain.evaluation.features.weights import (
    download_file,
    load_tensors,
    read_verified,
    require_file,
    require_package,
)

SIZE = 224
"""Side in pixels of the network's input."""

PUBLISHED = "vit_large_patch14_dinov2.lvd142m"
"""The network of published numbers."""

FILE = "model.safetensors"
"""Name of the file of weights in timm's repositories."""

AUTHORS_FILE = (
    "dinov2_vitl14_pretrain.pth of DINOv2's authors "
    "(SHA-256 d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428)"
)

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB in [0, 1]
_POSITION_OFFSET = 0.1  # DINOv2 scales its position embeddings to this much more than the number of patches


class DINOv2(Extractor):
    """The normalized class token of DINOv2's ViT-L/14 at 224 pixels: 1,024 features of each image, and no logits.

    Args:
        architecture: a vision transformer of timm with a class token.
        weights: a .safetensors file, or a file that torch.save wrote: timm's, or that of DINOv2's authors; None: timm's
            file in the cache of Hugging Face.
        sha256: the SHA-256 that the file must have; None: any.
        download: whether timm's file may be downloaded if it is missing.

    Source: Oquab 2023 (DINOv2); preprocessing of Stein 2023, "Exposing flaws of generative model evaluation metrics".
    """

    resizer = "bicubic to 224 px with antialiasing, rounded to 8 bits (Pillow)"
    precision = "float32"

    def __init__(self, *, architecture: str, weights: str | None, sha256: str | None, download: bool):
        self.architecture, self.weights, self.expected, self.download = architecture, weights, sha256, download
        # Published numbers are those of ViT-L/14; others must not have the same name.
        self.name = "dinov2" if architecture == PUBLISHED else architecture
        self.sha256: str | None = None
        self.versions: dict[str, str] = {}
        self._network: nn.Module | None = None
        self._device = torch.device("cpu")

    @override
    def check(self, image_shape: tuple[int, ...]) -> None:
        if len(image_shape) != 3 or image_shape[0] not in (1, 3):
            raise ConfigError(f"features=dinov2 needs gray or RGB images, not images of shape {image_shape}.")
        require_package("timm", "dinov2")
        import timm

        if not timm.is_model(self.architecture):
            raise ConfigError(
                f"features.architecture={self.architecture} is not a network of timm {timm.__version__}; the published "
                f"numbers are those of {PUBLISHED}."
            )
        path = self.find()
        if self.expected is not None:
            read_verified(path, self.expected)

    @override
    def load(self, device: torch.device) -> None:
        version = require_package("timm", "dinov2")
        import timm
        from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

        path = self.find()
        content, self.sha256 = read_verified(path, self.expected)
        network = timm.create_model(self.architecture, img_size=SIZE, num_classes=0, global_pool="token")
        if not isinstance(network, VisionTransformer):
            raise ConfigError(f"features.architecture={self.architecture} is not a vision transformer of timm.")
        tensors = load_tensors(path, content)
        if "pos_embed" in tensors:
            tensors["pos_embed"] = resize_positions(tensors["pos_embed"], network.patch_embed.grid_size[0])
        tensors = {name: x for name, x in tensors.items() if not name.startswith("head.")}
        try:
            network.load_state_dict(checkpoint_filter_fn(tensors, network))
        except (RuntimeError, KeyError, ValueError) as error:
            raise DataError(f"The weights {path} are not those of {self.architecture}; replace the file.") from error
        self._network, self._device = network.eval().requires_grad_(False).to(device), device
        self.versions = {"torch": str(torch.__version__), "timm": version, "pillow": PIL.__version__}

    def find(self) -> Path:
        """Return the file of the weights; download it if it is missing.

        Raises:
            ConfigError: it is missing and cannot be downloaded.
        """
        from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

        if self.weights is not None:
            return require_file(self.weights)
        repository = f"timm/{self.architecture}"
        found = try_to_load_from_cache(repository, FILE)
        if isinstance(found, str):
            return Path(found)
        return download_file(
            "dinov2",
            f"{FILE} of {repository} in {constants.HF_HUB_CACHE}",
            allowed=self.download,
            fetch=lambda: hf_hub_download(repository, FILE),
            source=f"{FILE} of {repository} at Hugging Face, or {AUTHORS_FILE},",
        )

    @override
    def __call__(self, images: UInt8[Tensor, "n c h w"]) -> Extracted:
        return in_batches(images, self._device, self._extract)

    def _extract(self, images: UInt8[Tensor, "n c h w"]) -> Extracted:
        assert self._network is not None
        pixels = torch.from_numpy(np.stack([resize(image) for image in images.cpu().numpy()])).to(self._device)
        mean, std = (torch.tensor(values, device=self._device)[:, None, None] for values in (_MEAN, _STD))
        with full_float32(self._device):
            features = self._network((pixels.expand(-1, 3, -1, -1) / 255 - mean) / std)
        return Extracted(features)


def resize(image: UInt8[np.ndarray, "c h w"]) -> UInt8[np.ndarray, "c 224 224"]:
    """Resize an image to the network's input."""
    return to_array(from_array(image).resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def resize_positions(embedding: Float[Tensor, "1 m d"], side: int) -> Float[Tensor, "1 k d"]:
    """Resize position embeddings to side * side patches as DINOv2's authors do, and Stein 2023 with them.

    timm resizes with antialiasing and without the offset of 0.1 patches, which gives other features.

    Args:
        embedding: of the class token, followed by the patches of a square, row by row.
    """
    patches = embedding[:, 1:]
    stored = math.isqrt(patches.shape[1])
    if stored == side or stored**2 != patches.shape[1]:
        return embedding
    grid = patches.reshape(1, stored, stored, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, scale_factor=(side + _POSITION_OFFSET) / stored, mode="bicubic")
    return torch.cat([embedding[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
