"""Standing statistics of BatchNorm."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gantrain.errors import ConfigError
from gantrain.evaluation.sampling import labels_like_data
from gantrain.evaluation.standing import measure_statistics
from gantrain.models.latent import Normal
from gantrain.seeding import generator

CPU, LATENT, KEY = torch.device("cpu"), Normal(z_dim=3), (0, "standing statistics")


class Conditional(nn.Module):
    """A linear generator with an embedding of labels, dropout and BatchNorm."""

    num_classes = 4

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.linear, self.dropout = nn.Embedding(4, 3), nn.Linear(3, 5), nn.Dropout(0.5)
        self.norm = nn.BatchNorm1d(5)
        self.sizes: list[int] = []

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        self.sizes.append(len(z))
        normed: Tensor = self.norm(self.dropout(self.linear(z + self.embedding(y))))
        return normed


def measured(G: nn.Module, **options: Any) -> Any:
    defaults: dict[str, Any] = {
        "num_batches": 6,
        "max_size": 9,
        "device": CPU,
        "key": KEY,
        "class_counts": [1, 2, 0, 1],
    }
    measure_statistics(G, LATENT, **defaults | options)
    return G


def test_statistics_are_the_means_over_batches() -> None:
    G = measured(Conditional())
    sizes = torch.randint(2, 10, (6,), generator=generator(*KEY, "sizes")).tolist()
    assert G.sizes == sizes
    assert len({*sizes}) > 2
    labels = labels_like_data([1, 2, 0, 1], KEY)
    batches = [
        G.linear(LATENT(n, device=CPU, generator=generator(*KEY, i)) + G.embedding(labels(i, n)))
        for i, n in enumerate(sizes)
    ]
    torch.testing.assert_close(G.norm.running_mean, torch.stack([x.mean(0) for x in batches]).mean(0))
    torch.testing.assert_close(G.norm.running_var, torch.stack([x.var(0) for x in batches]).mean(0))
    assert G.norm.momentum == 0.1


def test_they_depend_only_on_the_weights_and_the_key() -> None:
    G, other = Conditional(), Conditional()
    other.norm.running_mean.fill_(7)
    state = torch.get_rng_state()
    first, second, third = measured(G), measured(other), measured(deepcopy(G), key=(1, "standing statistics"))
    assert torch.equal(first.norm.running_mean, second.norm.running_mean)
    assert not torch.equal(first.norm.running_mean, third.norm.running_mean)
    assert torch.equal(torch.get_rng_state(), state)


def test_everything_else_stays_as_it_is() -> None:
    G = Conditional()
    G.dropout.eval()
    saved, modes = deepcopy(G.state_dict()), [m.training for m in G.modules()]
    measured(G)
    assert [m.training for m in G.modules()] == modes
    changed = {name for name, value in G.state_dict().items() if not torch.equal(value, saved[name])}
    assert changed == {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}


def test_a_generator_without_batch_norm_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"standing_statistics=6: this generator has no BatchNorm.*leave it out"):
        measured(nn.Linear(3, 2))
