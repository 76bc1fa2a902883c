"""Copy the scalars of a step from the device, check them for NaN and Inf, and publish them."""

import math
import time
from typing import Any, cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from gantrain.callbacks.base import Callback, is_regular_record
from gantrain.engine.finite import first_nonfinite, named_tensors, norms
from gantrain.session.divergence import diverged
from gantrain.session.run import Run
from gantrain.train import TrainState
from gantrain.updates import Logs

MAX_ROWS = 1000
"""Maximum number of steps between two checks for NaN and Inf, whatever the interval of logging is."""


class Log(Callback):
    """Publish the scalars of every `log_every`-th step, of the first and of the last step.

    A step is also logged if an earlier callback has added a value to its logs: a float, such as a metric, or anything
    under the tags of a callback that is due. The losses and penalties of every step are kept on the device until the
    next logged step. Then they are checked for NaN and Inf, so the error of a divergence names the step where it began.
    """

    owns_scalars = True

    def __init__(self, *, every: int):
        self.every = every
        # The last step that was logged for another reason than being the last step of the run.
        self.due_at: int | None = None

    @override
    def start(self, run: Run) -> None:
        self.earlier = [c for c in run.listeners if isinstance(c, Callback) and c.order < 0 and c.tags]
        self.rewind(run.state)

    @override
    def survives_rewind(self, step: int) -> bool:
        return is_regular_record(self.run, step) or step in (1, self.due_at) or self.was_due(step)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"due_at": self.due_at}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.due_at = state.get("due_at")

    @override
    def rewind(self, state: TrainState) -> None:
        """Discard the losses of the steps before, and measure the throughput from here."""
        self.rows: list[tuple[int, list[str], Tensor]] = []
        self.clock, self.images = time.perf_counter(), self.run.images_seen

    @override
    def __call__(self, state: TrainState, logs: Logs) -> None:
        # The loss of G is last, because with first=discriminator a non-finite penalty of D also makes it non-finite.
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
        """Return whether an earlier callback has added a value that is due at this step."""
        for tag, value in logs.items():
            owner = next((c for c in self.earlier if tag.startswith(c.tags)), None)
            if owner is None or owner.every is None:
                if isinstance(value, float):
                    return True
            elif owner.is_due(step):
                return True
        return False

    def read(self, state: TrainState, logs: Logs) -> dict[str, float]:
        """Copy the scalars of the step, and the losses of the steps before, to the host in one transfer.

        Returns:
            the scalars of the step by tag; of a tensor its mean.

        Raises:
            DivergedError: a scalar, gradient, weight, buffer or moment is not finite.
        """
        logs = logs | self.derived(state, logs)
        tensors = {tag: value.float().mean() for tag, value in logs.items() if isinstance(value, Tensor)}
        norm_sum = norms([tensor for _, tensor in named_tensors(state)]).sum()
        earlier = [row for *_, row in self.rows]
        *values, norm_on_host = torch.cat([*earlier, torch.stack([*tensors.values(), norm_sum])]).tolist()

        losses = [(step, tag) for step, tags, _ in self.rows for tag in tags]
        self.rows.clear()
        on_host = logs | dict(zip(tensors, values[len(losses) :], strict=True))
        scalars = {tag: float(value) for tag, value in on_host.items()}  # also converts numpy floats
        for (step, tag), value in zip(losses, values[: len(losses)], strict=True):
            if not math.isfinite(value):
                raise diverged(self.run, step, f"{tag} is {value}")
        if not math.isfinite(norm_on_host) and (found := first_nonfinite(named_tensors(state))):
            raise diverged(self.run, state.step, found)
        for tag, value in scalars.items():
            if not math.isfinite(value):
                raise diverged(self.run, state.step, f"{tag} is {value}")
        return scalars

    def derived(self, state: TrainState, logs: Logs) -> Logs:
        """Compute derived values: the gap between real and fake logits, gradient norms, learning rates, augmentations.

        With a Wasserstein loss the gap is an estimate of the Wasserstein distance, and has another tag.
        """
        real, fake = cast(Tensor, logs["logits/real"]), cast(Tensor, logs["logits/fake"])
        of_augment = {
            f"augment/{name}/{tag}": value
            for name, augment in self.run.objective.augment.items()
            for tag, value in augment.logs().items()
        }
        estimates_distance = getattr(self.run.objective.loss, "needs_lipschitz", False)
        return {
            "wasserstein/estimate" if estimates_distance else "logits/gap": real.mean() - fake.mean(),
            "gradient_norm/generator": gradient_norm(state.G),
            "gradient_norm/discriminator": gradient_norm(state.D),
            "learning_rate/generator": state.G_optimizer.param_groups[0]["lr"],
            "learning_rate/discriminator": state.D_optimizer.param_groups[0]["lr"],
            **of_augment,
        }


def gradient_norm(module: nn.Module) -> Tensor:
    """Return the Euclidean norm of the gradient of the module's last update."""
    return torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
