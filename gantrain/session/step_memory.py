"""Estimate the memory of a training step: make it on the meta device, which needs no memory and little time."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from gantrain.assemble import build_discriminator, build_generator, build_latent, build_objective
from gantrain.config import Config
from gantrain.datasets.batches import Batch
from gantrain.engine.meta import LiveBytes, in_bf16
from gantrain.engine.runtime import choose
from gantrain.models.stylegan2_ops import MinibatchStdDev
from gantrain.schedules.base import Clock
from gantrain.session.record import num_parameters
from gantrain.session.trials import RepeatedBatch
from gantrain.train import TrainState, train
from gantrain.updates import Logs, Update, micro_batch

MARGIN = 1.15
"""For what single operations need beside their inputs and outputs: at most 8% on a CPU, beside copies of a weight."""

COPIES_OF_A_WEIGHT = 2
"""Number of copies of its weight that a convolution makes, in another type or layout."""


@dataclass(frozen=True)
class StepMemory:
    """The memory of a training step in bytes, without what the libraries of a device need beside its tensors.

    Attributes:
        state: weights, their gradients, the moments of Adam, and the EMA.
        updates: what each update needs beside the state, for a micro-batch: those of D and G, and the lazy penalties.
        num_graphs: number of CUDA graphs of each update, one for each micro-batch; 0: updates are not captured.
        group: number of samples in a group of D's minibatch standard deviation; 1: D has none.
    """

    state: int
    updates: list[int]
    num_graphs: int
    group: int

    @property
    def total(self) -> int:
        """All of the memory; each captured graph keeps its own, also while others are replayed."""
        return self.state + (self.num_graphs * sum(self.updates) if self.num_graphs else max(self.updates))


class Idle(Optimizer):
    """An optimizer that changes nothing and keeps the gradients, as those do between two updates."""

    def __init__(self, parameters: Iterable[nn.Parameter]):
        super().__init__(parameters, {"lr": 0.0, "capturable": False})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Do nothing."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Do nothing."""


def step_memory(config: Config, channels: int, device: torch.device, num_processes: int) -> StepMemory:
    """Estimate the memory of a training step on images without labels: tensors that are alive at the same time.

    The step is made as on the device: with its precision, augmentations, penalties, and micro-batches.

    Args:
        device: that of the training; its memory is not used.
    """
    rows = config.batch_size // num_processes // config.accumulate
    shape, meta = (channels, *[config.dataset["image_size"]] * 2), torch.device("meta")
    latent, objective = build_latent(config.latent), build_objective(config)
    updates: list[int] = []
    with torch.random.fork_rng(devices=[]), LiveBytes() as memory:
        with meta:
            G = build_generator(config.model["generator"], shape, latent, None)
            D = build_discriminator(config.model["discriminator"], shape, None, config.packing)
        parameters = [*G.parameters(), *D.parameters()]
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        weights = memory.now
        copies = COPIES_OF_A_WEIGHT * max(parameter.nbytes for parameter in parameters)
        state = TrainState(G, D, Idle(G.parameters()), Idle(D.parameters()))
        parts = [objective.loss, latent, *objective.regularizers.values(), *objective.augment.values()]
        runtime = choose(config.runtime, device, state, parts, batch_size=rows, num_processes=num_processes)

        def watched(update: Update) -> Update:
            def watch(batch: Batch | None, clock: Clock) -> Logs:
                memory.restart()
                logs = update(batch, clock)
                updates.append(int(MARGIN * (memory.peak - weights)) + copies)
                return logs

            watch.__name__ = getattr(update, "__name__", "update")
            return watch

        # Random numbers are drawn for the whole batch, and every micro-batch takes its rows.
        with micro_batch(0, config.accumulate * num_processes, rows=rows):
            train(
                *(state, RepeatedBatch(Batch(torch.zeros(rows, *shape, device=meta), None), rows), latent, objective),
                steps=1,
                n_critic=lambda _: 1,
                seed=config.seed,
                device=meta,
                first="generator" if config.first == "generator" else "discriminator",
                generator_batch_multiple=config.generator_batch_multiple,
                precision=in_bf16 if runtime.precision == "bf16" else lambda network: network,
                accelerate=watched,
            )
    averages = 0 if config.ema_halflife_images is None else 4 * num_parameters(G)
    return StepMemory(
        state=weights + averages + 8 * (num_parameters(G) + num_parameters(D)),
        updates=updates,
        num_graphs=config.accumulate if runtime.captures else 0,
        group=config.packing * max((m.group for m in D.modules() if isinstance(m, MinibatchStdDev)), default=1),
    )
