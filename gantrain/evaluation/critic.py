"""Measure a critic: the distance that it estimates, and the norms of its gradient."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, isfinite, sqrt

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gantrain.datasets.batches import Batch
from gantrain.datasets.labels import Labels
from gantrain.evaluation.sampling import BLOCK_SIZE, evaluating
from gantrain.losses.base import Logits
from gantrain.models.interface import run_for_logits
from gantrain.regularizers.input_gradient import gradient_norms
from gantrain.seeding import generator

POINTS = ("real", "fake", "interpolated")
"""Where the norm of the critic's gradient is measured."""


@dataclass(frozen=True)
class CriticEstimate:
    """The Wasserstein distance that a critic estimates, without penalties and dropout, and the norms of its gradient.

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
    def estimate(self) -> float:
        """`held_out`, or `train` without held-out samples."""
        return self.train if self.held_out is None else self.held_out

    @property
    def normalized(self) -> float:
        """The estimate divided by `lipschitz`; 0 if that is 0."""
        return self.estimate / self.lipschitz if self.lipschitz > 0 else 0.0

    def warnings(self, *, max_gain: float, max_gap: float) -> list[str]:
        """Return why the estimate is not reliable, as sentences; [] without a sign of an unsuitable critic.

        Args:
            max_gain: how much more updates may raise the estimate, as a fraction of it.
            max_gap: how much lower the estimate may be on held-out than on training samples, as a fraction of it.
        """
        found = []
        if not isfinite(self.train):
            found.append("The critic has diverged: its estimate is NaN or Inf.")
        elif self.train <= 0:
            found.append(
                f"The critic is undertrained: its estimate is {self.train:.3g}, but a distance is above 0. Use more "
                "critic updates per step (n_critic)."
            )
        elif self.more_trained is not None and self.more_trained - self.train > max_gain * self.train:
            percent = 100 * (self.more_trained / self.train - 1)
            found.append(
                f"The critic is undertrained: a few more updates raise its estimate by {percent:.0f} %. Use more "
                "critic updates per step (n_critic)."
            )
        gap, error = self.gap
        if self.train > 0 and gap > max(max_gap * self.train, 3 * error):
            found.append(
                f"The critic has overfitted: its estimate is {100 * gap / self.train:.0f} % lower on held-out than on "
                "training samples. Use more data, augmentation, or fewer steps."
            )
        return found


def estimate_distance(
    D: nn.Module,
    augment: Callable[[Tensor], Tensor],
    *,
    real: Batch,
    held_out: Batch | None,
    fake: Batch,
    more_trained: nn.Module | None = None,
) -> CriticEstimate:
    """Estimate the distance of two samples with a critic, whose weights and buffers are not changed.

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
    return CriticEstimate(train, estimate, gap, later, {name: norms(D, augment, x) for name, x in points.items()})


def overfitting_ratio(train: Float[Tensor, " n"], held_out: Float[Tensor, " m"], fake: Float[Tensor, " k"]) -> float:
    """Return (E[D(train)] - E[D(held-out)]) / (E[D(train)] - E[D(generated)]) from the logits of each.

    It is 0 if D treats held-out images as it treats training images, and 1 if it treats them as samples; 0 also if D
    does not give training images higher logits than samples.

    Source: Karras 2020 (StyleGAN2-ADA), equation 1 (r_v).
    """
    difference, gap = float(train.mean() - held_out.mean()), float(train.mean() - fake.mean())
    return difference / gap if gap > 0 else 0.0


def critic(D: nn.Module, augment: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Labels], Logits]:
    """Return the function from samples, and labels if D takes them, to logits."""
    return lambda x, y: run_for_logits(D, augment(x), y)


@contextmanager
def as_in_training(D: nn.Module) -> Iterator[None]:
    """Let BatchNorm use the statistics of its input while the block runs, as in training, but change no state.

    Dropout is off. The running statistics of D are those of real and generated batches mixed, so with them D's logits
    are not those of the training.
    """
    layers = [module for module in D.modules() if isinstance(module, _BatchNorm)]
    buffers = [(layer.running_mean, layer.running_var) for layer in layers]
    with evaluating(D):
        try:
            for layer in layers:
                layer.running_mean = layer.running_var = None
            yield
        finally:
            for layer, (mean, var) in zip(layers, buffers, strict=True):
                layer.running_mean, layer.running_var = mean, var


@torch.no_grad()
def logits(D: nn.Module, augment: Callable[[Tensor], Tensor], batch: Batch) -> Float[Tensor, " m"]:
    """Compute the logits of samples, float64 on the CPU; with packing, m = n / packing."""
    with as_in_training(D):
        parts = [critic(D, augment)(block.x, block.y) for block in blocks(batch, D)]
    return torch.cat(parts).double().cpu()


def norms(D: nn.Module, augment: Callable[[Tensor], Tensor], batch: Batch) -> Float[Tensor, " m"]:
    """Compute the norm of the gradient of each logit with respect to its input, on the CPU."""
    with as_in_training(D):
        return torch.cat([gradient_norms(critic(D, augment), b.x, b.y).detach() for b in blocks(batch, D)]).cpu()


def blocks(batch: Batch, D: nn.Module) -> list[Batch]:
    """Split a batch into blocks of whole packs, so that memory is bounded.

    The blocks are of nearly equal size, because BatchNorm cannot normalize a block of one sample.
    """
    packing = int(getattr(D, "packing", 1))
    num_packs = len(batch.x) // packing
    bounds = np.linspace(0, num_packs, ceil(num_packs * packing / BLOCK_SIZE) + 1).astype(int) * packing
    x, y = batch
    return [Batch(x[i:j], None if y is None else y[i:j]) for i, j in pairwise(bounds.tolist())]
