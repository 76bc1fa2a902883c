"""Judge the generator by the metrics."""

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from gantrain.callbacks.base import Callback
from gantrain.errors import ConfigError
from gantrain.memory import require_memory
from gantrain.processes import in_order
from gantrain.run import Run
from gantrain.sampling import sample_blocks
from gantrain.train import Observations, TrainState


class Evaluate(Callback):
    """Every `evaluate_every` steps and at the last, add each metric's numbers to the observations as metric/<name>.

    The codes are the same every time, so that the numbers differ by what the generator has learned alone. Where
    several processes train the run, each makes a part of the samples.
    """

    order = -1
    shared = True

    @override
    def check(self, run: Run) -> None:
        for name, metric in run.metrics.items():
            try:
                metric.check(run.dataset)
            except ValueError as error:
                raise ConfigError(f"metric {name}: {error}") from error
            # They are kept on the host.
            host, shapes = torch.device("cpu"), [run.dataset.image_shape]
            require_memory(f"metric.{name}.num_samples", metric.num_samples, shapes, host)

    @override
    def start(self, run: Run) -> None:
        self.run, self.every = run, run.config["evaluate_every"]

    @override
    def __call__(self, state: TrainState, observations: Observations) -> None:
        if self.run.metrics and (state.step % self.every == 0 or state.step == self.run.steps):
            for name, value in self.measure(state).items():
                observations[f"metric/{name}"] = float(value)

    def measure(self, state: TrainState) -> dict[str, float]:
        """Compute all metrics of G, of its average where there is one; {} in processes that do not write."""
        run, processes = self.run, self.run.processes
        G = state.G if state.G_ema is None else state.G_ema
        # Sample i does not depend on how many are drawn, so that metrics can share them.
        num, key = max(metric.num_samples for metric in run.metrics.values()), (run.config["seed"], "evaluate")
        mine = {"first": processes.rank, "every": processes.size}
        own = list(sample_blocks(G, run.latent, num, device=run.device, key=key, **mine))
        shares = processes.gather(own)
        if not processes.is_main:
            return {}
        samples = torch.cat(in_order(shares))

        def first(n: int) -> Float[Tensor, "n *shape"]:
            return samples[:n]

        return {name: value for metric in run.metrics.values() for name, value in metric(first, run.dataset).items()}
