"""Differences between networks: some take labels, and some discriminators return more than logits."""

from gantrain.losses.base import Logits
from gantrain.regularizers.base import DiscriminatorOutput


def takes_labels(network: object) -> bool:
    """Return whether the network takes labels, which it declares by the attribute `num_classes`."""
    return getattr(network, "num_classes", None) is not None


def split_output(output: Logits | DiscriminatorOutput) -> DiscriminatorOutput:
    """Split a discriminator's output into logits [n] and a dict of auxiliary outputs, which may be empty."""
    return output if isinstance(output, tuple) else (output, {})


def has_styles(G: object) -> bool:
    """Return whether a generator makes styles from latents, and images from styles, as StyleGAN2's does."""
    return hasattr(G, "styles") and hasattr(G, "synthesize")
