from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gantrain.models.calling import conditioned, judged, takes_labels


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


def test_labels_are_passed_to_the_networks_that_take_them() -> None:
    x, y = torch.tensor([1.0, 2.0]), torch.tensor([1, 2])
    assert conditioned(Conditional(), y)(x).tolist() == [3.0, 6.0]
    assert conditioned(Plain(), y)(x).tolist() == [2.0, 4.0]
    assert conditioned(Plain(), None)(x).tolist() == [2.0, 4.0]


def test_a_conditional_network_without_labels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Conditional is conditional and needs labels.* dataset with labels"):
        conditioned(Conditional(), None)


def test_logits_alone_are_logits_without_auxiliary_outputs() -> None:
    logits = torch.randn(3)
    assert judged(logits) == (logits, {})
    aux = {"class_logits": torch.randn(3, 4)}
    assert judged((logits, aux)) == (logits, aux)
