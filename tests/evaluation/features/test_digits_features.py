"""The included classifier of digits: its accuracy on MNIST's test images, and what its features are."""

from io import BytesIO

import numpy as np
import pytest
import torch
from torch import Tensor

from gantrain.datasets.arrays import resize_array
from gantrain.datasets.digits import digits
from gantrain.errors import ConfigError, DataError
from gantrain.evaluation.features import digits as module
from gantrain.evaluation.features.base import Extracted, Extractor
from gantrain.evaluation.features.digits import SHA256, Digits, read_included
from gantrain.evaluation.features.stacked_digits import StackedDigits

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def extractor() -> Digits:
    made = Digits()
    made.check((1, 28, 28))
    made.load(CPU)
    return made


@pytest.fixture(scope="module")
def stacked() -> StackedDigits:
    made = StackedDigits()
    made.check((3, 28, 28))
    made.load(CPU)
    return made


@pytest.fixture(scope="module")
def extracted(extractor: Digits) -> Extracted:
    """Return features and logits of MNIST's 10,000 test images."""
    parts = [extractor(images) for images in digits(image_size=None).images.split(500)]
    return Extracted(torch.cat([p.features for p in parts]), torch.cat([p.logits for p in parts]))


def accuracy(logits: Tensor, labels: Tensor) -> float:
    return (logits.argmax(1) == labels).double().mean().item()


def test_the_accuracy_on_the_test_images_is_above_99_percent(extracted: Extracted) -> None:
    assert extracted.features.shape == (10_000, 128)
    assert extracted.logits.shape == (10_000, 10)
    assert accuracy(extracted.logits, digits(image_size=None).labels) > 0.993


def test_features_are_the_inputs_of_the_last_relu(extracted: Extracted) -> None:
    with np.load(BytesIO(read_included()), allow_pickle=False) as arrays:
        weight, bias = arrays["classifier.weight"], arrays["classifier.bias"]
    features = extracted.features[:50].double().numpy()
    expected = np.maximum(features, 0) @ weight.T + bias
    np.testing.assert_allclose(extracted.logits[:50].numpy(), expected, rtol=1e-4, atol=1e-4)
    assert (features < 0).any()


def test_features_are_standardized_on_digits(extracted: Extracted) -> None:
    # Mean 0 and variance 1 hold on the training images; the test images differ from them by little.
    std, mean = torch.std_mean(extracted.features, 0)
    assert mean.abs().max() < 0.2
    assert (std - 1).abs().max() < 0.2


@pytest.mark.parametrize(("size", "least"), [(16, 0.94), (20, 0.97), (32, 0.98), (56, 0.98)])
def test_digits_of_another_size_are_recognized(extractor: Digits, size: int, least: float) -> None:
    data = digits(image_size=None)
    images = np.stack([resize_array(image, size) for image in data.images[:300].numpy()])
    assert accuracy(extractor(torch.from_numpy(images)).logits, data.labels[:300]) > least


def test_the_receipt_has_the_hash_of_the_included_file(extractor: Digits, stacked: StackedDigits) -> None:
    for made in (extractor, stacked):
        assert isinstance(made, Extractor)
        assert (made.sha256, made.precision, made.versions.keys()) == (SHA256, "float32", {"torch"})
    assert len(read_included()) < 2_000_000


def test_a_damaged_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHA256", "0" * 64)
    with pytest.raises(DataError, match="is damaged; install gantrain again"):
        Digits().load(CPU)
    monkeypatch.setattr(module, "WEIGHTS", "nothing.npz")
    with pytest.raises(DataError, match="is missing; install gantrain again"):
        Digits().load(CPU)


def test_images_of_other_channels_are_refused(extractor: Digits, stacked: StackedDigits) -> None:
    with pytest.raises(ConfigError, match=r"needs gray images of digits.*features=inception.*features=stacked_digits"):
        extractor.check((3, 28, 28))
    with pytest.raises(ConfigError, match=r"needs RGB images with a digit in each channel.*features=digits"):
        stacked.check((1, 28, 28))


def test_stacked_features_are_those_of_the_channels_in_order(extractor: Digits, stacked: StackedDigits) -> None:
    images = digits(image_size=None).images[:60].view(20, 3, 28, 28)
    found = stacked(images)
    channels = [extractor(images[:, i : i + 1]) for i in range(3)]
    for part in ("features", "logits"):
        expected = torch.cat([getattr(channel, part) for channel in channels], dim=1)
        torch.testing.assert_close(getattr(found, part), expected, rtol=1e-4, atol=1e-4)
