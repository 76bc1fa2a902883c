import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gantrain.callbacks.base import Callback, Callbacks
from gantrain.config import Config
from gantrain.datasets.base import Dataset, ImageDataset
from gantrain.datasets.batches import make_batches
from gantrain.engine.distributed import SINGLE_PROCESS
from gantrain.engine.runtime import Runtime
from gantrain.evaluation.evaluator import Evaluator
from gantrain.evaluation.features.base import Extractor
from gantrain.game import Objective
from gantrain.losses.nonsaturating import NonSaturating
from gantrain.metrics.base import FeatureMetric, Metric
from gantrain.models.latent import Normal
from gantrain.models.mlp import Discriminator, Generator
from gantrain.session.run import Run
from gantrain.train import TrainState, train

CPU = torch.device("cpu")
MakeRun = Callable[..., tuple[Run, Callbacks]]
Complete = Callable[..., None]


def make_images(num_images: int = 100) -> ImageDataset:
    images = torch.randint(0, 256, (num_images, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    return ImageDataset("noise", images.byte(), labels=None, num_classes=None, fingerprint="f")


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Make a small run and its callbacks; other keywords are fields of its config."""

    def make(
        *callbacks: Callback,
        dataset: Dataset | None = None,
        steps: int = 10,
        folder: str = "run",
        metrics: dict[str, Metric | FeatureMetric] | None = None,
        extractors: dict[str, Extractor] | None = None,
        hyperparameters: dict[str, Any] | None = None,
        ema: bool = False,
        objective: Objective | None = None,
        **config: Any,
    ) -> tuple[Run, Callbacks]:
        torch.manual_seed(0)
        dataset = make_images() if dataset is None else dataset
        shape, latent = dataset.image_shape, Normal(z_dim=4)
        common: dict[str, Any] = {"width": 16, "multipliers": [1], "slope": 0.2, "init": "default"}
        G = Generator(shape, 4, activation="relu", norm="batch", output="linear", **common)
        D = Discriminator(shape, activation="leaky_relu", norm="none", dropout=0.5, **common)
        state = TrainState(
            G,
            D,
            torch.optim.Adam(G.parameters(), lr=1e-3),
            torch.optim.Adam(D.parameters(), lr=1e-3),
            G_ema=copy.deepcopy(G) if ema else None,
        )
        (tmp_path / folder).mkdir(parents=True)
        run = Run(
            name="test",
            folder=tmp_path / folder,
            config=Config(**({"batch_size": 16} | config)),
            state=state,
            dataset=dataset,
            latent=latent,
            objective=objective or Objective(NonSaturating()),
            runtime=Runtime(device=CPU),
            steps=steps,
            evaluator=Evaluator(
                metrics or {}, extractors or {}, dataset, device=CPU, folder=None, processes=SINGLE_PROCESS
            ),
            hyperparameters=hyperparameters or {"optimizer.lr": 1e-3},
        )
        return run, Callbacks(run, callbacks)

    return make


@pytest.fixture
def complete() -> Complete:
    def complete(run: Run, callbacks: Callbacks, status: str = "finished", steps: int | None = None) -> None:
        """Train the run from start to finish, or until `steps`."""
        callbacks.start()
        batches = make_batches(run.dataset, batch_size=run.config.batch_size, seed=run.config.seed, device=CPU)
        train(
            run.state,
            batches,
            run.latent,
            run.objective,
            steps=run.steps if steps is None else steps,
            n_critic=lambda _: 1,
            seed=run.config.seed,
            device=CPU,
            callbacks=[*callbacks],
        )
        callbacks.finish(status)

    return complete
