"""How schedules change the training: learning rates, betas, weights of penalties, the EMA and augmentations."""

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
class Optimizers(Protocol):
    """What of the training's state is scheduled."""

    G_optimizer: Optimizer
    D_optimizer: Optimizer


@runtime_checkable
class Objectives(Protocol):
    """What of the objective is scheduled."""

    @property
    def regularizers(self) -> dict[str, Regularizer]:
        """Regularizers by name."""
        ...

    @property
    def augment(self) -> dict[str, Augment]:
        """Augmentations by name."""
        ...


class Schedules:
    """Sets, before each step, every number that changes while training.

    A schedule's number is a factor of the configured value, so that what the user types always wins; for beta1 and
    beta2 it is the value itself. Afterwards the learning rate and betas of a player with lazy penalties are rescaled by
    c = 1 / (1 + sum of 1/every), since the optimizer makes more steps (Karras 2020, StyleGAN2, appendix B).

    Numbers are floats; where updates are captured as CUDA graphs they are tensors on the device, changed in place,
    because a graph reads the same memory at each replay.

    Args:
        schedules: by name.
        capture: the device on which updates are captured; None: they are not.

    Raises:
        ConfigError: a schedule drives a key that does not exist or cannot be scheduled.
    """

    def __init__(
        self,
        state: Optimizers,
        objective: Objectives,
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
                    raise ConfigError(
                        f"schedule.{name}.of: {key} is driven by another schedule already; leave out one."
                    )
                self.by_key[key] = schedule
        groups = {"optimizer": state.G_optimizer, "discriminator_optimizer": state.D_optimizer}
        methods = {"optimizer": "generator_penalty", "discriminator_optimizer": "discriminator_penalty"}
        self.setters: list[Callable[[Clock], None]] = []
        known: set[str] = set()
        for path, optimizer in groups.items():
            c = lazy_factor(objective.regularizers.values(), methods[path])
            own = {f"{path}.lr"} | ({f"{path}.beta1", f"{path}.beta2"} if "betas" in optimizer.defaults else set())
            known |= own
            if c != 1 or self.by_key.keys() & own:
                self.setters += self._of_optimizer(path, optimizer, c)
        known |= self._of_numbers()
        for key in self.by_key.keys() - known:
            raise ConfigError(f"schedule: {key} cannot be scheduled; the keys that can are {', '.join(sorted(known))}.")

    def __call__(self, clock: Clock) -> None:
        """Set all numbers to their values at this time."""
        for set_at in self.setters:
            set_at(clock)

    def _of_optimizer(self, path: str, optimizer: Optimizer, c: float) -> list[Callable[[Clock], None]]:
        """Return what sets the learning rate and betas of an optimizer."""
        setters: list[Callable[[Clock], None]] = []
        of_lr = self.by_key.get(f"{path}.lr")
        of_betas = [self.by_key.get(f"{path}.beta1"), self.by_key.get(f"{path}.beta2")]
        # By their numbers: loading a checkpoint replaces the groups themselves.
        for i, first in enumerate(optimizer.param_groups):
            initial_lr = first.setdefault("initial_lr", float(first["lr"]))

            def set_lr(clock: Clock, i: int = i, initial_lr: float = initial_lr) -> None:
                group = optimizer.param_groups[i]
                factor = 1.0 if of_lr is None else of_lr(clock)
                group["lr"] = self._number(group["lr"], initial_lr * factor * c)

            setters.append(set_lr)
            if "betas" not in first or (c == 1 and not any(of_betas)):
                continue
            initial_betas = first.setdefault("initial_betas", [float(beta) for beta in first["betas"]])

            def set_betas(clock: Clock, i: int = i, initial_betas: list[float] = initial_betas) -> None:
                group = optimizer.param_groups[i]
                values = [b if of is None else of(clock) for b, of in zip(initial_betas, of_betas, strict=True)]
                scheduled = [
                    self._number(old, value**c) if of is not None else value**c
                    for old, value, of in zip(group["betas"], values, of_betas, strict=True)
                ]
                group["betas"] = tuple(scheduled)

            setters.append(set_betas)
        return setters

    def _of_numbers(self) -> set[str]:
        """Add what sets weights, strengths and the half-life; return the keys that could be driven."""
        owners: dict[str, tuple[Any, str]] = {}
        for group, parts in (("regularizer", self.objective.regularizers), ("augment", self.objective.augment)):
            for name, part in parts.items():
                for attribute, value in vars(part).items():
                    if isinstance(value, int | float) and not isinstance(value, bool) and attribute != "every":
                        owners[f"{group}.{name}.{attribute}"] = (part, attribute)
        for name, augment in self.objective.augment.items():
            owners[f"augment.{name}.strength"] = (augment, "strength")
        known = {*owners, *(["augment.strength"] if self.objective.augment else [])}
        drive = {key: self.by_key[key] for key in owners if key in self.by_key}
        if (of_all := self.by_key.get("augment.strength")) is not None:
            drive |= {f"augment.{name}.strength": of_all for name in self.objective.augment}
        for key, schedule in drive.items():
            part, attribute = owners[key]
            configured = float(getattr(part, attribute))
            if isinstance(part, Augment):
                # A tensor in any case: an augmentation draws no random numbers for a float of 1.
                setattr(part, attribute, torch.tensor(configured, device=self.device))
            self.setters.append(self._of_attribute(part, attribute, configured, schedule))
        if self.ema is not None:
            known.add("ema_halflife_images")
            if (of_ema := self.by_key.get("ema_halflife_images")) is not None:
                # The average is updated on the host, outside of any captured update.
                self.setters.append(_set_halflife(self.ema, self.ema.halflife_images, of_ema))
        return known

    def _of_attribute(
        self, part: Any, attribute: str, configured: float, schedule: Schedule
    ) -> Callable[[Clock], None]:
        def set_attribute(clock: Clock) -> None:
            setattr(part, attribute, self._number(getattr(part, attribute), configured * schedule(clock)))

        return set_attribute

    def _number(self, old: Any, value: float) -> Any:
        """Return the value as what an update reads: a float, or the tensor that it read before, changed in place."""
        if isinstance(old, Tensor):
            return old.fill_(value)
        return value if self.capture is None else torch.tensor(value, device=self.capture)


def _set_halflife(ema: EMA, configured: float, schedule: Schedule) -> Callable[[Clock], None]:
    def set_halflife(clock: Clock) -> None:
        ema.halflife_images = configured * schedule(clock)

    return set_halflife


def lazy_factor(regularizers: Iterable[Regularizer], method: str) -> float:
    """Return c = 1 / (1 + sum of 1/every) over the lazy penalties of a player; 1 where there are none."""
    return 1 / (1 + sum(1 / r.every for r in regularizers if r.every > 1 and overrides(r, method)))
