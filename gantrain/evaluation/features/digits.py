"""Features of handwritten digits: a small classifier that was trained on MNIST and is included in the package."""

import hashlib
from importlib.resources import files
from io import BytesIO

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from gantrain.errors import ConfigError, DataError
from gantrain.evaluation.features.arithmetic import full_float32
from gantrain.evaluation.features.base import Extracted, Extractor

WEIGHTS = "digits_weights.npz"
SHA256 = "c667718c344e9e5dee1f51c788f8a9fa063a8e06d3f8b98b7bf27cc0d258f414"
"""SHA-256 of the included file of weights."""

SIZE = 28
"""Side in pixels of the network's input."""


class DigitsNetwork(nn.Module):
    """Classifies gray digits of 28x28 pixels with values in [0, 1]; 156,042 parameters.

    The features are the 128 inputs of the last ReLU. On MNIST's training images each of them has mean 0 and variance 1
    (the training script normalizes them without scale and shift), so that all count alike in distances. They are taken
    before the ReLU, because the Frechet distance compares Gaussians, to which they are closer, and because the ReLU
    would hide differences: noise of 25 gray levels is at a Frechet distance of 22 before it and 10 after it, while test
    images are at 0.17 and 0.10 from training images.
    """

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            [
                nn.Conv2d(1, 16, 5, stride=2, padding=2),
                nn.Conv2d(16, 32, 3, padding=1),
                nn.Conv2d(32, 64, 3, padding=1),
            ]
        )
        self.hidden = nn.Linear(64 * 4 * 4, 128)
        self.classifier = nn.Linear(128, 10)

    @override
    def forward(self, x: Float[Tensor, "n 1 28 28"]) -> tuple[Float[Tensor, "n 128"], Float[Tensor, "n 10"]]:
        """Return features and logits."""
        first, second, third = self.convolutions
        x = F.relu(first(x))
        x = F.relu(F.max_pool2d(second(x), 2))
        x = F.relu(F.max_pool2d(third(x), 2, ceil_mode=True))
        features = self.hidden(x.flatten(1))
        return features, self.classifier(F.relu(features))


class Digits(Extractor):
    """Features and logits of gray digits, from the network that is included in gantrain.

    Images of another size are resized to 28x28. Below 20 pixels too little is left of a digit: of MNIST's test images,
    99.6 % are recognized at 28 pixels, 98.6 % at 20, 96 % at 16 and 84 % at 14. Trained by
    benchmarks/train_digits_features.py.
    """

    name = "digits"
    resizer = "bilinear to 28 px with antialiasing (none for images of 28 px)"
    precision = "float32"

    def __init__(self) -> None:
        self.sha256: str | None = None
        self.versions: dict[str, str] = {}
        self._network: DigitsNetwork | None = None
        self._device = torch.device("cpu")

    @override
    def check(self, image_shape: tuple[int, ...]) -> None:
        if len(image_shape) != 3 or image_shape[0] != 1:
            raise ConfigError(
                f"features=digits needs gray images of digits, not images of shape {image_shape}; for others use "
                "features=inception, for three digits as RGB features=stacked_digits."
            )

    @override
    def load(self, device: torch.device) -> None:
        content, self.sha256 = read_included(), SHA256
        network = DigitsNetwork()
        with np.load(BytesIO(content), allow_pickle=False) as arrays:
            network.load_state_dict({name: torch.from_numpy(arrays[name]) for name in arrays.files})
        # On a CPU channels_last is half as fast again.
        self._network = network.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)
        self._device = device
        self.versions = {"torch": str(torch.__version__)}

    @override
    def __call__(self, images: UInt8[Tensor, "n c h w"]) -> Extracted:
        assert self._network is not None
        x = images.to(self._device).float() / 255
        if x.shape[2:] != (SIZE, SIZE):
            x = F.interpolate(x, (SIZE, SIZE), mode="bilinear", antialias=True)
        with full_float32(self._device):
            features, logits = self._network(x)
        return Extracted(features, logits)


def read_included() -> bytes:
    """Read the included file of weights.

    Raises:
        DataError: it is missing or damaged.
    """
    file = files("gantrain.evaluation.features") / WEIGHTS
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} is missing; install gantrain again.") from error
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise DataError(f"{file} is damaged; install gantrain again.")
    return content
