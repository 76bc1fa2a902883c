from typing import Any

import torch
from torch import Tensor, nn

from gantrain.models.interface import split_output, takes_labels


class Plain(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class Conditional(nn.Module):
    num_classes = 3

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return 2 * x + y


class Classifying(Plain):
    num_aux_classes = 3


def test_networks_with_num_classes_take_labels() -> None:
    without = Conditional()
    without.num_classes = None  # type: ignore[assignment]
    networks: list[Any] = [Conditional(), Plain(), Classifying(), without, lambda x: x]
    assert [takes_labels(network) for network in networks] == [True, False, False, False, False]


def test_plain_logits_have_no_auxiliary_outputs() -> None:
    logits = torch.randn(3)
    assert split_output(logits) == (logits, {})
    aux = {"class_logits": torch.randn(3, 4)}
    assert split_output((logits, aux)) == (logits, aux)
