"""What is known at a check: logged values, samples, logits, features and scores, each computed at its first use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from jaxtyping import Float
from torch import Tensor

from gantrain.datasets.base import ImageDataset
from gantrain.datasets.batches import Batch, to_bytes
from gantrain.evaluation.critic import logits
from gantrain.game import Objective
from gantrain.losses.base import Logits
from gantrain.schedules.base import Clock
from gantrain.seeding import seed_everything
from gantrain.train import TrainState
from gantrain.verdicts.reference import Reference, thumbnails


@dataclass(frozen=True)
class History:
    """The values of one metric, all by the same protocol.

    Attributes:
        sign: 1 if higher is better, -1 if lower is better.
        values: pairs of the step and the value, oldest first.
        real: the score of real images, from the receipt of the values; None: not known.
    """

    sign: int
    values: Sequence[tuple[int, float]]
    real: float | None = None


class Evidence:
    """What verdicts look at; shared by all verdicts of a check. Nothing in it changes the training.

    Args:
        state: of the training.
        reference: the fixed samples of the run.
        objective: what the networks optimize.
        clock: the progress of the training, on which augmentations may depend.
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
        clock: Clock,
        rows: Sequence[Mapping[str, float]] = (),
        scores: Mapping[str, History] | None = None,
        with_features: bool = False,
    ):
        self.state, self.reference, self.objective, self.clock = state, reference, objective, clock
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
    def current(self) -> Batch:
        """Samples of G with its current weights, always from the same latents."""
        return self.reference.generated(self.state.G)

    @cached_property
    def samples(self) -> Batch:
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

    def logits(self, samples: Batch) -> Logits:
        """Return D's logits of samples, on the CPU; [n / packing] with packing.

        The samples are augmented as in the training: without that, D would see samples that it is not trained for. The
        augmentation is the same for each kind of samples, and does not advance the random numbers of the training.
        """
        x, y = (None if part is None else part.to(self.reference.device) for part in samples)
        assert x is not None
        augment = partial(self.objective.augmented, clock=self.clock)
        device = self.reference.device
        with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type):
            seed_everything(self.reference.seed, "verdicts", "augment", self.step, device=device)
            return logits(self.state.D, augment, Batch(x, y)).float()
