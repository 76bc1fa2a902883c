"""Read the numbers of a step off the device, and hand them on."""

import math
import time
from typing import Any, cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from gantrain.callbacks.base import Callback, not_because_of_the_end
from gantrain.engine.finite import first_nonfinite, named_tensors, norms
from gantrain.session.divergence import diverged
from gantrain.session.run import Run
from gantrain.train import TrainState
from gantrain.updates import Logs

MAX_ROWS = 1000
"""Steps whose losses are held back at most; so often the training's health is looked at, however rarely it logs."""


class Log(Callback):
    """Every `log_every` steps, and at the first and the last, publish the scalars of the step.

    A step at which an earlier callback has put in a number of its own is logged as well: a float, as metrics are, or
    anything under its tags when its interval ends. Losses and penalties are noted at every step, but the device is
    waited for only here: a divergence is noticed at the next logged step, and the step at which it began is named.
    """

    owns_scalars = True

    def __init__(self, *, every: int):
        self.every = every
        # The last step that was logged for another reason than that the run was to end there.
        self.due_at: int | None = None

    @override
    def start(self, run: Run) -> None:
        self.earlier = [c for c in run.listeners if isinstance(c, Callback) and c.order < 0 and c.tags]
        self.rewind(run.state)

    @override
    def survives_rewind(self, step: int) -> bool:
        return not_because_of_the_end(self.run, step) or step in (1, self.due_at) or self.was_due(step)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"due_at": self.due_at}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.due_at = state.get("due_at")

    @override
    def rewind(self, state: TrainState) -> None:
        """Forget what was noted before the state changed to another step's, and measure the speed from here."""
        self.rows: list[tuple[int, list[str], Tensor]] = []
        self.clock, self.images = time.perf_counter(), self.run.images_seen

    @override
    def __call__(self, state: TrainState, logs: Logs) -> None:
        # G's loss comes last, as in the step: it shows what a penalty has spoilt.
        tags = [tag for tag, value in logs.items() if isinstance(value, Tensor) and not value.ndim]
        tags.sort(key="loss/generator".__eq__)
        self.rows.append((state.step, tags, torch.stack([cast(Tensor, logs[tag]) for tag in tags])))

        if state.step == 1 or self.is_due(state.step) or self.is_measured(state.step, logs):
            self.due_at = state.step
        if state.step in (self.due_at, self.run.steps) or any(isinstance(value, float) for value in logs.values()):
            scalars = self.read(state, logs)
            now, images = time.perf_counter(), self.run.images_seen
            scalars["throughput/images_per_second"] = (images - self.images) / (now - self.clock)
            self.clock, self.images = now, images
            self.run.publish_scalars(scalars)
        elif len(self.rows) == MAX_ROWS:
            self.read(state, logs)

    def is_measured(self, step: int, logs: Logs) -> bool:
        """Tell whether an earlier callback has put in a number that was due at this step."""
        for tag, value in logs.items():
            owner = next((c for c in self.earlier if tag.startswith(c.tags)), None)
            if owner is None or owner.every is None:
                if isinstance(value, float):
                    return True
            elif owner.is_due(step):
                return True
        return False

    def read(self, state: TrainState, logs: Logs) -> dict[str, float]:
        """Bring the step's numbers, and those noted before, to the host in one transfer; each tensor as its mean.

        Raises:
            DivergedError: one is not finite, or a gradient, weight, buffer or moment is not.
        """
        logs = logs | self.derived(state, logs)
        tensors = {tag: value.float().mean() for tag, value in logs.items() if isinstance(value, Tensor)}
        health = norms([tensor for _, tensor in named_tensors(state)]).sum()
        noted = [row for *_, row in self.rows]
        *values, health_read = torch.cat([*noted, torch.stack([*tensors.values(), health])]).tolist()

        losses = [(step, tag) for step, tags, _ in self.rows for tag in tags]
        self.rows.clear()
        read = logs | dict(zip(tensors, values[len(losses) :], strict=True))
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

    def derived(self, state: TrainState, logs: Logs) -> Logs:
        """Compute what follows from the step: the gap between real and fake logits, gradient norms, learning rates.

        With a Wasserstein loss the gap estimates the distance, and is called so.
        """
        real, fake = cast(Tensor, logs["logits/real"]), cast(Tensor, logs["logits/fake"])
        estimates_distance = getattr(self.run.objective.loss, "needs_lipschitz", False)
        return {
            "wasserstein/estimate" if estimates_distance else "logits/gap": real.mean() - fake.mean(),
            "gradient_norm/generator": gradient_norm(state.G),
            "gradient_norm/discriminator": gradient_norm(state.D),
            "learning_rate/generator": float(state.G_optimizer.param_groups[0]["lr"]),
            "learning_rate/discriminator": float(state.D_optimizer.param_groups[0]["lr"]),
        }


def gradient_norm(module: nn.Module) -> Tensor:
    """Euclidean norm of the gradient that the module's last update followed."""
    return torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
