import numpy as np
import pytest
import torch
from PIL import Image

from gantrain.datasets import digits as module
from gantrain.datasets.digits import digits
from gantrain.errors import ConfigError, DataError


def test_native_size():
    dataset = digits(image_size=None)
    assert (dataset.name, dataset.num_images, dataset.image_shape) == ("digits", 10_000, (1, 28, 28))
    assert dataset.images.dtype == torch.uint8
    assert dataset.labels is not None
    # The published MNIST test set: its first labels, and the number of images per digit.
    assert dataset.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert dataset.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert dataset.num_classes == 10
    assert dataset.fingerprint == digits(image_size=28).fingerprint


def test_prepare_does_nothing():
    dataset = digits(image_size=None)
    before = dataset.images
    dataset.prepare(num_workers=2)
    assert dataset.images is before


def test_resized_pixels_equal_pillow():
    small = digits(image_size=None).images[:50, 0].numpy()
    dataset = digits(image_size=40)
    expected = [np.asarray(Image.fromarray(image).resize((40, 40), Image.Resampling.BILINEAR)) for image in small]
    np.testing.assert_array_equal(dataset.images[:50, 0].numpy(), np.stack(expected))
    assert dataset.image_shape == (1, 40, 40)


def test_image_size_zero_is_an_error():
    with pytest.raises(ConfigError, match=r"dataset\.image_size=0 must be a whole number of at least 1"):
        digits(image_size=0)


def test_a_damaged_installation_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(module._SHA256, "t10k-images-idx3-ubyte", "0" * 64)
    with pytest.raises(DataError, match="not the published file; install gantrain again"):
        digits(image_size=None)
