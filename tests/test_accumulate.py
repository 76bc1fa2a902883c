"""Gradient accumulation: gradients, logs and random numbers of micro-batches equal those of the whole batch."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from adaptive import Adaptive
from conditional_runs import BATCH_SIZE, CPU, NUM_CLASSES, gradients, make_state, run, weights
from torch import Tensor
from torch.testing import assert_close

from gantrain import seeding
from gantrain.augment.base import Augment
from gantrain.augment.diffaugment import DiffAugment
from gantrain.datasets.labels import DrawnLabels, RealLabels
from gantrain.game import Objective
from gantrain.losses.nonsaturating import NonSaturating
from gantrain.losses.relativistic import Relativistic
from gantrain.regularizers.base import Regularizer
from gantrain.regularizers.consistency import Consistency
from gantrain.regularizers.gradient_penalty import GradientPenalty
from gantrain.regularizers.input_noise import InputNoise
from gantrain.regularizers.label_noise import LabelNoise
from gantrain.regularizers.r1 import R1


def diffaugment() -> dict[str, Augment]:
    return {"diffaugment": DiffAugment(policy=["color", "translation", "cutout"], strength=0.7)}


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "input noise": {"regularizers": {"input_noise": InputNoise(std=0.3)}},
    "label noise": {"regularizers": {"label_noise": LabelNoise(amount=0.5)}},
    "gradient penalty": {"regularizers": {"gradient_penalty": GradientPenalty(weight=10.0, every=1)}},
    "lazy gradient penalty": {"regularizers": {"gradient_penalty": GradientPenalty(weight=10.0, every=2)}},
    "consistency": {
        "regularizers": {"bcr": Consistency(weight_real=1.0, weight_fake=2.0, max_shift=0.25, every=1)},
        "augment": diffaugment(),
    },
    "dropout": {"dropout": 0.5},
    "diffaugment": {"augment": diffaugment()},
    "adaptive augmentation": {"augment": {"adaptive": Adaptive(decay=0.5)}},
    "drawn labels": {"fake_labels": DrawnLabels([3, 1, 2], CPU)},
    "everything": {
        "regularizers": {"input_noise": InputNoise(std=0.3), "r1": R1(gamma=1.0, every=2)},
        "augment": diffaugment(),
        "dropout": 0.5,
    },
}


def trained(*, accumulate: int, loss: Any, case: dict[str, Any], lr: float, **options: Any) -> tuple[Any, list[Any]]:
    """Return the state and the logs of each step, with the strengths of adaptive augmentations."""
    case = deepcopy(case)
    objective = Objective(loss, case.pop("regularizers", {}), case.pop("augment", {}))
    state = make_state(dropout=case.pop("dropout", 0.0), lr=lr)
    adaptive = [augment for augment in objective.augment.values() if isinstance(augment, Adaptive)]

    strengths: list[dict[str, Tensor]] = []

    def note(*_: Any) -> None:
        strengths.append({f"strength/{i}": augment.strength.clone() for i, augment in enumerate(adaptive)})

    options = {"fake_labels": RealLabels(), "callbacks": [note]} | case | options
    logs = run(state, objective, accumulate=accumulate, **options)
    assert all(0.1 < augment.strength < 1 for augment in adaptive)
    return state, [step | strength for step, strength in zip(logs, strengths, strict=True)]


@pytest.mark.parametrize(
    ("loss", "multiple"),
    [(NonSaturating(), 1), (Relativistic(), 2)],
    ids=["non-saturating", "relativistic, multiple 2"],
)
@pytest.mark.parametrize("case", CASES)
def test_gradients_and_logs_equal_those_of_the_whole_batch(case: str, loss: Any, multiple: int) -> None:
    """Compare the last gradients; a learning rate of 0 keeps the weights of both the same at each step."""
    options: dict[str, Any] = {"loss": loss, "case": CASES[case], "lr": 0.0, "generator_batch_multiple": multiple}
    whole, logs = trained(accumulate=1, **options, steps=3)
    cut, logs_of_cut = trained(accumulate=4, **options, steps=3)
    for network in ("G", "D"):
        expected = gradients(getattr(whole, network))
        assert any(gradient.abs().max() > 1e-4 for gradient in expected)
        assert_close(gradients(getattr(cut, network)), expected, rtol=1e-12, atol=1e-14)
    for one, other in zip(logs_of_cut, logs, strict=True):
        assert_close(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("case", CASES)
def test_micro_batches_of_one_sample_train_as_the_whole_batch(case: str) -> None:
    whole, _ = trained(accumulate=1, loss=Relativistic(), case=CASES[case], lr=0.05, steps=3)
    cut, _ = trained(accumulate=BATCH_SIZE, loss=Relativistic(), case=CASES[case], lr=0.05, steps=3)
    assert_close(weights(cut), weights(whole), rtol=1e-10, atol=1e-12)
    assert not torch.equal(weights(whole), weights(make_state()))


class Recorder(Regularizer):
    """Keeps the samples that D receives, which depend on images, latents and labels."""

    def __init__(self) -> None:
        self.real: list[Tensor] = []
        self.fake: list[Tensor] = []

    def discriminator_penalty(self, critic: Any, batch: Any) -> Tensor:
        self.real.append(batch.real)
        self.fake.append(batch.fake)
        return batch.real_logits.sum() * 0


@pytest.mark.parametrize("fake_labels", [RealLabels(), DrawnLabels([1] * NUM_CLASSES, CPU)], ids=["real", "drawn"])
def test_each_sample_is_made_from_the_same_latent_and_label(fake_labels: Any) -> None:
    made = []
    for num in (1, 4):
        recorder = Recorder()
        objective = Objective(NonSaturating(), {"noise": InputNoise(std=0.3), "recorder": recorder})
        run(make_state(lr=0.0), objective, accumulate=num, fake_labels=fake_labels)
        assert len(recorder.real) == 4 * num
        assert len(recorder.real[0]) == BATCH_SIZE // num
        made.append((torch.cat(recorder.real), torch.cat(recorder.fake)))
    assert_close(made[1], made[0], rtol=1e-12, atol=1e-14)


def test_spectral_norm_makes_one_iteration_for_all_micro_batches() -> None:
    before, found = make_state(norm="spectral").D.state_dict(), []
    for num in (1, 4):
        state = make_state(norm="spectral")
        run(state, Objective(NonSaturating()), accumulate=num, fake_labels=RealLabels())
        found.append(state.D.state_dict())
    assert_close(found[1], found[0], rtol=1e-10, atol=1e-12)
    vectors = [name for name in before if name.endswith(".u")]
    assert vectors
    assert not any(torch.equal(found[0][name], before[name]) for name in vectors if before[name].numel() > 1)


def test_shard_is_restored_after_an_error() -> None:
    class Failing(NonSaturating):
        def generator(self, fake_logits: Tensor) -> Tensor:
            assert seeding.shard == seeding.Shard(micro_batch=0, num_micro_batches=4, rows=2)
            raise KeyError

    with pytest.raises(KeyError):
        run(make_state(), Objective(Failing()), accumulate=4, fake_labels=RealLabels())
    assert seeding.shard == seeding.Shard()
