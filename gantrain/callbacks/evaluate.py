"""Compute the metrics of the generator."""

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from gantrain.callbacks.base import Callback, is_regular_record
from gantrain.engine.distributed import interleave
from gantrain.engine.memory import require_memory
from gantrain.errors import ConfigError
from gantrain.evaluation.sampling import labels_like_data, sample_blocks
from gantrain.session.run import Run
from gantrain.train import TrainState
from gantrain.updates import Logs


class Evaluate(Callback):
    """Add the values of each metric to the logs as metric/<name>, every `evaluate_every` steps and at the last step.

    The latents are always the same, so the values change only with the generator. Each rank computes a part of the
    samples.
    """

    order = -1
    shared = True
    tags = ("metric/",)

    def __init__(self, *, every: int):
        self.every = every

    @override
    def check(self, run: Run) -> None:
        for name, metric in run.metrics.items():
            try:
                metric.check(run.dataset)
            except ValueError as error:
                raise ConfigError(f"metric {name}: {error}") from error
            # The samples are kept on the host.
            host, shapes = torch.device("cpu"), [run.dataset.image_shape]
            require_memory(f"metric.{name}.num_samples", metric.num_samples, shapes, host)

    @override
    def __call__(self, state: TrainState, logs: Logs) -> None:
        if self.run.metrics and (self.is_due(state.step) or state.step == self.run.steps):
            for name, value in self.measure(state).items():
                logs[f"metric/{name}"] = float(value)

    @override
    def was_due(self, step: int) -> bool:
        return bool(self.run.metrics) and super().was_due(step)

    @override
    def survives_rewind(self, step: int) -> bool:
        return is_regular_record(self.run, step) or self.was_due(step)

    def measure(self, state: TrainState) -> dict[str, float]:
        """Compute all metrics of G, or of its EMA if there is one; return {} on all ranks but rank 0."""
        run, processes = self.run, self.run.processes
        G = state.G if state.G_ema is None else state.G_ema
        # Sample i does not depend on the number of samples, so the metrics can share them.
        num, key = max(metric.num_samples for metric in run.metrics.values()), (run.config.seed, "evaluate")
        rank_blocks = {"first": processes.rank, "every": processes.world_size}
        labels = labels_like_data(run.class_counts, key) if run.class_counts else None
        blocks = list(sample_blocks(G, run.latent, num, device=run.device, key=key, labels=labels, **rank_blocks))
        blocks_by_rank = processes.gather(blocks)
        if not processes.is_main:
            return {}
        samples = torch.cat(interleave(blocks_by_rank))

        def first(n: int) -> Float[Tensor, "n *shape"]:
            return samples[:n]

        return {name: value for metric in run.metrics.values() for name, value in metric(first, run.dataset).items()}
