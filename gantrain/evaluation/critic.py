"""Read a critic: the distance that it estimates, and the norms of its gradient."""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gantrain.datasets.batches import Batch
from gantrain.datasets.labels import Labels
from gantrain.evaluation.sampling import evaluating
from gantrain.losses.base import Logits
from gantrain.models.interface import split_output, takes_labels
from gantrain.regularizers.input_gradient import gradient_norms
from gantrain.seeding import generator

BLOCK_SIZE = 128
"""Samples in a forward pass of the critic."""

POINTS = ("real", "fake", "interpolated")
"""Where the norm of the critic's gradient is measured."""


@dataclass(frozen=True)
class Reading:
    """What a critic says of some samples, in evaluation mode and without penalties.

    Attributes:
        train: E[D(x)] - E[D(G(z))] over training samples x; above 0 if real samples get higher values.
        held_out: the same over samples on which nothing was trained; None if there are none.
        gap: train - held_out, and its standard error; (0, 0) without held-out samples.
        more_trained: `train` of the same critic after some more updates, with G unchanged; None if it was not measured.
        norms: norm of the gradient at each point of POINTS, [m] with m = n without packing.
    """

    train: float
    held_out: float | None
    gap: tuple[float, float]
    more_trained: float | None
    norms: dict[str, Float[Tensor, " m"]]

    @property
    def lipschitz(self) -> float:
        """The largest observed norm of the gradient: a lower bound of the critic's Lipschitz constant."""
        return max(float(norms.max()) for norms in self.norms.values())

    @property
    def normalized(self) -> float:
        """The estimate on held-out samples, or else on training samples, divided by `lipschitz`; 0 if that is 0."""
        estimate = self.train if self.held_out is None else self.held_out
        return estimate / self.lipschitz if self.lipschitz > 0 else 0.0

    def doubts(self, *, max_gain: float, max_gap: float) -> list[str]:
        """List why the estimate should not be read as a distance, in words; [] if nothing speaks against it.

        Args:
            max_gain: how much more updates may raise the estimate, as a fraction of it.
            max_gap: how much higher the estimate on training samples may be than on held-out ones, as a fraction of it.
        """
        doubts = []
        if self.train <= 0:
            doubts.append(
                f"The critic is undertrained: its estimate is {self.train:.3g}, but a distance is above 0. Use more "
                "critic updates per step (n_critic)."
            )
        elif self.more_trained is not None and self.more_trained - self.train > max_gain * self.train:
            percent = 100 * (self.more_trained / self.train - 1)
            doubts.append(
                f"The critic is undertrained: a few more updates raise its estimate by {percent:.0f} %. Use more "
                "critic updates per step (n_critic)."
            )
        gap, error = self.gap
        if self.train > 0 and gap > max(max_gap * self.train, 3 * error):
            doubts.append(
                f"The critic has overfitted: its estimate on training samples is {100 * gap / self.train:.0f} % above "
                "that on held-out samples. Use more data, augmentation, or fewer steps."
            )
        return doubts


def read_critic(
    D: nn.Module,
    augment: Callable[[Tensor], Tensor],
    *,
    real: Batch,
    held_out: Batch | None,
    fake: Batch,
    more_trained: nn.Module | None = None,
) -> Reading:
    """Measure what a critic says of samples; its weights and buffers are not changed.

    Args:
        augment: applied to all samples, as in the training.
        real, fake: as many samples of each.
        more_trained: the critic after some more updates.
    """
    of_real, of_fake = logits(D, augment, real), logits(D, augment, fake)
    train, estimate, gap = float(of_real.mean() - of_fake.mean()), None, (0.0, 0.0)
    if held_out is not None:
        of_held_out = logits(D, augment, held_out)
        estimate = float(of_held_out.mean() - of_fake.mean())
        gap = train - estimate, sqrt(sum(float(x.var() / len(x)) for x in (of_real, of_held_out)))
    later = None
    if more_trained is not None:
        later = float(logits(more_trained, augment, real).mean() - logits(more_trained, augment, fake).mean())
    u = torch.rand(len(real.x), *[1] * (real.x.dim() - 1), generator=generator("interpolated")).to(real.x.device)
    interpolated = Batch(u * real.x + (1 - u) * fake.x, real.y)
    points = dict(zip(POINTS, (real, fake, interpolated), strict=True))
    return Reading(train, estimate, gap, later, {name: norms(D, augment, x) for name, x in points.items()})


def critic(D: nn.Module, augment: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Labels], Logits]:
    """Return the function from samples, and labels if D takes them, to logits."""
    return lambda x, y: split_output(D(augment(x), y) if takes_labels(D) else D(augment(x)))[0]


@torch.no_grad()
def logits(D: nn.Module, augment: Callable[[Tensor], Tensor], batch: Batch) -> Float[Tensor, " m"]:
    """Compute the logits of samples, float64 on the CPU."""
    with evaluating(D):
        parts = [critic(D, augment)(block.x, block.y) for block in blocks(batch)]
    return torch.cat(parts).double().cpu()


def norms(D: nn.Module, augment: Callable[[Tensor], Tensor], batch: Batch) -> Float[Tensor, " m"]:
    """Compute the norm of the gradient of each logit with respect to its input, on the CPU."""
    with evaluating(D):
        return torch.cat([gradient_norms(critic(D, augment), b.x, b.y).detach() for b in blocks(batch)]).cpu()


def blocks(batch: Batch) -> list[Batch]:
    """Split a batch, so that memory is bounded."""
    x, y = batch
    starts = range(0, len(x), BLOCK_SIZE)
    return [Batch(x[i : i + BLOCK_SIZE], None if y is None else y[i : i + BLOCK_SIZE]) for i in starts]
