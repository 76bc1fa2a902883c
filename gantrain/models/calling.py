"""How networks are called: some take labels, and some discriminators return more than logits."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from gantrain.losses.base import Logits
from gantrain.regularizers.base import Auxiliary, Labels


def takes_labels(network: object) -> bool:
    """Tell whether the network is called with labels: it then has the attribute `num_classes`."""
    return getattr(network, "num_classes", None) is not None


def conditioned(network: Callable[..., Any], y: Labels) -> Callable[[Tensor], Any]:
    """Return the network as a function of its first argument alone, with the labels y filled in if it takes them.

    Raises:
        ValueError: it takes labels, and y is None.
    """
    if not takes_labels(network):
        return network
    if y is None:
        raise ValueError(
            f"{type(network).__name__} is conditional and needs labels, but there are none; "
            "use a dataset with labels, or an unconditional network."
        )
    return lambda x: network(x, y)


def judged(output: Logits | tuple[Logits, Auxiliary]) -> tuple[Logits, Auxiliary]:
    """Return a discriminator's output as logits [n] and a dict of auxiliary outputs, empty for logits alone."""
    return output if isinstance(output, tuple) else (output, {})
