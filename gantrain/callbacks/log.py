"""Read the numbers of a step off the device, and hand them on."""

import math
import time
from typing import cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from gantrain.callbacks.base import Callback
from gantrain.errors import DivergedError
from gantrain.run import Run
from gantrain.train import Observations, TrainState


class Log(Callback):
    """Every `log_every` steps, and at the first and the last, publish the scalars of the step.

    A step at which an earlier callback has put in a number of its own (a metric) is logged as well.
    """

    @override
    def start(self, run: Run) -> None:
        self.run, self.every = run, run.config["log_every"]
        self.clock, self.images = time.perf_counter(), run.images_seen

    @override
    def __call__(self, state: TrainState, observations: Observations) -> None:
        measured = any(isinstance(value, float) for value in observations.values())
        if state.step % self.every and state.step not in (1, self.run.steps) and not measured:
            return
        scalars = read(observations | self.derived(state, observations))
        for tag, value in scalars.items():
            if not math.isfinite(value):
                raise DivergedError(
                    f"{tag} is {value} at step {state.step}: the training has diverged. The last checkpoint is kept; "
                    "try a lower optimizer.lr, a larger batch_size or a stronger regularizer."
                )
        now, images = time.perf_counter(), self.run.images_seen
        scalars["throughput/images_per_second"] = (images - self.images) / (now - self.clock)
        self.clock, self.images = now, images
        self.run.publish_scalars(scalars)

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


def read(observations: Observations) -> dict[str, float]:
    """Bring all tensors to the host in one transfer, each as its mean."""
    tensors = {tag: value for tag, value in observations.items() if isinstance(value, Tensor)}
    values = torch.stack([tensor.float().mean() for tensor in tensors.values()]).tolist()
    read_values = dict(zip(tensors, values, strict=True))
    return {tag: read_values[tag] if tag in tensors else float(value) for tag, value in observations.items()}
