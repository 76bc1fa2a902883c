"""DINOv2's features equal those of timm itself, for a small vision transformer with random weights."""

import hashlib
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import functional as TF

from gantrain.errors import ConfigError, DataError
from gantrain.evaluation.features.base import Extractor
from gantrain.evaluation.features.dinov2 import DINOv2, resize_positions

CPU = torch.device("cpu")
SMALL = "test_vit"
STEIN = transforms.Compose(
    [
        transforms.Resize((224, 224), transforms.InterpolationMode.BICUBIC),
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
)
"""The preprocessing of Stein 2023, applied to a PIL image."""


def vit(**options: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    made: torch.nn.Module = timm.create_model(SMALL, **options).eval()
    return made


def write(path: Path, tensors: dict[str, Tensor]) -> Path:
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return path


def extractor(path: Path | None, **options: Any) -> DINOv2:
    settings = {"architecture": SMALL, "sha256": None, "download": False} | options
    return DINOv2(weights=None if path is None else str(path), **settings)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("shape", [(3, 3, 32, 32), (2, 1, 28, 28), (1, 3, 300, 231)], ids=["rgb", "gray", "large"])
def test_features_equal_those_of_timm(tmp_path: Path, suffix: str, shape: tuple[int, ...]) -> None:
    # As in timm's published files, there is a classifier, which the features do not use.
    path = write(tmp_path / f"model{suffix}", vit(num_classes=10, img_size=224).state_dict())
    made = extractor(path)
    made.check(shape[1:])
    made.load(CPU)
    assert isinstance(made, Extractor)
    assert made.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert {"timm", "torch", "pillow"} == made.versions.keys()

    x = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    model = timm.create_model(SMALL, num_classes=10, img_size=224, checkpoint_path=str(path)).eval()
    with torch.no_grad():
        inputs = torch.stack([STEIN(TF.to_pil_image(image).convert("RGB")) for image in x])
        expected = model.forward_features(inputs)[:, 0]
    found = made(x)
    assert found.logits is None
    torch.testing.assert_close(found.features, expected, rtol=1e-5, atol=1e-5)


def cubic_weights(size: int, stored: int) -> np.ndarray:
    """Return the matrix [size, stored] of Keys' cubic interpolation with a = -3/4, at the authors' coordinates."""
    a, matrix = -0.75, np.zeros((size, stored))
    for i in range(size):
        x = (i + 0.5) * stored / (size + 0.1) - 0.5
        for j in range(int(np.floor(x)) - 1, int(np.floor(x)) + 3):
            t = abs(x - j)
            near = (a + 2) * t**3 - (a + 3) * t**2 + 1
            far = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
            matrix[i, min(max(j, 0), stored - 1)] += near if t <= 1 else far
    return matrix


def test_position_embeddings_are_resized_as_the_authors_do() -> None:
    embedding = torch.randn(1, 1 + 37 * 37, 5, generator=torch.Generator().manual_seed(0))
    found = resize_positions(embedding, 16)
    matrix = torch.from_numpy(cubic_weights(16, 37))
    expected = torch.einsum("ir,js,rsd->ijd", matrix, matrix, embedding[0, 1:].double().view(37, 37, 5)).flatten(0, 1)
    torch.testing.assert_close(found[0, 0], embedding[0, 0])
    torch.testing.assert_close(found[0, 1:].double(), expected, rtol=1e-4, atol=1e-5)
    assert resize_positions(embedding, 37) is embedding


def test_a_file_of_the_authors_for_another_size_is_read(tmp_path: Path) -> None:
    tensors = vit(num_classes=0).state_dict() | {"mask_token": torch.zeros(1, 64)}
    assert tensors["pos_embed"].shape == (1, 1 + 10 * 10, 64)
    made = extractor(write(tmp_path / "pretrain.pth", tensors))
    made.load(CPU)
    positions = dict(made._network.named_parameters())["pos_embed"]
    torch.testing.assert_close(positions.detach(), resize_positions(tensors["pos_embed"], 14))
    assert made(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)).features.shape == (1, 64)


def test_weights_in_the_cache_of_hugging_face_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / f"models--timm--{SMALL}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("c0ffee")
    (repository / "snapshots/c0ffee").mkdir(parents=True)
    path = write(repository / "snapshots/c0ffee/model.safetensors", vit(num_classes=0, img_size=224).state_dict())
    made = extractor(None)
    made.check((3, 32, 32))
    made.load(CPU)
    assert made.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_missing_weights_are_named_with_place_and_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: str) -> str:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    remedy = (
        r"dinov2_vitl14_pretrain\.pth .*SHA-256 d5383e.* any machine, and type features=dinov2 features\.weights=FILE"
    )
    with pytest.raises(ConfigError, match=rf"model.safetensors of timm/test_vit in {tmp_path} is missing\. .*{remedy}"):
        extractor(None).check((3, 32, 32))
    with pytest.raises(ConfigError, match=rf"its download failed \(no network\).*{remedy}"):
        extractor(None, download=True).check((3, 32, 32))


def test_wrong_weights_are_refused(tmp_path: Path) -> None:
    tensors = vit(num_classes=0, img_size=224).state_dict()
    path = write(tmp_path / "model.pth", tensors)
    with pytest.raises(DataError, match="SHA-256"):
        extractor(path, sha256="0" * 64).check((3, 32, 32))
    del tensors["blocks.2.mlp.fc1.weight"]
    with pytest.raises(DataError, match="not those of test_vit"):
        extractor(write(tmp_path / "less.pth", tensors)).load(CPU)
    (tmp_path / "broken.safetensors").write_bytes(b"broken")
    with pytest.raises(DataError, match="hold something else than tensors"):
        extractor(tmp_path / "broken.safetensors").load(CPU)


def test_unknown_architectures_and_shapes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"features\.architecture=vit_gigantic is not a network of timm"):
        extractor(None, architecture="vit_gigantic").check((3, 32, 32))
    with pytest.raises(ConfigError, match="needs gray or RGB images"):
        extractor(None).check((2,))
