"""Small DCGAN training runs without a config, with the options of Runtime."""

from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from typing import Any

import torch
from torch.optim import Adam

from gantrain.datasets.base import ImageDataset
from gantrain.datasets.batches import make_batches
from gantrain.ema import EMA
from gantrain.engine.runtime import Runtime
from gantrain.game import Objective
from gantrain.losses.wasserstein import Wasserstein
from gantrain.models import dcgan
from gantrain.models.latent import Normal
from gantrain.regularizers.base import Regularizer
from gantrain.regularizers.gradient_penalty import GradientPenalty
from gantrain.regularizers.input_noise import InputNoise
from gantrain.regularizers.label_noise import LabelNoise
from gantrain.schedules.apply import Schedules
from gantrain.train import TrainState, train
from gantrain.updates import Logs

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SHAPE = (3, 16, 16)
PENALTY: dict[str, Regularizer] = {"gradient_penalty": GradientPenalty(weight=10.0, every=1)}
NOISE: dict[str, Regularizer] = {"input_noise": InputNoise(std=0.5), "label_noise": LabelNoise(amount=0.5)}


def make_state(
    *, norm: str = "none", width: int = 4, dtype: torch.dtype = torch.float32, fused: bool = True
) -> TrainState:
    torch.manual_seed(0)
    common: dict[str, Any] = {"width": width, "init": "dcgan", "bias": "ends", "slope": 0.2}
    G = dcgan.Generator(SHAPE, 8, activation="relu", norm="batch", **common).to(dtype)
    D = dcgan.Discriminator(SHAPE, activation="leaky_relu", norm=norm, **common).to(dtype)
    G_ema = deepcopy(G).requires_grad_(False)
    optimizers = [Adam(net.parameters(), lr=1e-3, betas=(0.0, 0.9), fused=fused) for net in (G, D)]
    return TrainState(G, D, *optimizers, G_ema)


def images(num: int = 64, num_classes: int | None = None) -> ImageDataset:
    pixels = torch.randint(0, 256, (num, *SHAPE), generator=torch.Generator().manual_seed(0)).byte()
    labels = None if num_classes is None else torch.arange(num) % num_classes
    return ImageDataset("noise", pixels, labels=labels, num_classes=num_classes, fingerprint="f")


class Interrupted(Exception):
    pass


def advance(
    state: TrainState,
    runtime: Runtime,
    *,
    steps: int,
    until: int | None = None,
    then: Callable[[TrainState], None] = lambda state: None,
    schedules: Callable[[TrainState, Objective], Schedules] = Schedules,
    **options: Any,
) -> list[dict[str, float]]:
    """Train to `until` or the last step, call `then` after each step, and return the mean of each log at each step."""
    seen: list[dict[str, float]] = []

    def look(now: TrainState, logs: Logs) -> None:
        seen.append({tag: float(torch.as_tensor(value).mean()) for tag, value in logs.items()})
        then(now)
        if now.step == until:
            raise Interrupted

    runtime.prepare(state)
    dataset = images(num_classes=getattr(state.G, "num_classes", None))
    objective = Objective(
        options.pop("loss", Wasserstein()), options.pop("regularizers", PENALTY), options.pop("augment", {})
    )
    defaults: dict[str, Any] = {"n_critic": lambda _: 2}
    with suppress(Interrupted):
        train(
            state,
            make_batches(dataset, batch_size=8, seed=0, device=CPU, labels=dataset.labels is not None),
            Normal(z_dim=8),
            objective,
            steps=steps,
            seed=0,
            device=CPU,
            ema=EMA(halflife_images=100.0, rampup=None),
            precision=runtime.run,
            accelerate=runtime.accelerate(state),
            schedules=schedules(state, objective),
            callbacks=[look],
            **defaults | options,
        )
    return seen


def snapshot(state: TrainState) -> dict[str, Any]:
    parts = {"G": state.G, "D": state.D, "G_ema": state.G_ema, "of_G": state.G_optimizer, "of_D": state.D_optimizer}
    return deepcopy({name: part.state_dict() for name, part in parts.items() if part is not None})


def restored(saved: dict[str, Any], **options: Any) -> TrainState:
    state = make_state(**options)
    parts = {"G": state.G, "D": state.D, "G_ema": state.G_ema, "of_G": state.G_optimizer, "of_D": state.D_optimizer}
    for name, part in parts.items():
        assert part is not None
        part.load_state_dict(saved[name])
    return state
