"""Inception's features equal torch-fidelity's, on a file of the published format with random weights."""

import hashlib
from pathlib import Path

import pytest
import torch
import torch_fidelity.feature_extractor_inceptionv3 as reference
import yaml
from inception_weights import write_random_weights
from oracles import load, oracle_files
from torch import Tensor, nn
from torch_fidelity.utils import create_feature_extractor

from gantrain.config import CONF
from gantrain.errors import ConfigError, DataError
from gantrain.evaluation.features import weights as weights_module
from gantrain.evaluation.features.base import Extractor
from gantrain.evaluation.features.inception import Inception

GENERATOR = torch.Generator().manual_seed(0)
CPU = torch.device("cpu")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def images(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=GENERATOR)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "weights-inception.pth"
    write_random_weights(path, GENERATOR)
    return path


@pytest.fixture(scope="module")
def extractor(published: Path) -> Inception:
    made = Inception(weights=str(published), sha256=sha256(published).upper(), download=False)
    made.check((3, 32, 32))
    made.load(CPU)
    return made


@pytest.fixture(scope="module")
def theirs(published: Path) -> nn.Module:
    found: nn.Module = create_feature_extractor(
        "inception-v3-compat",
        ["2048", "logits_unbiased"],
        cuda=False,
        feature_extractor_weights_path=str(published),
        verbose=False,
    )
    return found


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (1, 1, 28, 28), (1, 3, 37, 301)], ids=["rgb", "gray", "odd size"])
def test_features_and_logits_equal_those_of_torch_fidelity(
    extractor: Inception, theirs: nn.Module, shape: tuple[int, ...]
) -> None:
    x = images(*shape)
    with torch.no_grad():
        features, logits = theirs(x.repeat(1, 3 // shape[1], 1, 1))
    found = extractor(x)
    assert (found.features.shape, found.logits.shape) == ((shape[0], 2048), (shape[0], 1008))
    assert features.std() > 1e-2  # the comparison would be empty without variation
    torch.testing.assert_close(found.features, features, rtol=0, atol=0)
    torch.testing.assert_close(found.logits, logits, rtol=0, atol=0)


class _StopError(Exception):
    """Ends a forward pass before the first convolution."""


def network_input(extractor: Inception, x: Tensor) -> Tensor:
    """Return what the first convolution sees, in [0, 255]."""
    caught: list[Tensor] = []

    def catch(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        caught.append(arguments[0] * 128 + 128)
        raise _StopError

    handle = extractor._network.Conv2d_1a_3x3.register_forward_pre_hook(catch)
    with pytest.raises(_StopError):
        extractor(x)
    handle.remove()
    return caught[0]


@pytest.mark.parametrize("path", oracle_files("tf1_bilinear_resize*.npz"), ids=lambda path: path.stem)
def test_images_are_resized_as_tensorflow_1_does(extractor: Inception, path: Path) -> None:
    golden = load(path, torch.float32)
    sizes = [name.removeprefix("in.pixels_") for name in golden if name.startswith("in.pixels_")]
    assert any(size.endswith("_to_299x299") for size in sizes)
    for size in sizes:
        pixels = golden[f"in.pixels_{size}"]
        if f"out.resized_{size}" in golden:
            expected = golden[f"out.resized_{size}"]
            resize = reference.interpolate_bilinear_2d_like_tensorflow1x
            found = resize(pixels, size=tuple(expected.shape[2:]), align_corners=False)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
            continue
        found = network_input(extractor, pixels.to(torch.uint8))
        assert found.shape == (1, 3, 299, 299)
        rows, step = golden[f"out.rows_{size}"], golden[f"out.rows_index_{size}"].long()
        stride = -(-299 // rows.shape[-1])
        torch.testing.assert_close(found[:, :, step, ::stride], rows, rtol=0, atol=1e-3)
        torch.testing.assert_close(found.mean((0, 2, 3)), golden[f"out.channel_mean_{size}"], rtol=1e-5, atol=0)


def test_the_receipt_has_the_hash_and_the_versions(extractor: Inception, published: Path) -> None:
    assert isinstance(extractor, Extractor)
    assert extractor.sha256 == sha256(published)
    assert extractor.versions.keys() == {"torch", "torch-fidelity"}
    assert extractor.precision == "float32"


def test_the_shipped_hash_is_the_one_in_the_name_of_the_published_file() -> None:
    node = yaml.safe_load((CONF / "features/inception.yaml").read_text())
    assert len(node["sha256"]) == 64
    assert reference.URL_INCEPTION_V3.endswith(f"-{node['sha256'][:8]}.pth")


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("known", [False, True], ids=["another hash", "the hash of the file"])
def test_no_code_in_a_file_of_weights_is_run(tmp_path: Path, known: bool) -> None:
    file, created = tmp_path / "weights.pth", tmp_path / "created"
    torch.save({"fc.bias": Malicious(created)}, file)
    made = Inception(weights=str(file), sha256=sha256(file) if known else "0" * 64, download=False)
    message = "hold something else than tensors" if known else rf"SHA-256 {sha256(file)}, not 0000.*features.sha256"
    with pytest.raises(DataError, match=message):
        made.load(CPU)
    assert not created.exists()
    if not known:
        with pytest.raises(DataError, match=message):
            made.check((3, 32, 32))
    torch.load(file, weights_only=False)  # what it would have done
    assert created.exists()


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save({"fc.bias": torch.zeros(3)}, file)
    with pytest.raises(DataError, match="not those of Inception-v3"):
        Inception(weights=str(file), sha256=sha256(file), download=False).load(CPU)


def in_cache(folder: Path, monkeypatch: pytest.MonkeyPatch, *, digest: str, download: bool) -> Inception:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder))
    return Inception(weights=None, sha256=digest, download=download)


def test_missing_weights_are_named_with_hash_place_and_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = Path(reference.URL_INCEPTION_V3).name
    with pytest.raises(
        ConfigError, match=rf"{name} \(SHA-256 abc\) in .*checkpoints is missing.*features.weights=FILE"
    ):
        in_cache(tmp_path, monkeypatch, digest="abc", download=False).check((3, 32, 32))
    monkeypatch.setattr(reference, "URL_INCEPTION_V3", f"http://127.0.0.1:9/{name}")
    with pytest.raises(ConfigError, match=rf"{name}.*download failed .*refused.*any machine.*features.weights=FILE"):
        in_cache(tmp_path, monkeypatch, digest="abc", download=True).check((3, 32, 32))
    with pytest.raises(ConfigError, match=r"features\.weights=nowhere\.pth: there is no such file"):
        Inception(weights="nowhere.pth", sha256="abc", download=True).check((3, 32, 32))


def test_a_download_is_kept_only_if_its_hash_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "weights.pth"
    source.write_bytes(b"published")
    monkeypatch.setattr(reference, "URL_INCEPTION_V3", source.as_uri())
    with pytest.raises(ConfigError, match="invalid hash value"):
        in_cache(tmp_path / "torch", monkeypatch, digest="0" * 64, download=True).check((3, 32, 32))
    assert not list((tmp_path / "torch/checkpoints").iterdir())
    for download in (True, False):  # the second time it is in the cache
        made = in_cache(tmp_path / "torch", monkeypatch, digest=sha256(source), download=download)
        made.check((3, 32, 32))
        assert made.find() == tmp_path / "torch/checkpoints/weights.pth"


def test_shapes_that_are_no_images_are_refused(extractor: Inception) -> None:
    for shape in ((2,), (4, 32, 32)):
        with pytest.raises(ConfigError, match="needs gray or RGB images"):
            extractor.check(shape)


def test_a_missing_package_is_an_error_that_says_how_to_install_it(
    extractor: Inception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(package: str) -> str:
        raise weights_module.PackageNotFoundError(package)

    monkeypatch.setattr(weights_module, "version", version)
    with pytest.raises(ConfigError, match=r"needs torch-fidelity: pip install 'gantrain\[metrics\]'"):
        extractor.check((3, 32, 32))
