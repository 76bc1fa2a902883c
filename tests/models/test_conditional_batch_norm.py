"""BatchNorm whose scale and shift depend on the class."""

from pathlib import Path

import pytest
import torch
from oracles import assert_golden, load, load_layer, oracle_files
from torch import nn

from gantrain.models.conditional_batch_norm import ConditionalBatchNorm2d, LinearConditionalBatchNorm2d
from gantrain.models.layers import InitName, has_batch_norm, initialize

FILES = oracle_files("attention_cbn_projection*.npz")
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


@each_file
def test_scales_and_shifts_from_tables_match_the_golden_ones(path: Path) -> None:
    golden = load(path)
    num_classes, num_features = golden["cbn_table.gamma"].shape
    layer = ConditionalBatchNorm2d(num_features, num_classes=num_classes).double()
    load_layer(layer.norm, golden, "cbn_table.bn")
    layer.gamma.data.copy_(golden["cbn_table.gamma"])
    layer.beta.data.copy_(golden["cbn_table.beta"])
    x, y = golden["in.cbn.x"], golden["in.label"]
    assert_golden(layer(x, y), golden["out.cbn_table_train"])
    assert_golden(layer.norm.running_mean, golden["out.cbn_table.running_mean_after"])
    assert_golden(layer.norm.running_var, golden["out.cbn_table.running_var_after"])
    assert_golden(layer.eval()(x, y)[:1], golden["out.cbn_table_eval_after_that_step"])


@each_file
def test_scales_and_shifts_from_linear_functions_match_the_golden_ones(path: Path) -> None:
    golden = load(path)
    num_features, condition_dim = golden["cbn_linear.gain.weight"].shape
    layer = LinearConditionalBatchNorm2d(num_features, condition_dim=condition_dim).double()
    load_layer(layer.gain, golden, "cbn_linear.gain")
    load_layer(layer.shift, golden, "cbn_linear.bias")
    assert_golden(layer(golden["in.cbn.x"], golden["in.cbn_linear.embedding"]), golden["out.cbn_linear_train"])


@pytest.mark.parametrize("init", ["dcgan", "xavier", "default"])
def test_a_new_layer_is_plain_batch_norm_for_every_init(init: InitName) -> None:
    torch.manual_seed(0)
    layer = ConditionalBatchNorm2d(4, num_classes=3)
    initialize(layer, init)
    x, y = torch.randn(6, 4, 3, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    torch.testing.assert_close(layer(x, y), nn.BatchNorm2d(4)(x))
    assert has_batch_norm(layer)


def test_only_the_classes_of_the_batch_get_gradients() -> None:
    torch.manual_seed(0)
    layer = ConditionalBatchNorm2d(4, num_classes=5)
    layer(torch.randn(3, 4, 2, 2), torch.tensor([0, 3, 3])).square().sum().backward()
    for table in (layer.gamma, layer.beta):
        assert table.grad is not None
        assert table.grad.any(dim=1).tolist() == [True, False, False, True, False]
    with pytest.raises(ValueError, match="num_classes=0"):
        ConditionalBatchNorm2d(4, num_classes=0)
