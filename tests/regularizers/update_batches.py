"""Make update batches for penalties from given samples or logits."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gantrain.datasets.labels import Labels
from gantrain.regularizers.base import Auxiliary, Critic, UpdateBatch
from gantrain.schedules.base import Clock, Number


def unconditional(network: Callable[[Tensor], Tensor]) -> Critic:
    """Make a critic from a network without labels."""
    return lambda x, labels: network(x)


def sum_of_entries(x: Tensor, labels: Labels) -> Tensor:
    return x.flatten(1).sum(1)


def batch_of(
    real: Tensor,
    fake: Tensor,
    critic: Critic = sum_of_entries,
    *,
    fraction: Number = 0.0,
    images: int | Tensor = 0,
    labels: Labels = None,
    fake_labels: Labels = None,
    aux_of: Callable[[Tensor], Auxiliary] = lambda logits: {},
    packing: int = 1,
) -> UpdateBatch:
    """Make a batch from samples, without augmentation; its logits are those of the critic.

    Args:
        aux_of: computes D's auxiliary outputs from its logits.
    """

    def discriminate(x: Tensor, y: Labels) -> tuple[Tensor, Auxiliary]:
        logits = critic(x, y)
        return logits, aux_of(logits)

    return UpdateBatch(
        Clock(fraction, images),
        real=lambda: (real, labels),
        fake=lambda: (fake, fake_labels),
        augment=lambda x: x,
        discriminate=discriminate,
        packing=packing,
    )


def batch_of_logits(
    real_logits: Tensor, fake_logits: Tensor | None = None, *, fraction: Number = 0.0, images: int | Tensor = 0
) -> UpdateBatch:
    """Make a batch from logits; those of generated samples default to 0."""
    fake_logits = torch.zeros_like(real_logits) if fake_logits is None else fake_logits
    # The samples are their own logits.
    return batch_of(real_logits, fake_logits, lambda x, labels: x, fraction=fraction, images=images)


class Recorder(nn.Module):
    """A critic that keeps its inputs and labels."""

    def __init__(self, score: Callable[[Tensor], Tensor]):
        super().__init__()
        self.score = score
        self.inputs: list[Tensor] = []
        self.labels: list[Labels] = []

    def forward(self, x: Tensor, labels: Labels) -> Tensor:
        self.inputs.append(x.detach().clone())
        self.labels.append(labels)
        return self.score(x)


def linear(w: Tensor) -> Recorder:
    return Recorder(lambda x: x.flatten(1) @ w)
