"""The overfitting heuristic r_v of an adaptive augmentation."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from gantrain.augment.base import Augment
from gantrain.callbacks.base import Callback, Callbacks
from gantrain.callbacks.log import Log
from gantrain.callbacks.overfitting import Overfitting
from gantrain.datasets.base import Dataset, ImageDataset
from gantrain.datasets.holdout import hold_out
from gantrain.evaluation.critic import overfitting_ratio
from gantrain.evaluation.sampling import sample
from gantrain.game import Objective
from gantrain.losses.nonsaturating import NonSaturating
from gantrain.session.run import Run
from gantrain.train import TrainState

MakeRun = Callable[..., tuple[Run, Callbacks]]
Complete = Callable[..., None]


class Halving(Augment):
    """An augmentation without randomness, so that the logits can be computed again."""

    def __init__(self, adapts: bool):
        self.adapts = adapts

    def __call__(self, x: Any, clock: Any) -> Any:
        return x / 2


class Board(Callback):
    def __init__(self) -> None:
        self.seen: dict[int, float] = {}

    def scalars(self, state: TrainState, scalars: dict[str, float]) -> None:
        if "augment/ada/r_v" in scalars:
            self.seen[state.step] = scalars["augment/ada/r_v"]


def split(fraction: float | None) -> Dataset:
    images = torch.randint(0, 256, (60, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    dataset = ImageDataset("noise", images.byte(), labels=None, num_classes=None, fingerprint="f")
    return dataset if fraction is None else hold_out(dataset, fraction)


def trained(make_run: MakeRun, complete: Complete, *callbacks: Callback, **options: Any) -> tuple[Run, Board]:
    augment = {"ada": Halving(options.pop("adapts", True))}
    objective, board = Objective(NonSaturating(), augment=augment), Board()
    run, all_callbacks = make_run(*callbacks, Log(every=5), board, steps=11, objective=objective, **options)
    complete(run, all_callbacks)
    return run, board


def test_r_v_compares_held_out_with_training_images_and_samples(make_run: MakeRun, complete: Complete) -> None:
    data = split(0.4)
    run, board = trained(make_run, complete, Overfitting(every=4), dataset=data)
    assert [*board.seen] == [4, 8, 11]
    assert isinstance(data, ImageDataset)
    assert isinstance(data.held_out, ImageDataset)
    D = run.state.D.eval()
    of_train, of_held_out = (
        float(D((part.gather(torch.arange(part.num_images)) / 127.5 - 1) / 2).mean()) for part in (data, data.held_out)
    )
    fakes = sample(run.state.G, run.latent, 128, device=torch.device("cpu"), key=(0, "verdicts"))
    expected = (of_train - of_held_out) / (of_train - float(D(fakes / 2).mean()))
    assert 0.001 < abs(expected) < 1
    assert board.seen[11] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("options", [{"dataset": split(None)}, {"dataset": split(0.4), "adapts": False}])
def test_it_needs_held_out_images_and_a_strength_that_adapts(
    make_run: MakeRun, complete: Complete, options: dict[str, Any]
) -> None:
    assert trained(make_run, complete, Overfitting(every=4), **options)[1].seen == {}


def test_it_changes_nothing_in_the_training(make_run: MakeRun, complete: Complete) -> None:
    with_it, _ = trained(make_run, complete, Overfitting(every=1), dataset=split(0.4), folder="a")
    without, _ = trained(make_run, complete, dataset=split(0.4), folder="b")
    for one, other in zip(with_it.state.D.parameters(), without.state.D.parameters(), strict=True):
        assert torch.equal(one, other)


def test_ratio_of_known_logits() -> None:
    real, fake = torch.full((5,), 2.0), torch.full((3,), -2.0)
    ratios = [overfitting_ratio(real, torch.tensor([value]), fake) for value in (2.0, -2.0, 1.0, 3.0)]
    assert ratios == [0.0, 1.0, 0.25, -0.25]
    assert overfitting_ratio(fake, real, real) == 0.0  # D takes samples for real


def test_an_interval_below_1_is_refused() -> None:
    with pytest.raises(ValueError, match="every=0: must be at least 1"):
        Overfitting(every=0)
