"""Read the numbers of a step off the device, and hand them on."""

import math
import time
from typing import cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from gantrain.callbacks.base import Callback
from gantrain.health import diverged, first_nonfinite, named_tensors, norms
from gantrain.run import Run
from gantrain.train import Observations, TrainState

MAX_ROWS = 1000
"""Steps whose losses are held back at most; so often the training's health is looked at, however rarely it logs."""


class Log(Callback):
    """Every `log_every` steps, and at the first and the last, publish the scalars of the step.

    A step at which an earlier callback has put in a number of its own (a metric) is logged as well. Losses and
    penalties are noted at every step, but the device is waited for only here: a divergence is noticed at the next
    logged step, and the step at which it began is named.
    """

    @override
    def start(self, run: Run) -> None:
        self.run, self.every = run, run.config["log_every"]
        self.rewind(run.state)

    @override
    def rewind(self, state: TrainState) -> None:
        """Forget what was noted before the state changed to another step's, and measure the speed from here."""
        self.rows: list[tuple[int, list[str], Tensor]] = []
        self.clock, self.images = time.perf_counter(), self.run.images_seen

    @override
    def __call__(self, state: TrainState, observations: Observations) -> None:
        # G's loss comes last, as in the step: it shows what a penalty has spoilt.
        tags = [tag for tag, value in observations.items() if isinstance(value, Tensor) and not value.ndim]
        tags.sort(key="loss/generator".__eq__)
        self.rows.append((state.step, tags, torch.stack([cast(Tensor, observations[tag]) for tag in tags])))

        measured = any(isinstance(value, float) for value in observations.values())
        if state.step % self.every == 0 or state.step in (1, self.run.steps) or measured:
            scalars = self.read(state, observations)
            now, images = time.perf_counter(), self.run.images_seen
            scalars["throughput/images_per_second"] = (images - self.images) / (now - self.clock)
            self.clock, self.images = now, images
            self.run.publish_scalars(scalars)
        elif len(self.rows) == MAX_ROWS:
            self.read(state, observations)

    def read(self, state: TrainState, observations: Observations) -> dict[str, float]:
        """Bring the step's numbers, and those noted before, to the host in one transfer; each tensor as its mean.

        Raises:
            DivergedError: one is not finite, or a gradient, weight, buffer or moment is not.
        """
        observations = observations | self.derived(state, observations)
        tensors = {tag: value.float().mean() for tag, value in observations.items() if isinstance(value, Tensor)}
        health = norms([tensor for _, tensor in named_tensors(state)]).sum()
        noted = [row for *_, row in self.rows]
        *values, health_read = torch.cat([*noted, torch.stack([*tensors.values(), health])]).tolist()

        losses = [(step, tag) for step, tags, _ in self.rows for tag in tags]
        self.rows.clear()
        read = observations | dict(zip(tensors, values[len(losses) :], strict=True))
        scalars = {tag: float(value) for tag, value in read.items()}  # of numpy's floats too
        for (step, tag), value in zip(losses, values[: len(losses)], strict=True):
            if not math.isfinite(value):
                raise diverged(self.run, step, f"{tag} is {value}")
        if not math.isfinite(health_read) and (found := first_nonfinite(named_tensors(state))):
            raise diverged(self.run, state.step, found)
        for tag, value in scalars.items():
            if not math.isfinite(value):
                raise diverged(self.run, state.step, f"{tag} is {value}")
        return scalars

    @staticmethod
    def derived(state: TrainState, observations: Observations) -> Observations:
        """Compute what follows from the step: the estimate, gradient norms and learning rates."""
        real, fake = cast(Tensor, observations["logits/real"]), cast(Tensor, observations["logits/fake"])
        return {
            "wasserstein/estimate": real.mean() - fake.mean(),
            "gradient_norm/generator": gradient_norm(state.G),
            "gradient_norm/discriminator": gradient_norm(state.D),
            "learning_rate/generator": float(state.G_optimizer.param_groups[0]["lr"]),
            "learning_rate/discriminator": float(state.D_optimizer.param_groups[0]["lr"]),
        }


def gradient_norm(module: nn.Module) -> Tensor:
    """Euclidean norm of the gradient that the module's last update followed."""
    return torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
