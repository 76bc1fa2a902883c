"""What is known at a check: logged values, samples, logits, features and scores, each computed at its first use."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gantrain.datasets.base import ImageDataset
from gantrain.datasets.batches import to_bytes
from gantrain.evaluation.sampling import BLOCK_SIZE, evaluating
from gantrain.game import Objective
from gantrain.losses.base import Logits
from gantrain.models.interface import split_output, takes_labels
from gantrain.train import TrainState
from gantrain.verdicts.reference import Reference, Samples, thumbnails


@dataclass(frozen=True)
class Scores:
    """The values of one metric, all by the same protocol.

    Attributes:
        sign: 1 if higher is better, -1 if lower is better.
        values: pairs of the step and the value, oldest first.
    """

    sign: int
    values: Sequence[tuple[int, float]]


class Evidence:
    """What verdicts look at; shared by all verdicts of a check. Nothing in it changes the training.

    Args:
        state: of the training.
        reference: the fixed samples of the run.
        objective: what the networks optimize.
        rows: the scalars of each step that was logged since the previous check, oldest first, by TensorBoard tag.
        scores: of each metric that has a direction, by name.
        with_features: whether features may be computed: they cost too much, except where metrics have just been
            computed too.
    """

    def __init__(
        self,
        state: TrainState,
        reference: Reference,
        objective: Objective,
        *,
        rows: Sequence[Mapping[str, float]] = (),
        scores: Mapping[str, Scores] | None = None,
        with_features: bool = False,
    ):
        self.state, self.reference, self.objective = state, reference, objective
        self.rows, self.scores, self.with_features = rows, scores or {}, with_features

    @property
    def step(self) -> int:
        """Number of generator updates done."""
        return self.state.step

    @property
    def is_image(self) -> bool:
        """Whether the samples are images; otherwise they are vectors."""
        return isinstance(self.reference.dataset, ImageDataset)

    def logged(self, tag: str) -> list[float]:
        """List the values that were logged under a tag since the previous check, oldest first."""
        return [row[tag] for row in self.rows if tag in row]

    @cached_property
    def current(self) -> Samples:
        """Samples of G with its current weights, always from the same latents."""
        return self.reference.generated(self.state.G)

    @cached_property
    def samples(self) -> Samples:
        """Samples of the EMA of G, or of G if there is no EMA."""
        return self.current if self.state.G_ema is None else self.reference.generated(self.state.G_ema)

    @cached_property
    def current_thumbnails(self) -> Float[Tensor, "n d"]:
        """Thumbnails of `current`: images of at most 16x16 pixels, in [-1, 1] and flattened; vectors unchanged."""
        return thumbnails(self.current.x)

    @cached_property
    def thumbnails(self) -> Float[Tensor, "n d"]:
        """Thumbnails of `samples`."""
        return thumbnails(self.samples.x)

    @cached_property
    def features(self) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]] | None:
        """Features of `samples` and of real images, on the CPU; None if they are not available at this check."""
        extractor = self.reference.extractor
        if extractor is None or not self.with_features:
            return None
        fake, real = (
            extractor(to_bytes(x).to(self.reference.device)).features.float().cpu()
            for x in (self.samples.x, self.reference.real.x)
        )
        return fake, real

    @cached_property
    def fake_logits(self) -> Logits:
        """D's logits of `current`."""
        return self.logits(self.current)

    @cached_property
    def real_logits(self) -> Logits:
        """D's logits of training samples."""
        return self.logits(self.reference.real)

    @cached_property
    def held_out_logits(self) -> Logits | None:
        """D's logits of held-out images; None: no images are held out."""
        held_out = self.reference.held_out
        return None if held_out is None else self.logits(held_out)

    @torch.no_grad()
    def logits(self, samples: Samples) -> Logits:
        """Return D's logits of samples without augmentation, on the CPU; [n / packing] with packing."""
        D, device = self.state.D, self.reference.device
        packing = int(getattr(D, "packing", 1))
        num_packs = len(samples.x) // packing
        found = []
        with as_in_training(D):
            # Equal blocks, because BatchNorm cannot normalize a block of one sample.
            for block in np.array_split(np.arange(num_packs), math.ceil(num_packs * packing / BLOCK_SIZE)):
                rows = slice(int(block[0]) * packing, (int(block[-1]) + 1) * packing)
                x, y = (None if part is None else part[rows].to(device) for part in samples)
                output = D(x, y) if takes_labels(D) else D(x)
                found.append(split_output(output)[0].float().cpu())
        return torch.cat(found)


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
