"""Small trainings without a config: networks, batches and states for tests of train() itself."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gantrain.augment.base import Augment
from gantrain.datasets.base import ImageDataset
from gantrain.datasets.batches import Batch, Batches, ImageBatches
from gantrain.game import Objective
from gantrain.losses.nonsaturating import NonSaturating
from gantrain.models import mlp
from gantrain.models.latent import Normal
from gantrain.regularizers.base import Regularizer
from gantrain.train import TrainState, train
from gantrain.updates import Logs

CPU = torch.device("cpu")
LATENT = Normal(z_dim=3)
SHAPE = (1, 4, 4)
BATCH_SIZE = 5


class RecordedBatches(ImageBatches):
    """Noise images, more than a few batches of them, and a record of which were asked for."""

    def __init__(self, *, seed: int = 0):
        images = torch.randint(0, 256, (17, *SHAPE), generator=torch.Generator().manual_seed(0)).byte()
        dataset = ImageDataset("noise", images, labels=None, num_classes=None, fingerprint="f")
        super().__init__(dataset, batch_size=BATCH_SIZE, seed=seed, device=CPU)
        self.asked: list[int] = []

    def __getitem__(self, i: int) -> Batch:
        self.asked.append(i)
        return super().__getitem__(i)


@dataclass
class GivenBatches:
    """Given samples, with labels if there are any; and others for generator steps that look at real samples."""

    data: Tensor
    batch_size: int
    labels: Tensor | None = None
    of_generator: Batches | None = None

    def __getitem__(self, i: int) -> Batch:
        return Batch(self.data[i], None if self.labels is None else self.labels[i])

    def for_generator(self) -> Batches:
        assert self.of_generator is not None
        return self.of_generator


def make_state(
    *,
    lr: float = 1e-2,
    norm_of_G: str = "batch",
    norm_of_D: str = "none",
    dropout: float = 0.0,
    ema: bool = False,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
) -> TrainState:
    torch.manual_seed(0)
    common: dict[str, Any] = {"width": 6, "multipliers": [1, 1], "slope": 0.2, "init": "default"}
    G = mlp.Generator(SHAPE, LATENT.z_dim, activation="relu", norm=norm_of_G, output="tanh", **common)
    D = mlp.Discriminator(SHAPE, activation="leaky_relu", norm=norm_of_D, dropout=dropout, **common)
    G_ema = deepcopy(G).requires_grad_(False) if ema else None
    return TrainState(G, D, optimizer(G.parameters(), lr=lr), optimizer(D.parameters(), lr=lr), G_ema)


def run(
    state: TrainState,
    *,
    loss: Any = None,
    regularizers: dict[str, Regularizer] | None = None,
    augment: dict[str, Augment] | None = None,
    **options: Any,
) -> TrainState:
    """Train for 3 steps of 2 critic updates with the non-saturating loss, unless the options say otherwise."""
    defaults: dict[str, Any] = {
        "batches": RecordedBatches(),
        "objective": Objective(loss or NonSaturating(), regularizers or {}, augment or {}),
        "latent": LATENT,
        "steps": 3,
        "n_critic": lambda _: 2,
        "seed": 0,
        "device": CPU,
    }
    train(state, **defaults | options)
    return state


def logs_of(state: TrainState, **options: Any) -> list[Logs]:
    """Train, and return the logs of each step."""
    seen: list[Logs] = []
    run(state, callbacks=[lambda _, logs: seen.append(dict(logs))], **options)
    return seen


def snapshot(state: TrainState) -> dict[str, Any]:
    return deepcopy(
        {
            "G": state.G.state_dict(),
            "D": state.D.state_dict(),
            "G_ema": {} if state.G_ema is None else state.G_ema.state_dict(),
            "G_optimizer": state.G_optimizer.state_dict(),
            "D_optimizer": state.D_optimizer.state_dict(),
            "step": state.step,
            "batches_seen": state.batches_seen,
            "lazy_logs": state.lazy_logs,
        }
    )


def restore(state: TrainState, saved: dict[str, Any]) -> None:
    """Put a snapshot into a new state, which keeps the options of its own optimizers, as a resumed run does."""
    for name in ("G", "D"):
        getattr(state, name).load_state_dict(saved[name])
        optimizer, of_saved = getattr(state, f"{name}_optimizer"), saved[f"{name}_optimizer"]
        optimizer.load_state_dict({**of_saved, "param_groups": optimizer.state_dict()["param_groups"]})
    if state.G_ema is not None:
        state.G_ema.load_state_dict(saved["G_ema"])
    state.step, state.batches_seen, state.lazy_logs = saved["step"], saved["batches_seen"], dict(saved["lazy_logs"])


def weights(state: TrainState) -> Tensor:
    return torch.cat([p.detach().flatten() for p in (*state.G.parameters(), *state.D.parameters())])


def assert_bitwise_equal(first: dict[str, Any], second: dict[str, Any]) -> None:
    torch.testing.assert_close(first, second, atol=0, rtol=0, equal_nan=True)
