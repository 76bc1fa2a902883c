"""Differences between networks: some take labels, and some discriminators return more than logits."""

from typing import Any

from torch import Tensor, nn

from gantrain.datasets.labels import Labels
from gantrain.losses.base import Logits
from gantrain.regularizers.base import DiscriminatorOutput


def takes_labels(network: object) -> bool:
    """Return whether the network takes labels, which it declares by the attribute `num_classes`."""
    return getattr(network, "num_classes", None) is not None


def heads_of(discriminator: object) -> tuple[str, ...]:
    """Return the names of the auxiliary outputs that are the logits [n, k] of a head; () with a single head.

    A discriminator with several heads declares them by the attribute `heads`. The adversarial loss is the sum over the
    heads; logits [n], which penalties, logs and adaptive augmentations see, summarize them.
    """
    return tuple(getattr(discriminator, "heads", ()))


def without_decoding(discriminator: object) -> dict[str, Any]:
    """Return the options with which a discriminator does not reconstruct its input, which takes time.

    A discriminator with the attribute `has_decoder` takes the option `decode`; others have no such option.
    """
    return {"decode": False} if getattr(discriminator, "has_decoder", False) else {}


def run_for_logits(discriminator: nn.Module, x: Tensor, y: Labels) -> Logits:
    """Return the logits [n] of samples; labels are passed only if the discriminator takes them."""
    inputs = (x, y) if takes_labels(discriminator) else (x,)
    return split_output(discriminator(*inputs, **without_decoding(discriminator)))[0]


def split_output(output: Logits | DiscriminatorOutput) -> DiscriminatorOutput:
    """Split a discriminator's output into logits [n] and a dict of auxiliary outputs, which may be empty."""
    return output if isinstance(output, tuple) else (output, {})


def has_styles(G: object) -> bool:
    """Return whether a generator makes styles from latents, and images from styles, as StyleGAN2's does."""
    return hasattr(G, "styles") and hasattr(G, "synthesize")
