from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from gantrain.datasets.batches import Batch
from gantrain.game import Game, Objective
from gantrain.losses.nonsaturating import NonSaturating
from gantrain.models import acgan, conditional_mlp, dcgan, mlp
from gantrain.models.latent import Normal
from gantrain.models.layers import couples_samples
from gantrain.models.packing import Packed, pack
from gantrain.regularizers.base import UpdateBatch
from gantrain.regularizers.dragan import DRAGAN
from gantrain.regularizers.gradient_penalty import GradientPenalty
from gantrain.regularizers.r1 import R1
from gantrain.schedules.base import Clock

DCGAN: dict[str, Any] = {"width": 4, "norm": "none", "activation": "leaky_relu", "slope": 0.2, "bias": "all"}
MLP: dict[str, Any] = {"width": 8, "multipliers": [1], "activation": "tanh", "slope": 0.0, "norm": "none"}


def make_conv(shape: tuple[int, ...]) -> nn.Module:
    return dcgan.Discriminator(shape, init="default", **DCGAN)


def make_mlp(shape: tuple[int, ...]) -> nn.Module:
    return mlp.Discriminator(shape, init="default", dropout=0.0, **MLP)


@pytest.mark.parametrize("packing", [2, 3, 4])
@pytest.mark.parametrize(("make", "shape"), [(make_conv, (1, 16, 16)), (make_conv, (3, 16, 16)), (make_mlp, (2,))])
def test_logits_equal_those_of_samples_concatenated_by_hand(make: Any, shape: Any, packing: int) -> None:
    torch.manual_seed(0)
    D = pack(make, shape, packing).double()
    x = torch.randn(3 * packing, *shape, dtype=torch.float64)
    inner = D.discriminator
    assert isinstance(inner, nn.Module)
    by_hand = [inner(torch.cat(list(x[i : i + packing]))[None]) for i in range(0, len(x), packing)]
    logits = D(x)
    assert logits.shape == (3,)
    torch.testing.assert_close(logits, torch.cat(by_hand))


@pytest.mark.parametrize("packing", [1, 2, 4])
def test_penalties_take_the_gradient_with_respect_to_the_whole_pack(packing: int) -> None:
    """The gradient of a linear critic is its weight, so that all packs have the same gradient norm."""

    class Linear(nn.Module):
        def __init__(self, shape: tuple[int, ...]):
            super().__init__()
            self.weight = nn.Parameter(torch.arange(1.0, 1 + shape[0], dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight

    D = pack(Linear, (3,), packing)
    norm = float(torch.arange(1.0, 1 + 3 * packing).norm())
    real, fake = (torch.randn(8, 3, dtype=torch.float64) for _ in range(2))
    batch = UpdateBatch(
        Clock(0, 0),
        real=lambda: (real, None),
        fake=lambda: (fake, None),
        augment=lambda x: x,
        discriminate=lambda x, _: (D(x), {}),
    )
    critic = lambda x, _: D(x)  # noqa: E731
    penalty = GradientPenalty(weight=10, every=1).discriminator_penalty(critic, batch)
    assert float(penalty.detach()) == pytest.approx(10 * (norm - 1) ** 2)
    assert float(R1(gamma=3, every=1).discriminator_penalty(critic, batch).detach()) == pytest.approx(3 / 2 * norm**2)


@pytest.mark.parametrize("packing", [1, 2, 3])
@pytest.mark.parametrize("name", ["gradient_penalty", "dragan"])
def test_penalties_evaluate_d_on_the_segment_between_packs(name: str, packing: int) -> None:
    """The critic sums its inputs and keeps them; the fraction of the way is U[0, 1), one number for each pack."""
    seen: list[Tensor] = []

    class Sum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.detach())
            return x.sum(1)

    torch.manual_seed(0)
    num_packs = 500
    D = pack(lambda shape: Sum(), (2,), packing)
    options: dict[str, Any] = {"generator_rows": 1, "precision": lambda network: network, "fake_labels": None}
    latent, device = Normal(z_dim=2), torch.device("cpu")
    penalty = {"gradient_penalty": GradientPenalty, "dragan": DRAGAN}[name](weight=1, every=1)
    objective = Objective(NonSaturating(), {name: penalty})
    game = Game(nn.Identity(), D, objective, latent=latent, device=device, **options)
    batch = game.critic_batch(Batch(torch.randn(num_packs * packing, 2)), Clock(0, 0))
    torch.manual_seed(1)
    game.discriminator_penalties(batch)
    (points,) = seen
    real = batch.real.view(num_packs, 2 * packing)
    if name == "gradient_penalty":
        start, end = batch.fake.view(num_packs, 2 * packing), real
    else:
        torch.manual_seed(1)
        noise = torch.rand(num_packs * packing, 2).view(num_packs, 2 * packing)  # drawn before the distance
        start, end = real, real + batch.real.std() / 2 * noise
    way = (points - start).double().norm(dim=1) / (end - start).double().norm(dim=1)
    torch.testing.assert_close(points, torch.lerp(start, end, way[:, None].float()), rtol=0, atol=1e-5)
    assert stats.kstest(way.numpy(), "uniform").pvalue > 1e-3


def test_memory_layout_does_not_change_packed_logits() -> None:
    torch.manual_seed(0)
    D = pack(make_conv, (3, 16, 16), 2)
    x = torch.randn(6, 3, 16, 16)
    torch.testing.assert_close(D(x.contiguous(memory_format=torch.channels_last)), D(x))


def test_only_the_input_layer_grows() -> None:
    plain, packed = make_conv((1, 16, 16)), pack(make_conv, (1, 16, 16), 3)
    first, *rest = [p.shape for p in plain.parameters()]
    packed_first, *packed_rest = [p.shape for p in packed.parameters()]
    assert packed_rest == rest
    assert packed_first == (first[0], 3 * first[1], *first[2:])


def test_packing_1_is_the_discriminator_itself() -> None:
    made: list[tuple[int, ...]] = []

    def make(shape: tuple[int, ...]) -> nn.Module:
        made.append(shape)
        return make_mlp(shape)

    assert type(pack(make, (2,), 1)) is mlp.Discriminator
    assert made == [(2,)]


def test_the_samples_of_a_pack_are_coupled() -> None:
    assert couples_samples(pack(make_mlp, (2,), 2))
    assert not couples_samples(pack(make_mlp, (2,), 1))


def test_a_batch_that_cannot_be_divided_is_refused() -> None:
    with pytest.raises(ValueError, match=r"packing=3: 7 samples .*batch_size that is a multiple of 3.*192"):
        pack(make_mlp, (2,), 3)(torch.randn(7, 2))


@pytest.mark.parametrize("packing", [0, -1])
def test_packing_below_1_is_refused(packing: int) -> None:
    with pytest.raises(ValueError, match=f"packing={packing}: .*2 is usual"):
        pack(make_mlp, (2,), packing)


def test_labels_cannot_be_packed() -> None:
    conditional = conditional_mlp.Discriminator(
        (4,), num_classes=3, embedding_dim=2, init="default", dropout=0.0, **MLP
    )
    auxiliary = acgan.Discriminator((2, 16, 16), num_classes=3, init="default", **DCGAN)
    for D in (conditional, auxiliary):
        with pytest.raises(ValueError, match=r"packing=2 with .*Discriminator.*packing=1.*network=dcgan"):
            Packed(D, packing=2)
