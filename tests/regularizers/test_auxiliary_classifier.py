from typing import Any

import pytest
import torch
from torch import Tensor

from gantrain.models import acgan
from gantrain.models.interface import split_output
from gantrain.regularizers.auxiliary_classifier import AuxiliaryClassifier
from gantrain.regularizers.base import UpdateBatch, overrides
from gantrain.schedules.base import Clock

D_OPTIONS: dict[str, Any] = {
    "num_classes": 4,
    "width": 3,
    "norm": "none",
    "activation": "leaky_relu",
    "slope": 0.2,
    "bias": "all",
    "init": "default",
}


def batch_of(discriminate: Any, real: Tensor, y: Tensor | None, fake: Tensor, fake_y: Tensor | None) -> UpdateBatch:
    return UpdateBatch(
        Clock(0.0, 0),
        real=lambda: (real, y),
        fake=lambda: (fake, fake_y),
        augment=lambda x: x / 2,
        discriminate=discriminate,
    )


def critic(x: Tensor, y: Tensor | None) -> Tensor:
    return x.flatten(1).sum(1)


def no_generator(*inputs: Tensor) -> Tensor:
    raise AssertionError("the penalty must not generate samples")


def no_draw(n: int) -> Any:
    raise AssertionError("the penalty must not draw latents")


def penalties(regularizer: AuxiliaryClassifier, batch: UpdateBatch) -> tuple[Tensor, Tensor]:
    made = regularizer.discriminator_penalty(critic, batch), regularizer.generator_penalty(no_generator, no_draw, batch)
    return made[0], made[1]


def example() -> tuple[Any, UpdateBatch]:
    torch.manual_seed(0)
    D = acgan.Discriminator((1, 16, 16), **D_OPTIONS).double()
    real, fake = torch.randn(2, 6, 1, 16, 16, dtype=torch.float64)
    y, fake_y = torch.tensor([0, 1, 2, 3, 3, 1]), torch.tensor([2, 2, 0, 1, 3, 0])
    return D, batch_of(lambda x, y: split_output(D(x)), real, y, fake.requires_grad_(), fake_y)


def test_penalties_are_the_mean_negative_log_probability_of_the_right_class() -> None:
    D, batch = example()
    found = penalties(AuxiliaryClassifier(weight_real=2.0, weight_generator=0.3), batch)
    for penalty, weight, x, y in (
        (found[0], 2.0, batch.real, batch.labels),
        (found[1], 0.3, batch.fake, batch.fake_labels),
    ):
        assert y is not None
        class_logits = D(x / 2)[1]["class_logits"]  # the augmentation halves x
        p = class_logits.exp() / class_logits.exp().sum(1, keepdim=True)
        by_hand = -sum(p[i, c].log() for i, c in enumerate(y.tolist())) / len(y)
        torch.testing.assert_close(penalty, weight * by_hand)


def test_equal_class_logits_cost_the_logarithm_of_the_number_of_classes() -> None:
    x, y = torch.zeros(5, 2), torch.tensor([0, 1, 2, 3, 0])
    batch = batch_of(lambda x, y: (x.sum(1), {"class_logits": torch.full((5, 4), 7.0)}), x, y, x, y)
    for penalty in penalties(AuxiliaryClassifier(weight_real=1.0, weight_generator=1.0), batch):
        torch.testing.assert_close(penalty, torch.tensor(4.0).log())


def test_ds_penalty_reaches_the_class_head_and_not_the_logits_head() -> None:
    D, batch = example()
    real, _ = penalties(AuxiliaryClassifier(weight_real=1.0, weight_generator=1.0), batch)
    real.backward()
    assert all(p.grad is not None and p.grad.any() for p in [*D.trunk.parameters(), *D.class_head.parameters()])
    assert all(p.grad is None or not p.grad.any() for p in D.head.parameters())
    assert batch.fake.grad is None


def test_gs_penalty_reaches_the_generated_samples() -> None:
    _, batch = example()
    _, fake = penalties(AuxiliaryClassifier(weight_real=1.0, weight_generator=1.0), batch)
    fake.backward()
    assert batch.fake.grad is not None
    assert batch.fake.grad.flatten(1).any(dim=1).all()


def test_both_players_have_a_penalty_at_every_update() -> None:
    regularizer = AuxiliaryClassifier(weight_real=1.0, weight_generator=0.1)
    assert overrides(regularizer, "discriminator_penalty")
    assert overrides(regularizer, "generator_penalty")
    assert regularizer.every == 1
    assert regularizer.state_dict() == {}


def test_a_discriminator_without_class_logits_is_refused() -> None:
    x, y = torch.zeros(5, 2), torch.zeros(5, dtype=torch.int64)
    batch = batch_of(lambda x, y: (x.sum(1), {"features": x}), x, y, x, y)
    regularizer = AuxiliaryClassifier(weight_real=1.0, weight_generator=0.1)
    with pytest.raises(ValueError, match=r"auxiliary_classifier: .*no class_logits; use network=acgan"):
        regularizer.discriminator_penalty(critic, batch)
    with pytest.raises(ValueError, match=r"auxiliary_classifier: .*no class_logits; use network=acgan"):
        regularizer.generator_penalty(no_generator, no_draw, batch)


def test_samples_without_labels_are_refused() -> None:
    x = torch.zeros(5, 2)
    batch = batch_of(lambda x, y: (x.sum(1), {"class_logits": torch.zeros(5, 4)}), x, None, x, None)
    regularizer = AuxiliaryClassifier(weight_real=1.0, weight_generator=0.1)
    with pytest.raises(ValueError, match=r"auxiliary_classifier: the samples have no labels.*dataset with labels"):
        regularizer.discriminator_penalty(critic, batch)
    with pytest.raises(ValueError, match=r"auxiliary_classifier: the samples have no labels.*dataset with labels"):
        regularizer.generator_penalty(no_generator, no_draw, batch)


@pytest.mark.parametrize("name", ["weight_real", "weight_generator"])
def test_negative_weights_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}=-0.5: .*at least 0"):
        AuxiliaryClassifier(**{"weight_real": 1.0, "weight_generator": 1.0} | {name: -0.5})
