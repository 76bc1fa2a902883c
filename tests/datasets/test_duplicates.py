"""Images that a dataset has more than once."""

import io
from itertools import combinations

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from scipy.fft import dctn

from gantrain.datasets import duplicates
from gantrain.datasets.base import ImageDataset
from gantrain.datasets.digits import digits
from gantrain.datasets.duplicates import find_duplicates, gray, groups_of, perceptual_hash, similar_pairs
from gantrain.tasks.data import table

RNG = np.random.default_rng(0)


def photos(num: int, size: int = 64) -> list[Image.Image]:
    """Make smooth random images."""
    small = RNG.integers(0, 256, (num, 8, 8, 3), dtype=np.uint8)
    return [Image.fromarray(x).resize((size, size), Image.Resampling.BICUBIC) for x in small]


def dataset(images: list[Image.Image]) -> ImageDataset:
    pixels = np.stack([np.asarray(image.convert("RGB")).transpose(2, 0, 1) for image in images])
    return ImageDataset("test", torch.from_numpy(pixels), None, None, "f")


def test_hashes_are_the_low_frequencies_of_scipy() -> None:
    images = torch.from_numpy(RNG.integers(0, 256, (20, 1, 40, 48), dtype=np.uint8))
    grays = gray(images, 32)
    for found, image in zip(perceptual_hash(grays), grays.double().numpy(), strict=True):
        low = dctn(image, norm=None)[:8, :8].flatten()
        bits = low > np.median(low[1:])
        bits[0] = False
        assert [bool(int(found) >> i & 1) for i in range(64)] == bits.tolist()


def test_similar_pairs_are_those_of_all_comparisons() -> None:
    hashes = RNG.integers(-(2**63), 2**63, 40, dtype=np.int64)
    for i in range(1, 200):  # neighbors that differ in 0 to 7 bits, at random places
        flips = RNG.permutation(64)[: i % 8]
        changed = int(hashes[i % 40].view(np.uint64)) ^ sum(1 << int(bit) for bit in flips)
        hashes = np.append(hashes, np.uint64(changed).view(np.int64))
    unsigned = [int(value) for value in hashes.view(np.uint64)]
    expected = [
        pair for pair in combinations(range(len(hashes)), 2) if (unsigned[pair[0]] ^ unsigned[pair[1]]).bit_count() <= 4
    ]
    assert len(expected) > 200
    found, is_complete = similar_pairs(hashes)
    assert found.tolist() == [list(pair) for pair in expected]
    assert is_complete


def test_a_comparison_that_stops_early_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    alike = np.zeros(50, np.int64)  # 1,225 pairs, of which each is found in each of five parts of the hash
    monkeypatch.setattr(duplicates, "MAX_PAIRS", 5 * 1225)
    assert similar_pairs(alike)[1]
    monkeypatch.setattr(duplicates, "MAX_PAIRS", 600)
    found, is_complete = similar_pairs(alike)
    assert not is_complete
    assert 600 <= len(found) < 1225
    (picture,) = photos(1, 32)
    pictures = []
    for i in range(50):
        pictures.append(picture.copy())
        pictures[-1].putpixel((0, 0), (i, 0, 0))
    data = dataset(pictures)
    result = table(data, None, None, find_duplicates(data), None)
    (said,) = [str(cell) for cell in result.columns[1].cells if "stopped" in str(cell)]
    assert "stopped after 50,000,000 similar pairs of 50 images: there may be more" in said


def test_groups_join_pairs() -> None:
    assert groups_of([(5, 7), (1, 2), (7, 9), (2, 4), (3, 8)]) == [[1, 2, 4], [3, 8], [5, 7, 9]]
    assert groups_of([]) == []


def changed(image: Image.Image, how: str) -> Image.Image:
    if how == "jpeg":
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=70)
        return Image.open(buffer)
    if how == "resized":
        return image.resize((40, 40)).resize(image.size)
    if how == "blurred":
        return image.filter(ImageFilter.GaussianBlur(1))
    if how == "gray":
        return image.convert("L")
    return image.point([min(255, value + 3) for value in range(256)] * 3)


@pytest.mark.parametrize("how", ["jpeg", "resized", "blurred", "gray", "brighter"])
def test_changed_copies_are_near_duplicates(how: str) -> None:
    images = photos(30)
    found = find_duplicates(dataset([*images, changed(images[4], how), changed(images[20], how)]))
    assert (found.exact, found.near) == ([], [[4, 30], [20, 31]])


def test_same_pixels_are_exact_duplicates_and_only_their_first_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "BLOCK", 3)
    images = photos(8)
    found = find_duplicates(dataset([*images, images[2], images[5], images[2], changed(images[2], "jpeg")]))
    assert found.exact == [[2, 8, 10], [5, 9]]
    assert found.near == [[2, 11]]


def test_different_images_with_simple_shapes_are_no_duplicates() -> None:
    found = find_duplicates(digits(image_size=None))
    assert found.num_compared == 10_000
    assert sum(len(group) - 1 for group in found.near) <= 20


def test_large_datasets_are_compared_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "MAX_COMPARED", 5)
    images = photos(9)
    images[8] = images[0]
    found = find_duplicates(dataset(images))
    assert (found.num_compared, found.exact) == (5, [[0, 8]])


def test_empty_and_single_colors_are_not_divided_by_zero() -> None:
    flat = [Image.new("RGB", (16, 16), (value, value, value)) for value in (0, 0, 200)]
    found = find_duplicates(dataset(flat))
    assert (found.exact, found.near) == ([[0, 1]], [])
