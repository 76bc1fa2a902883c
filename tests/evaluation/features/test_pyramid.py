import pytest
import scipy.ndimage
import torch
from torch import Tensor

from gantrain.errors import ConfigError
from gantrain.evaluation.features.base import Extractor
from gantrain.evaluation.features.pyramid import (
    DESCRIPTOR,
    PATCHES,
    Pyramid,
    blur,
    count_levels,
    laplacian_pyramid,
    levels_of,
    patches_at,
)

BINOMIAL = torch.tensor([1, 4, 6, 4, 1]).double() / 16


def pictures(n: int, height: int, width: int) -> Tensor:
    return torch.randint(256, (n, 3, height, width), generator=torch.Generator().manual_seed(0)).byte()


def test_features_depend_neither_on_the_batch_nor_on_the_order() -> None:
    x, extract = pictures(9, 40, 33), Pyramid()
    together = extract(x).features
    torch.testing.assert_close(torch.cat([extract(x[i : i + 1]).features for i in range(9)]), together)
    torch.testing.assert_close(extract(x.flip(0)).features, together.flip(0))
    positions = levels_of(together)[:, 1, :, 0]
    assert len(positions.unique()) > 60  # each image has its own


@pytest.mark.parametrize(
    ("height", "width", "levels"), [(7, 9, 1), (28, 28, 1), (32, 32, 2), (31, 64, 2), (64, 64, 3), (256, 256, 5)]
)
def test_sizes(height: int, width: int, levels: int) -> None:
    assert count_levels(height, width) == levels
    extract = Pyramid()
    extract.check((3, height, width))
    extracted = extract(pictures(2, height, width))
    assert extracted.features.shape == (2, levels * PATCHES * DESCRIPTOR)
    assert extracted.features.dtype == torch.float32
    assert extracted.logits is None
    assert levels_of(extracted.features).shape == (2, levels, PATCHES, DESCRIPTOR)


def test_it_is_an_extractor_without_weights() -> None:
    extract = Pyramid()
    assert isinstance(extract, Extractor)
    extract.load(torch.device("cpu"))
    assert (extract.name, extract.sha256) == ("pyramid", None)


@pytest.mark.parametrize("shape", [(3,), (2, 32, 32), (3, 6, 32)])
def test_other_data_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"at least 7 x 7 px.*remove sliced_wasserstein"):
        Pyramid().check(shape)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 12), (17, 5)])
def test_blur_matches_scipy(height: int, width: int) -> None:
    x = pictures(2, height, width).double()
    expected = [
        scipy.ndimage.convolve(channel, BINOMIAL.outer(BINOMIAL).numpy(), mode="mirror")
        for channel in x.flatten(0, 1).numpy()
    ]
    torch.testing.assert_close(blur(x).flatten(0, 1), torch.stack([torch.from_numpy(channel) for channel in expected]))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (45, 67)])
def test_differences_of_a_constant_image_are_zero(height: int, width: int) -> None:
    levels = laplacian_pyramid(torch.full((1, 3, height, width), 200.0).double(), 3)
    assert [tuple(level.shape[2:]) for level in levels] == [
        (height, width), ((height + 1) // 2, (width + 1) // 2), ((height + 3) // 4, (width + 3) // 4)
    ]  # fmt: skip
    for difference in levels[:-1]:
        torch.testing.assert_close(difference, torch.zeros_like(difference), atol=1e-10, rtol=0)
    torch.testing.assert_close(levels[-1], torch.full_like(levels[-1], 200.0))


def test_patches_are_pieces_of_the_image() -> None:
    x = pictures(2, 12, 15).float()
    columns, rows = torch.tensor([[3, 11], [5, 6]]), torch.tensor([[3, 8], [4, 7]])
    found = patches_at(x, columns, rows)
    for i in range(2):
        for k in range(2):
            column, row = int(columns[i, k]), int(rows[i, k])
            expected = x[i, :, row - 3 : row + 4, column - 3 : column + 4].transpose(1, 2)
            torch.testing.assert_close(found[i, k], expected, atol=0, rtol=0)


def test_patches_reach_all_pixels_and_no_others() -> None:
    """A ramp tells where a patch was: its first pixel in (column, row)."""
    ramp = torch.arange(10)[None, :] + 10 * torch.arange(10)[:, None]
    x = ramp.byte().repeat(400, 3, 1, 1)
    x[:, 2] = torch.arange(400)[:, None, None].expand(400, 10, 10).byte()  # otherwise all images would be equal
    x[:, 1] = (torch.arange(400) // 256)[:, None, None].expand(400, 10, 10).byte()
    corners = levels_of(Pyramid()(x).features)[:, 0, :, 0].long()
    counts = corners.flatten().bincount(minlength=100).view(10, 10)
    assert counts[:4, :4].sum() == 400 * PATCHES
    assert counts[:4, :4].min() > 0.7 * 400 * PATCHES / 16
