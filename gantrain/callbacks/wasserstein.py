"""Measure how far a Wasserstein critic's estimate of the distance can be trusted."""

import logging
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn
from typing_extensions import override

from gantrain.callbacks.base import Callback, is_regular_record
from gantrain.datasets.base import Dataset, Distribution, ImageDataset
from gantrain.datasets.batches import Batch, make_batches, to_device, to_signed
from gantrain.datasets.labels import make_fake_labels
from gantrain.engine.memory import is_out_of_memory, require_memory
from gantrain.errors import ConfigError
from gantrain.evaluation.critic import CriticEstimate, estimate_distance
from gantrain.evaluation.sampling import BLOCK_SIZE, labels_like_data, sample
from gantrain.metrics.wasserstein import wasserstein
from gantrain.seeding import generator, unsharded
from gantrain.session.run import Run
from gantrain.train import TrainState, train
from gantrain.updates import Logs

logger = logging.getLogger(__name__)

NO_WARNING = (
    "No sign of an undertrained or overfitted critic: the estimate can be read as a distance up to a constant factor."
)


class WassersteinEstimate(Callback):
    """Publish the critic's estimate on training and on held-out samples, and whether it is reliable.

    It does nothing if the loss is not a Wasserstein loss. The estimate is E[D(x)] - E[D(G(z))] on always the same real
    samples and latents: above 0 if the critic gives real samples higher values. G is in evaluation mode; D has no
    dropout, and its BatchNorm uses the statistics of its input, as in training. The estimate is a distance only up to
    the critic's Lipschitz constant, which the norms of its gradient at real, generated and interpolated samples bound
    from below; wasserstein/normalized is the estimate divided by that bound. For vectors, the exact distance between
    the same real and generated samples is published beside it.

    The critic counts as undertrained if its estimate is not above 0, or if some more updates of a copy raise it by more
    than the fraction max_gain; as overfitted if the estimate on held-out samples is lower than that on training
    samples by more than the fraction max_gap and three standard errors. Then wasserstein/reliable is 0, else 1.

    Source: Arjovsky 2017, equation 2; Gulrajani 2017, section 5.3 (overfitting of the critic).

    Args:
        num, num_vectors: number of images, or of vectors, of each kind.
        extra_updates: number of updates of the copy; 0: none.
    """

    order = -1
    shared = True  # the extra updates average gradients over all ranks
    tags = (
        *("wasserstein/train", "wasserstein/held_out", "wasserstein/more_trained", "wasserstein/exact"),
        *("wasserstein/lipschitz", "wasserstein/normalized"),
        *("wasserstein/reliable", "wasserstein/assessment", "critic_gradient_norm/"),
    )

    def __init__(self, *, every: int, num: int, num_vectors: int, extra_updates: int, max_gain: float, max_gap: float):
        if min(num, num_vectors) < 2 or extra_updates < 0:
            raise ValueError(f"num={num}, num_vectors={num_vectors}, extra_updates={extra_updates}: at least 2, 2, 0.")
        if min(max_gain, max_gap) <= 0:
            raise ValueError(f"max_gain={max_gain}, max_gap={max_gap}: must be above 0, for example 0.1.")
        self.every, self.num, self.num_vectors = every, num, num_vectors
        self.extra_updates, self.max_gain, self.max_gap = extra_updates, max_gain, max_gap
        self.has_memory = True
        self.before_last: dict[str, Any] | None = None
        """The estimate before the last one, if that was made only because the run ended."""

    @property
    def applies(self) -> bool:
        """Whether the loss estimates a Wasserstein distance."""
        return bool(getattr(self.run.objective.loss, "needs_lipschitz", False))

    def num_of(self, dataset: Dataset) -> int:
        """Return how many samples of a dataset are used: a multiple of `packing`."""
        num = self.num_vectors if dataset.num_images is None else min(self.num, dataset.num_images)
        return num // self.run.config.packing * self.run.config.packing

    @property
    def num_used(self) -> int:
        """Number of real training samples, and of generated ones."""
        return self.num_of(self.run.dataset)

    @override
    def check(self, run: Run) -> None:
        if not self.applies:
            return
        if self.num_used < 2:
            raise ConfigError(
                f"callback.wasserstein.num={self.num}: with packing={run.config.packing} at least 2 samples and one "
                "pack are needed; raise it, or leave out the callback."
            )
        require_memory("callback.wasserstein.num", 4 * self.num_used, [run.dataset.image_shape], run.device)

    @override
    def start(self, run: Run) -> None:
        if not self.applies:
            return
        seed, config = run.config.seed, run.config
        self.real = real_samples(run.dataset, self.num_used, seed, run.device)
        held_out = run.dataset.held_out
        num = 0 if held_out is None else self.num_of(held_out)
        self.held_out = real_samples(held_out, num, seed, run.device) if held_out is not None and num >= 2 else None
        self.fake_labels = (
            make_fake_labels(config.fake_labels, run.class_counts, run.device) if run.class_counts else None
        )
        self.batches = make_batches(
            run.dataset,
            batch_size=config.batch_size,
            seed=seed,
            device=run.device,
            mirror=config.horizontal_flip,
            labels=run.class_counts is not None,
            data_location="host",
            rows=run.processes.rows(config.batch_size) if run.processes.world_size > 1 else None,
        )

    @override
    def state_dict(self) -> dict[str, Any]:
        return {} if self.run.wasserstein is None else {"last": self.run.wasserstein, "before_last": self.before_last}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.run.wasserstein, self.before_last = state.get("last"), state.get("before_last")

    @override
    def rewind(self, state: TrainState) -> None:
        last = self.run.wasserstein
        if last is not None and last["step"] == state.step and not self.survives_rewind(state.step):
            self.run.wasserstein, self.before_last = self.before_last, None

    @override
    def survives_rewind(self, step: int) -> bool:
        return is_regular_record(self.run, step) or self.was_due(step)

    @override
    def __call__(self, state: TrainState, logs: Logs) -> None:
        if not self.applies or not (self.is_due(state.step) or state.step == self.run.steps):
            return
        more_trained = self.train_copy(state) if self.extra_updates else None
        if not self.run.processes.is_main:
            return
        with unsharded():  # only rank 0 is here
            fake = self.generate(state)
            estimate = self.estimate(state, fake, more_trained)
        warnings = estimate.warnings(max_gain=self.max_gain, max_gap=self.max_gap)
        logs["wasserstein/train"] = estimate.train
        if estimate.held_out is not None:
            logs["wasserstein/held_out"] = estimate.held_out
        if estimate.more_trained is not None:
            logs["wasserstein/more_trained"] = estimate.more_trained
        exact = wasserstein(fake.x.cpu(), self.real.x.cpu()) if isinstance(self.run.dataset, Distribution) else None
        if exact is not None:
            logs["wasserstein/exact"] = exact
        logs["wasserstein/lipschitz"] = estimate.lipschitz
        logs["wasserstein/normalized"] = estimate.normalized
        logs["wasserstein/reliable"] = float(not warnings)
        self.before_last = None if self.is_due(state.step) else self.run.wasserstein
        self.run.wasserstein = {
            "step": state.step,
            "estimate": estimate.estimate,
            "lipschitz": estimate.lipschitz,
            "normalized": estimate.normalized,
            "exact": exact,
            "reliable": not warnings,
            "warnings": warnings,
        }
        for name, norms in estimate.norms.items():
            self.run.publish_histogram(f"critic_gradient_norm/{name}", norms)
        self.run.publish_markdown("wasserstein/assessment", assessment(estimate, warnings))

    def generate(self, state: TrainState) -> Batch:
        """Generate the samples, whose latents are always the same; of G itself, because D judges G and not its EMA."""
        run, key = self.run, (self.run.config.seed, "wasserstein")
        labels = labels_like_data(run.class_counts, key) if run.class_counts else None
        x = sample(state.G, run.latent, self.num_used, device=run.device, key=key, labels=labels)
        starts = range(0, self.num_used, BLOCK_SIZE)
        y = None if labels is None else torch.cat([labels(i, BLOCK_SIZE) for i in starts])[: self.num_used]
        return Batch(x.to(run.device), None if y is None else y.to(run.device))

    def estimate(self, state: TrainState, fake: Batch, more_trained: nn.Module | None) -> CriticEstimate:
        """Estimate the distance with the critic of the run."""
        augment = partial(self.run.objective.augmented, clock=self.run.clock)
        return estimate_distance(
            state.D, augment, real=self.real, held_out=self.held_out, fake=fake, more_trained=more_trained
        )

    def train_copy(self, state: TrainState) -> nn.Module | None:
        """Make the extra updates of a copy of the critic, on real batches of the training; return the copy.

        Numbers that follow a schedule stay as they are. If there is no memory for a copy, return None from then on.
        """
        run, config = self.run, self.run.config
        if not self.has_memory:
            return None
        try:
            copied, objective = deepcopy((replace(state, G_ema=None), run.objective))
            run.processes.average_gradients(copied.G_optimizer, copied.D_optimizer)
            train(
                copied,
                self.batches,
                run.latent,
                objective,
                steps=state.step + 1,
                n_critic=lambda _: self.extra_updates,
                seed=config.seed,
                device=run.device,
                generator_batch_multiple=config.generator_batch_multiple,
                fake_labels=self.fake_labels,
                schedules=lambda _: None,
                accumulate=config.accumulate,
                precision=run.runtime.run,
            )
        except RuntimeError as error:
            if run.processes.world_size > 1 or not is_out_of_memory(error):
                raise
            self.has_memory = False
            logger.warning(
                "There is no memory for a copy of the networks: wasserstein/reliable does not consider extra updates."
            )
            return None
        return copied.D


