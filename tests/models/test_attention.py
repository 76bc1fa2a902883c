"""Self-attention."""

from pathlib import Path

import pytest
import torch
from oracles import assert_golden, load, load_layer, oracle_files
from torch import nn

from gantrain.models.attention import SelfAttention

FILES = oracle_files("attention_cbn_projection*.npz")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_attention_matches_the_golden_one(path: Path) -> None:
    golden = load(path)
    attention = SelfAttention(golden["in.attention.x"].shape[1]).double()
    for name in ("query", "key", "value", "out"):
        load_layer(getattr(attention, name), golden, f"attention.{name}")
    attention.gamma.data.copy_(golden["attention.gamma"])
    assert_golden(attention(golden["in.attention.x"]), golden["out.attention"])


def test_attention_is_the_identity_at_the_start() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 8, 6, 6)
    assert torch.equal(SelfAttention(8)(x), x)


@pytest.mark.parametrize("num_channels", [1, 3, 8, 20])
def test_any_number_of_channels_and_any_size_from_2_pixels(num_channels: int) -> None:
    torch.manual_seed(0)
    attention = SelfAttention(num_channels)
    attention.gamma.data.fill_(1.0)
    for size in (2, 7):
        x = torch.randn(2, num_channels, size, size)
        assert attention(x).shape == x.shape
        assert not torch.equal(attention(x), x)


def test_weights_are_those_of_a_softmax_over_the_pooled_pixels() -> None:
    """With equal keys, every pixel gets the mean of the pooled values."""
    torch.manual_seed(0)
    attention = SelfAttention(8).double()
    attention.gamma.data.fill_(0.5)
    nn.init.zeros_(attention.key.weight)
    x = torch.randn(3, 8, 4, 4, dtype=torch.float64)
    values = nn.functional.max_pool2d(attention.value(x), 2).mean((2, 3), keepdim=True)
    torch.testing.assert_close(attention(x), x + 0.5 * attention.out(values))


def test_second_derivatives_are_right() -> None:
    torch.manual_seed(0)
    attention = SelfAttention(3).double()
    attention.gamma.data.fill_(0.7)
    x = torch.randn(1, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(attention, x)
    assert torch.autograd.gradgradcheck(attention, x)
