"""Make evidence whose values are given by a test."""

from typing import Any

import torch
from torch import Tensor, nn

from gantrain.datasets.base import Dataset, ImageDataset
from gantrain.game import Objective
from gantrain.losses.nonsaturating import NonSaturating
from gantrain.models.latent import Normal
from gantrain.schedules.base import Clock
from gantrain.train import TrainState
from gantrain.verdicts.evidence import Evidence, History
from gantrain.verdicts.reference import Reference

CPU = torch.device("cpu")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def images(num: int = 40, *, side: int = 8, channels: int = 1, seed: int = 0) -> ImageDataset:
    pixels = torch.randint(0, 256, (num, channels, side, side), generator=torch.Generator().manual_seed(seed))
    return ImageDataset("noise", pixels.byte(), labels=None, num_classes=None, fingerprint="f")


def make_evidence(
    *,
    step: int = 5000,
    loss: Any = None,
    regularizers: dict[str, Any] | None = None,
    D: nn.Module | None = None,
    lr: float = 1e-3,
    augment: dict[str, Any] | None = None,
    rows: Any = (),
    scores: dict[str, History] | None = None,
    dataset: Dataset | None = None,
    reference: dict[str, Any] | None = None,
    **known: Any,
) -> Evidence:
    """Make evidence in which the values in `reference` and `known` are already computed."""
    G, D = nn.Linear(2, 2), D or nn.Linear(2, 1)
    state = TrainState(G, D, torch.optim.SGD(G.parameters(), lr), torch.optim.SGD(D.parameters(), lr), step=step)
    fixed = Reference(dataset or images(), Normal(z_dim=2), seed=0, device=CPU)
    vars(fixed).update(reference or {})
    objective = Objective(loss or NonSaturating(), regularizers or {}, augment or {})
    evidence = Evidence(state, fixed, objective, clock=Clock(0.5, 1000), rows=rows, scores=scores)
    vars(evidence).update(known)
    return evidence
