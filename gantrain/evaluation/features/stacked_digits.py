"""Features of stacked MNIST: those of the three digits in the channels of an image."""

import torch
from jaxtyping import UInt8
from torch import Tensor
from typing_extensions import override

from gantrain.errors import ConfigError
from gantrain.evaluation.features.base import Extracted, Extractor
from gantrain.evaluation.features.digits import Digits


class StackedDigits(Extractor):
    """Features [n, 3 * 128] and logits [n, 3 * 10] of the digits in red, green and blue, in this order."""

    name = "stacked_digits"
    resizer = Digits.resizer
    precision = Digits.precision

    def __init__(self) -> None:
        self.sha256: str | None = None
        self.versions: dict[str, str] = {}
        self._digits = Digits()

    @override
    def check(self, image_shape: tuple[int, ...]) -> None:
        if len(image_shape) != 3 or image_shape[0] != 3:
            raise ConfigError(
                f"features=stacked_digits needs RGB images with a digit in each channel, not images of shape "
                f"{image_shape}; for gray digits use features=digits."
            )

    @override
    def load(self, device: torch.device) -> None:
        self._digits.load(device)
        self.sha256, self.versions = self._digits.sha256, self._digits.versions

    @override
    def __call__(self, images: UInt8[Tensor, "n c h w"]) -> Extracted:
        extracted = self._digits(images.flatten(0, 1)[:, None])
        assert extracted.logits is not None
        return Extracted(extracted.features.view(len(images), -1), extracted.logits.view(len(images), -1))