def real_samples(dataset: ImageDataset | Distribution, num: int, seed: int, device: torch.device) -> Batch:
    """Choose real samples, the same at every call, with their labels if there are any."""
    if isinstance(dataset, Distribution):
        return Batch(to_device(dataset.sample(num, generator(seed, "wasserstein", "real")), device))
    chosen = torch.randperm(dataset.num_images, generator=generator(seed, "wasserstein", "real"))[:num]
    y = None if dataset.labels is None else to_device(dataset.labels[chosen], device)
    return Batch(to_signed(to_device(dataset.gather(chosen), device)), y)


def assessment(estimate: CriticEstimate, warnings: list[str]) -> str:
    """Describe the estimate and its reliability in Markdown, for TensorBoard."""
    kinds = [f"{estimate.train:.4g} on training samples"]
    kinds += [] if estimate.held_out is None else [f"{estimate.held_out:.4g} on held-out samples"]
    bound = f"The largest norm of the critic's gradient is {estimate.lipschitz:.4g}"
    lines = [
        f"E[D(real)] - E[D(generated)] without penalties: {', '.join(kinds)}. Above 0, real samples get higher values.",
        f"{bound}; the estimate divided by it is {estimate.normalized:.4g}.",
        *(warnings or [NO_WARNING]),
    ]
    return "\n\n".join(lines)
