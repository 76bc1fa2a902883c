"""Which critics of a Wasserstein loss are told that nothing bounds their Lipschitz constant."""

from typing import Any

import pytest
from composing import composed

from gantrain.combinations import lacks_lipschitz_bound
from gantrain.game import Objective
from gantrain.losses.hinge import Hinge
from gantrain.losses.wasserstein import Wasserstein
from gantrain.models import mlp
from gantrain.regularizers.base import Regularizer
from gantrain.regularizers.gradient_penalty import GradientPenalty
from gantrain.regularizers.r1 import R1
from gantrain.regularizers.weight_clip import WeightClip
from gantrain.session.divergence import remedies

MLP: dict[str, Any] = {"width": 8, "multipliers": [1], "activation": "relu", "slope": 0.0, "init": "default"}


@pytest.mark.parametrize(
    ("norm", "regularizer", "lacking"),
    [
        ("none", None, True),
        ("layer", None, True),
        ("none", R1(gamma=1, every=1), True),
        ("spectral", None, False),
        ("none", GradientPenalty(weight=10, every=1), False),
        ("none", WeightClip(limit=0.01), False),
    ],
)
def test_gradient_penalty_weight_clipping_and_spectral_norm_bound_the_critic(
    norm: str, regularizer: Regularizer | None, *, lacking: bool
) -> None:
    D = mlp.Discriminator((2,), norm=norm, dropout=0.0, **MLP)
    regularizers = {} if regularizer is None else {"it": regularizer}
    assert lacks_lipschitz_bound(D, Objective(Wasserstein(), regularizers)) == lacking
    assert not lacks_lipschitz_bound(D, Objective(Hinge(), regularizers))


@pytest.mark.parametrize("unbounded", [True, False])
def test_advice_after_a_divergence_begins_with_the_penalty_only_if_it_is_lacking(*, unbounded: bool) -> None:
    first, *_ = remedies(composed("model=wgan_gp", "regularizer=[]"), unbounded=unbounded)
    assert first.startswith("regularizer=[gradient_penalty]" if unbounded else "optimizer.lr=")
