"""Consistency regularization: its random changes, and its penalty in closed form."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from update_batches import batch_of, linear, unconditional

from gantrain import seeding
from gantrain.regularizers.consistency import Consistency, flip_and_shift

CR: dict[str, Any] = {"weight_real": 10.0, "weight_fake": 0.0, "max_shift": 0.125, "every": 1}
BCR = CR | {"weight_fake": 10.0}


def shift_of(image: Tensor, height: int, width: int) -> tuple[bool, int, int]:
    """Find the only change that explains an image of `positions`, in which every pixel is its index."""
    x = positions(height, width)
    found = []
    for flipped in (False, True):
        source = x.flip(3) if flipped else x
        for rows in range(-3, 4):  # a shift by all columns would be a flip, because the edges are reflected
            for columns in range(-3, 4):
                # torch's padding by reflection, and a crop: another way than an index for each pixel.
                padded = torch.nn.functional.pad(source, [width - 1] * 2 + [height - 1] * 2, mode="reflect")
                top, left = height - 1 + rows, width - 1 + columns
                if torch.equal(padded[0, :, top : top + height, left : left + width], image):
                    found.append((flipped, rows, columns))
    (only,) = found
    return only


def positions(height: int, width: int) -> Tensor:
    return torch.arange(height * width, dtype=torch.float64).view(1, 1, height, width)


def test_images_are_flipped_and_shifted_with_reflected_edges() -> None:
    torch.manual_seed(0)
    height, width = 8, 6
    changed = flip_and_shift(positions(height, width).expand(400, 1, height, width), 0.25)
    seen = Counter(shift_of(image, height, width) for image in changed.unique(dim=0))
    assert {rows for _, rows, _ in seen} == {*range(-2, 3)}
    assert {columns for _, _, columns in seen} == {-1, 0, 1}
    assert len(seen) == 2 * 5 * 3  # every combination
    original = positions(height, width)
    flips = [(changed == x).flatten(1).all(1).double().mean() for x in (original, original.flip(3))]
    assert all(abs(float(share) - 1 / 30) < 0.03 for share in flips)


@pytest.mark.parametrize(("options", "uses_fake"), [(CR, False), (BCR, True)], ids=["cr", "bcr"])
def test_penalty_is_the_mean_squared_difference_of_the_logits(options: dict[str, Any], uses_fake: bool) -> None:
    torch.manual_seed(0)
    real, fake = torch.randn(2, 5, 3, 8, 8, dtype=torch.float64).unbind()
    weight = torch.randn(3 * 64, dtype=torch.float64, requires_grad=True)
    critic = linear(weight)
    batch = batch_of(real, fake, critic)
    torch.manual_seed(1)
    penalty = Consistency(**options).discriminator_penalty(unconditional(lambda x: x), batch)
    torch.manual_seed(1)
    expected = torch.zeros((), dtype=torch.float64)
    for x in (real, fake) if uses_fake else (real,):
        difference = x - flip_and_shift(x, 0.125)
        expected = expected + 10 * (difference.flatten(1) @ weight).square().mean()
    torch.testing.assert_close(penalty, expected)
    of_penalty, of_expected = (torch.autograd.grad(value, weight)[0] for value in (penalty, expected))
    torch.testing.assert_close(of_penalty, of_expected)
    assert of_penalty.abs().max() > 1
    assert len(critic.inputs) == (4 if uses_fake else 2)


def test_a_discriminator_that_ignores_place_has_no_penalty() -> None:
    real, fake = torch.rand(2, 4, 3, 8, 8).unbind()
    batch = batch_of(real, fake, lambda x, labels: x.amax((1, 2, 3)) * 0 + labels, labels=torch.arange(4))
    assert float(Consistency(**CR).discriminator_penalty(lambda x, y: x, batch)) == 0  # the labels stay with the images


def test_draws_depend_neither_on_the_number_of_processes_nor_on_that_of_micro_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = torch.randn(8, 3, 16, 16)
    torch.manual_seed(0)
    whole = flip_and_shift(x, 0.125)
    assert (whole != x).flatten(1).any(1).sum() > 4
    for part, own in enumerate(torch.arange(8).chunk(4)):
        shard = seeding.Shard(rank=part // 2, world_size=2, micro_batch=part % 2, num_micro_batches=2, rows=2)
        monkeypatch.setattr(seeding, "shard", shard)
        torch.manual_seed(0)
        torch.testing.assert_close(flip_and_shift(x[own], 0.125), whole[own], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_real": -1.0}, "weight_real=-1.0.*at least 0"),
        ({"weight_fake": -1.0}, "weight_fake=-1.0.*at least 0"),
        ({"weight_real": 0.0}, "one must be above 0"),
        ({"max_shift": 1.0}, r"max_shift=1.0.*\[0, 1\)"),
        ({"every": 0}, "every=0"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Consistency(**CR | options)
