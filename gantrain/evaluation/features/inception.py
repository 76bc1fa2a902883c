"""FID's Inception network, through torch-fidelity."""

from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

import torch
from jaxtyping import UInt8
from torch import Tensor, nn
from typing_extensions import override

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

PACKAGE = "torch-fidelity"
FEATURES, LOGITS = "2048", "logits_unbiased"
"""torch-fidelity's names of the features of FID, and of the logits of the inception score: without the last bias."""


class Inception(Extractor):
    """Inception-v3 as converted from TensorFlow for FID: 2,048 features and 1,008 logits (without bias) of each image.

    The file of weights is read once into memory; its SHA-256 is compared before anything is unpickled, and then only
    tensors are unpickled. torch-fidelity itself would run code from the file.

    Args:
        weights: a file as torch-fidelity publishes it; None: its file in torch's cache, where torch-fidelity puts it.
        sha256: the SHA-256 that the file must have.
        download: whether a file that is missing in torch's cache may be downloaded.

    Source: Heusel 2017 (FID), Salimans 2016 (inception score); weights and resizer of torch-fidelity 0.4.
    """

    name = "inception"
    resizer = "bilinear to 299 px as in TensorFlow 1 (no antialiasing, corners not aligned)"
    precision = "float32"

    def __init__(self, *, weights: str | None, sha256: str, download: bool):
        self.weights, self.expected, self.download = weights, sha256.lower(), download
        self.sha256: str | None = None
        self.versions: dict[str, str] = {}
        self._network: nn.Module | None = None
        self._device = torch.device("cpu")

    @override
    def check(self, image_shape: tuple[int, ...]) -> None:
        if len(image_shape) != 3 or image_shape[0] not in (1, 3):
            raise ConfigError(f"features=inception needs gray or RGB images, not images of shape {image_shape}.")
        require_package(PACKAGE, self.name)
        read_verified(self.find(), self.expected)

    @override
    def load(self, device: torch.device) -> None:
        version = require_package(PACKAGE, self.name)
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        path = self.find()
        content, self.sha256 = read_verified(path, self.expected)
        tensors = load_tensors(path, content)
        # The constructor unpickles what it is given, so it is given bytes that are written here.
        buffer = BytesIO()
        torch.save(tensors, buffer)
        buffer.seek(0)
        try:
            network = FeatureExtractorInceptionV3("inception-v3-compat", [FEATURES, LOGITS], buffer)
        except RuntimeError as error:
            raise DataError(f"The weights {path} are not those of Inception-v3; replace the file.") from error
        self._network, self._device = network.to(device), device
        self.versions = {"torch": str(torch.__version__), PACKAGE: version}

    def find(self) -> Path:
        """Return the file of the weights; download it if it is missing.

        Raises:
            ConfigError: it is missing and cannot be downloaded.
        """
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

        if self.weights is not None:
            return require_file(self.weights)
        path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(URL_INCEPTION_V3).path).name
        if path.is_file():
            return path

        def fetch() -> Path:
            path.parent.mkdir(parents=True, exist_ok=True)
            # It writes to a temporary file, and compares the SHA-256 before it renames that.
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), hash_prefix=self.expected, progress=False)
            return path

        needs = f"{path.name} (SHA-256 {self.expected}) in {path.parent}"
        return download_file(self.name, needs, allowed=self.download, fetch=fetch, source=URL_INCEPTION_V3)

    @override
    def __call__(self, images: UInt8[Tensor, "n c h w"]) -> Extracted:
        return in_batches(images, self._device, self._extract)

    def _extract(self, images: UInt8[Tensor, "n c h w"]) -> Extracted:
        assert self._network is not None
        rgb = images.to(self._device).expand(-1, 3, -1, -1)
        with full_float32(self._device):
            features, logits = self._network(rgb)
        return Extracted(features, logits)
