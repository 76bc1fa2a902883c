"""Apply schedules to learning rates, betas, weights of penalties, the EMA, and strengths of augmentations."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.optim import Optimizer

from gantrain.augment.base import Augment
from gantrain.ema import EMA
from gantrain.errors import ConfigError
from gantrain.regularizers.base import Regularizer, overrides
from gantrain.schedules.base import Clock, Schedule


@runtime_checkable
class HasOptimizers(Protocol):
    """The part of the training state that can be scheduled."""

    G_optimizer: Optimizer
    D_optimizer: Optimizer


@runtime_checkable
class HasRegularizers(Protocol):
    """The part of the objective that can be scheduled."""

    @property
    def regularizers(self) -> dict[str, Regularizer]:
        """Regularizers by name."""
        ...

    @property
    def augment(self) -> dict[str, Augment]:
        """Augmentations by name."""
        ...


class Schedules:
    """Sets all scheduled numbers before each step.

    The value of a schedule is multiplied by the configured value of the key; only beta1 and beta2 are set to the value
    itself. For a player with lazy penalties, the learning rate is then multiplied by c = 1 / (1 + sum of 1/every) and
    the betas are raised to the power c, because its optimizer makes more steps (Karras 2020, StyleGAN2, appendix B).

    Numbers are floats. If updates are captured as CUDA graphs, they are tensors on the device that are changed in
    place, because a graph reads the same memory at each replay. Betas are always floats, because torch's Adam reads
    them on the host, so a graph holds for one value only. Scheduled betas are therefore rounded (see `in_steps`): an
    update is captured again for each of about a hundred values, instead of never.

    Args:
        schedules: by name; None: only rescale optimizers with lazy penalties.
        capture: the device on which updates are captured as CUDA graphs; None: they are not captured.

    Raises:
        ConfigError: a key cannot be scheduled, or has two schedules.
    """

    def __init__(
        self,
        state: HasOptimizers,
        objective: HasRegularizers,
        *,
        ema: EMA | None = None,
        schedules: dict[str, Schedule] | None = None,
        capture: torch.device | None = None,
    ):
        self.capture = capture
        self.device = state.G_optimizer.param_groups[0]["params"][0].device
        self.objective, self.ema = objective, ema
        self.by_key: dict[str, Schedule] = {}
        for name, schedule in (schedules or {}).items():
            for key in schedule.of:
                if key in self.by_key:
                    raise ConfigError(f"schedule.{name}.of: another schedule sets {key} already; leave one out.")
                self.by_key[key] = schedule
        groups = {"optimizer": state.G_optimizer, "discriminator_optimizer": state.D_optimizer}
        methods = {"optimizer": "generator_penalty", "discriminator_optimizer": "discriminator_penalty"}
        self.setters: list[Callable[[Clock], None]] = []
        known: set[str] = set()
        for path, optimizer in groups.items():
            c = lazy_factor(objective.regularizers.values(), methods[path])
            keys = {f"{path}.lr"} | ({f"{path}.beta1", f"{path}.beta2"} if "betas" in optimizer.defaults else set())
            known |= keys
            if c != 1 or self.by_key.keys() & keys:
                self.setters += self._optimizer_setters(path, optimizer, c)
        known |= self._add_number_setters()
        for key in self.by_key.keys() - known:
            raise ConfigError(f"schedule: {key} cannot be scheduled; the keys that can are {', '.join(sorted(known))}.")

    def __call__(self, clock: Clock) -> None:
        """Set all scheduled numbers to their values at this time."""
        for setter in self.setters:
            setter(clock)

    def _optimizer_setters(self, path: str, optimizer: Optimizer, c: float) -> list[Callable[[Clock], None]]:
        """Return functions that set the learning rate and betas of an optimizer."""
        setters: list[Callable[[Clock], None]] = []
        lr_schedule = self.by_key.get(f"{path}.lr")
        beta_schedules = [self.by_key.get(f"{path}.beta1"), self.by_key.get(f"{path}.beta2")]
        # The setters look up groups by index, because loading a checkpoint replaces the groups.
        for i, first in enumerate(optimizer.param_groups):
            initial_lr = first.setdefault("initial_lr", float(first["lr"]))

            def set_lr(clock: Clock, i: int = i, initial_lr: float = initial_lr) -> None:
                group = optimizer.param_groups[i]
                factor = 1.0 if lr_schedule is None else lr_schedule(clock)
                group["lr"] = self._number(group["lr"], initial_lr * factor * c)

            setters.append(set_lr)
            if "betas" not in first or (c == 1 and not any(beta_schedules)):
                continue
            initial_betas = first.setdefault("initial_betas", [float(beta) for beta in first["betas"]])

            def set_betas(clock: Clock, i: int = i, initial_betas: list[float] = initial_betas) -> None:
                group = optimizer.param_groups[i]
                pairs = zip(initial_betas, beta_schedules, strict=True)
                values = [beta if schedule is None else in_steps(schedule(clock)) for beta, schedule in pairs]
                group["betas"] = tuple(value**c for value in values)

            setters.append(set_betas)
        return setters

    def _add_number_setters(self) -> set[str]:
        """Add setters of weights, strengths and the half-life; return the keys that can be scheduled."""
        owners: dict[str, tuple[Any, str]] = {}
        for name, regularizer in self.objective.regularizers.items():
            for attribute in regularizer.schedulable:
                owners[f"regularizer.{name}.{attribute}"] = (regularizer, attribute)
        strengths = {f"augment.{name}.strength": a for name, a in self.objective.augment.items() if not a.adapts}
        owners |= {key: (augment, "strength") for key, augment in strengths.items()}
        known = {*owners, *(["augment.strength"] if strengths else [])}
        scheduled = {key: self.by_key[key] for key in owners if key in self.by_key}
        if (for_all := self.by_key.get("augment.strength")) is not None:
            scheduled |= dict.fromkeys(strengths, for_all)
        for key, schedule in scheduled.items():
            part, attribute = owners[key]
            configured = float(getattr(part, attribute))
            if isinstance(part, Augment):
                # A tensor even without capture, because an augmentation draws no random numbers if it is the float 1.
                setattr(part, attribute, torch.tensor(configured, device=self.device))
            self.setters.append(self._attribute_setter(part, attribute, configured, schedule))
        if self.ema is not None:
            known.add("ema_halflife_images")
            if (ema_schedule := self.by_key.get("ema_halflife_images")) is not None:
                # A float even with capture, because the EMA is not part of a captured update.
                self.setters.append(_halflife_setter(self.ema, self.ema.halflife_images, ema_schedule))
        return known

    def _attribute_setter(
        self, part: Any, attribute: str, configured: float, schedule: Schedule
    ) -> Callable[[Clock], None]:
        def set_attribute(clock: Clock) -> None:
            setattr(part, attribute, self._number(getattr(part, attribute), configured * schedule(clock)))

        return set_attribute

    def _number(self, old: Any, value: float) -> Any:
        """Return the value as an update reads it: a float, or the old tensor with its value changed in place."""
        if isinstance(old, Tensor):
            return old.fill_(value)
        return value if self.capture is None else torch.tensor(value, device=self.capture)


def _halflife_setter(ema: EMA, configured: float, schedule: Schedule) -> Callable[[Clock], None]:
    def set_halflife(clock: Clock) -> None:
        ema.halflife_images = configured * schedule(clock)

    return set_halflife


def in_steps(beta: float) -> float:
    """Round a beta so that 1 - beta has two significant digits: there are 91 values from 0.9 to 0.99."""
    return 1 - float(f"{1 - beta:.2g}")


def lazy_factor(regularizers: Iterable[Regularizer], method: str) -> float:
    """Return c = 1 / (1 + sum of 1/every) over the lazy penalties of a player; 1 if it has none.

    Args:
        method: "discriminator_penalty" or "generator_penalty".
    """
    return 1 / (1 + sum(1 / r.every for r in regularizers if r.every > 1 and overrides(r, method)))
