"""Small class-conditional training runs in float64, without a config, for tests of train() itself."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from gantrain.datasets.base import ImageDataset
from gantrain.datasets.batches import Batch, ImageBatches
from gantrain.models import conditional_mlp
from gantrain.models.latent import Normal
from gantrain.train import TrainState, train
from gantrain.updates import Logs

CPU = torch.device("cpu")
BATCH_SIZE, SHAPE, NUM_CLASSES, NUM_IMAGES = 8, (1, 8, 8), 3, 40


class DoubleBatches(ImageBatches):
    """Noise images in float64, with labels."""

    def __init__(self, *, rows: slice | None = None) -> None:
        draw = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (NUM_IMAGES, *SHAPE), generator=draw).byte()
        labels = torch.randint(0, NUM_CLASSES, (NUM_IMAGES,), generator=draw)
        dataset = ImageDataset("noise", images, labels=labels, num_classes=NUM_CLASSES, fingerprint="f")
        super().__init__(dataset, batch_size=BATCH_SIZE, seed=0, device=CPU, labels=True, rows=rows)

    def __getitem__(self, i: int) -> Batch:
        x, y = super().__getitem__(i)
        return Batch(x.double(), y)


def make_state(
    *,
    norm: str = "none",
    dropout: float = 0.0,
    ema: bool = False,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
    **options: Any,
) -> TrainState:
    """Make networks and optimizers; `norm` applies to the discriminator, `options` to the optimizers."""
    torch.manual_seed(0)
    common: dict[str, Any] = {"num_classes": NUM_CLASSES, "embedding_dim": 2, "width": 6, "multipliers": [1, 1]}
    common |= {"slope": 0.2, "init": "default", "activation": "leaky_relu"}
    G = conditional_mlp.Generator(SHAPE, 3, norm="layer", output="tanh", **common).double()
    D = conditional_mlp.Discriminator(SHAPE, norm=norm, dropout=dropout, **common).double()
    G_ema = deepcopy(G).requires_grad_(False) if ema else None
    of_G, of_D = (optimizer(network.parameters(), **{"lr": 0.05} | options) for network in (G, D))
    return TrainState(G, D, of_G, of_D, G_ema)


def run(state: TrainState, objective: Any, **options: Any) -> list[Logs]:
    """Train for 4 steps in float64, unless the options say otherwise; return the logs of each step."""
    seen: list[Logs] = []
    callbacks = [lambda _, logs: seen.append(dict(logs)), *options.pop("callbacks", [])]
    defaults: dict[str, Any] = {"steps": 4, "n_critic": lambda _: 1, "seed": 0, "device": CPU}
    batches = options.pop("batches", None) or DoubleBatches()
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        train(state, batches, Normal(z_dim=3), objective, callbacks=callbacks, **defaults | options)
    finally:
        torch.set_default_dtype(usual)
    return seen


def gradients(network: nn.Module) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]


def weights(state: TrainState) -> Tensor:
    return torch.cat([p.detach().flatten() for p in (*state.G.parameters(), *state.D.parameters())])


def snapshot(state: TrainState) -> dict[str, Any]:
    networks = {name: getattr(state, name) for name in ("G", "D", "G_ema") if getattr(state, name) is not None}
    optimizers = {name: getattr(state, name).state_dict() for name in ("G_optimizer", "D_optimizer")}
    counts = {"step": state.step, "batches_seen": state.batches_seen, "lazy_logs": dict(state.lazy_logs)}
    return deepcopy({name: network.state_dict() for name, network in networks.items()} | optimizers | counts)


def restore(state: TrainState, saved: dict[str, Any]) -> None:
    """Load a snapshot into a new state, whose optimizers keep their options, as on resuming."""
    saved = deepcopy(saved)
    for name in ("G", "D", "G_ema"):
        if name in saved:
            getattr(state, name).load_state_dict(saved[name])
    for name in ("G_optimizer", "D_optimizer"):
        optimizer = getattr(state, name)
        optimizer.load_state_dict({**saved[name], "param_groups": optimizer.state_dict()["param_groups"]})
    state.step, state.batches_seen, state.lazy_logs = saved["step"], saved["batches_seen"], saved["lazy_logs"]
