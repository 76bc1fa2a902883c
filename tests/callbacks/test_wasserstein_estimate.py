"""The callback that measures how far a critic's estimate can be trusted."""

import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import Tensor

from gantrain.callbacks import wasserstein
from gantrain.callbacks.base import Callback, Callbacks
from gantrain.callbacks.log import Log
from gantrain.callbacks.wasserstein import WassersteinEstimate
from gantrain.datasets.base import ImageDataset
from gantrain.datasets.batches import to_signed
from gantrain.datasets.holdout import hold_out
from gantrain.datasets.toys import gaussian
from gantrain.errors import ConfigError
from gantrain.evaluation.sampling import sample
from gantrain.game import Objective
from gantrain.losses.wasserstein import Wasserstein
from gantrain.regularizers.gradient_penalty import GradientPenalty
from gantrain.seeding import generator
from gantrain.session.record import Record
from gantrain.session.run import PreviousSession, Run
from gantrain.session.summary import closing
from gantrain.train import TrainState

MakeRun = Callable[..., tuple[Run, Callbacks]]
Complete = Callable[..., None]
CPU = torch.device("cpu")


class Listener(Callback):
    def __init__(self) -> None:
        self.rows: dict[int, dict[str, float]] = {}
        self.texts: dict[int, str] = {}
        self.histograms: dict[str, Tensor] = {}
        self.D: Any = None

    def scalars(self, state: TrainState, scalars: dict[str, float]) -> None:
        self.rows[state.step] = {tag: value for tag, value in scalars.items() if tag.startswith("wasserstein/")}
        self.D = deepcopy(state.D)

    def markdown(self, state: TrainState, tag: str, text: str) -> None:
        assert tag == "wasserstein/assessment"
        self.texts[state.step] = text

    def histogram(self, state: TrainState, tag: str, values: Tensor) -> None:
        self.histograms[tag] = values


def estimate(**options: Any) -> WassersteinEstimate:
    defaults = {"every": 4, "num": 50, "num_vectors": 60, "extra_updates": 3, "max_gain": 0.1, "max_gap": 0.1}
    return WassersteinEstimate(**(defaults | options))  # type: ignore[arg-type]


def objective() -> Objective:
    return Objective(Wasserstein(), {"gradient_penalty": GradientPenalty(weight=10.0, every=1)})


def images(num: int = 100) -> ImageDataset:
    pixels = torch.randint(0, 256, (num, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    return ImageDataset("noise", pixels, labels=None, num_classes=None, fingerprint="f")


def test_estimates_are_published_at_the_interval_and_at_the_last_step(make_run: MakeRun, complete: Complete) -> None:
    listener, data = Listener(), hold_out(images(), 0.3)
    run, callbacks = make_run(estimate(), Log(every=1000), listener, dataset=data, objective=objective(), steps=10)
    complete(run, callbacks)
    assert [step for step, row in listener.rows.items() if "wasserstein/train" in row] == [4, 8, 10]
    row = listener.rows[10]
    D, fake = listener.D.eval(), sample(run.state.G, run.latent, 50, device=CPU, key=(0, "wasserstein"))
    assert isinstance(data, ImageDataset)
    assert data.held_out is not None
    means = []
    for part in (data, data.held_out):
        chosen = torch.randperm(part.num_images, generator=generator(0, "wasserstein", "real"))[:50]
        means.append(float(D(to_signed(part.gather(chosen))).detach().mean()))
    on_fake = float(D(fake).detach().mean())
    assert row["wasserstein/train"] == pytest.approx(means[0] - on_fake, abs=1e-5)
    assert row["wasserstein/held_out"] == pytest.approx(means[1] - on_fake, abs=1e-5)
    assert row["wasserstein/normalized"] == pytest.approx(row["wasserstein/held_out"] / row["wasserstein/lipschitz"])
    assert row["wasserstein/more_trained"] != row["wasserstein/train"]
    assert "wasserstein/exact" not in row
    assert sorted(listener.histograms) == [f"critic_gradient_norm/{x}" for x in ("fake", "interpolated", "real")]
    assert max(float(norms.max()) for norms in listener.histograms.values()) == row["wasserstein/lipschitz"]
    assert f"{row['wasserstein/train']:.4g} on training samples" in listener.texts[10]


def test_exact_distance_of_vectors_is_published(make_run: MakeRun, complete: Complete) -> None:
    listener, data = Listener(), gaussian(mean=3.0, std=1.0)
    run, callbacks = make_run(estimate(), Log(every=1000), listener, dataset=data, objective=objective(), steps=4)
    complete(run, callbacks)
    real = data.sample(60, generator(0, "wasserstein", "real"))
    fake = sample(run.state.G, run.latent, 60, device=CPU, key=(0, "wasserstein"))
    exact = wasserstein_distance(real[:, 0].double(), fake[:, 0].double())
    assert listener.rows[4]["wasserstein/exact"] == pytest.approx(exact, rel=1e-9)
    assert "wasserstein/held_out" not in listener.rows[4]


def test_the_last_estimate_and_why_it_is_not_reliable_are_in_the_record_and_in_the_closing_lines(
    make_run: MakeRun, complete: Complete
) -> None:
    listener, data = Listener(), gaussian(mean=3.0, std=1.0)
    run, callbacks = make_run(
        estimate(every=3), Log(every=1000), listener, dataset=data, objective=objective(), steps=5
    )
    callbacks.append(record := Record(run, {}))
    complete(run, callbacks)
    record.write("finished")
    row, written = listener.rows[5], json.loads((run.folder / "run.json").read_text())["wasserstein"]
    assert written["step"] == 5
    assert (written["estimate"], written["reliable"]) == (row["wasserstein/train"], bool(row["wasserstein/reliable"]))
    for name in ("lipschitz", "normalized", "exact"):
        assert written[name] == row[f"wasserstein/{name}"]
    assert written["warnings"][0].startswith("The critic is undertrained: ")  # after five updates
    assert written["warnings"][0] in listener.texts[5]
    (line,) = (line for line in closing(run, record).splitlines() if line.startswith("  estimate"))
    fraction = f"{row['wasserstein/train']:.4g} / Lipschitz bound {row['wasserstein/lipschitz']:.4g}"
    assert line.startswith(f"  estimate  Wasserstein distance {fraction} = {row['wasserstein/normalized']:.4g}, exact ")
    assert line.endswith(f"; not reliable: {written['warnings'][0]}")
    run.wasserstein = written | {"reliable": True, "warnings": [], "exact": None}
    assert closing(run, record).endswith(f" = {row['wasserstein/normalized']:.4g}")
    run.wasserstein = None
    assert "Wasserstein" not in closing(run, record)


@pytest.mark.parametrize("every", [4, 1000])
def test_an_estimate_made_only_because_the_run_ended_is_forgotten_when_it_is_resumed(
    make_run: MakeRun, complete: Complete, every: int
) -> None:
    def make(folder: str, steps: int, **options: Any) -> tuple[Run, Callbacks, WassersteinEstimate]:
        callback = estimate(every=every)
        run, callbacks = make_run(callback, Log(every=1), objective=objective(), folder=folder, steps=steps, **options)
        return run, callbacks, callback

    straight, callbacks, expected = make("straight", 8)
    complete(straight, callbacks, "stopped", steps=5)
    at_5 = deepcopy(expected.state_dict())
    assert (straight.wasserstein or {}).get("step") == (4 if every == 4 else None)
    ended, callbacks, callback = make("ended", 5)
    complete(ended, callbacks)
    assert ended.wasserstein is not None
    assert ended.wasserstein["step"] == 5

    resumed, callbacks, later = make("resumed", 8)
    later.load_state_dict(deepcopy(callback.state_dict()))
    resumed.state.step, resumed.previous = 5, PreviousSession(5, 0.0, {"WassersteinEstimate": every})
    callbacks.start()
    assert later.state_dict() == at_5
    finished, callbacks, later = make("finished", 5)
    later.load_state_dict(deepcopy(callback.state_dict()))
    finished.state.step, finished.previous = 5, PreviousSession(5, 0.0, {"WassersteinEstimate": every})
    callbacks.start()
    assert finished.wasserstein == ended.wasserstein  # it still ends there


def test_training_is_not_changed(make_run: MakeRun, complete: Complete) -> None:
    states = []
    for i, callbacks in enumerate([[Log(every=3)], [estimate(every=2), Log(every=3)]]):
        run, all_callbacks = make_run(*callbacks, objective=objective(), folder=str(i))
        complete(run, all_callbacks)
        states.append(run.state)
    for name in ("G", "D", "G_optimizer", "D_optimizer"):
        a, b = (getattr(state, name).state_dict() for state in states)
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_undertrained_critic_is_flagged(make_run: MakeRun, complete: Complete) -> None:
    listener = Listener()
    run, callbacks = make_run(estimate(every=1), Log(every=1), listener, objective=objective(), steps=1)
    complete(run, callbacks)
    assert listener.rows[1]["wasserstein/reliable"] == 0
    assert "The critic is undertrained" in listener.texts[1]


def test_overfitted_critic_is_flagged(make_run: MakeRun, complete: Complete) -> None:
    """A critic without a bound on its gradient learns 10 images of noise by heart."""
    listener, data = Listener(), hold_out(images(110), 100 / 110)
    unbounded = Objective(Wasserstein())
    run, callbacks = make_run(
        estimate(every=249, num=100), Log(every=1000), listener, dataset=data, objective=unbounded, steps=250
    )
    run.state.D_optimizer.param_groups[0]["lr"] = 0.005
    complete(run, callbacks)
    assert listener.rows[250]["wasserstein/reliable"] == 0
    assert "The critic has overfitted" in listener.texts[250]
    assert listener.rows[250]["wasserstein/train"] > 1.1 * listener.rows[250]["wasserstein/held_out"]


def test_without_memory_for_a_copy_the_extra_updates_are_left_out(
    make_run: MakeRun, complete: Complete, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(wasserstein, "deepcopy", fail)
    listener = Listener()
    run, callbacks = make_run(estimate(), Log(every=1000), listener, objective=objective(), steps=8)
    complete(run, callbacks)
    assert "wasserstein/more_trained" not in listener.rows[8]
    assert "wasserstein/train" in listener.rows[8]


def test_other_losses_have_no_estimate(make_run: MakeRun, complete: Complete) -> None:
    listener = Listener()
    run, callbacks = make_run(estimate(), Log(every=1), listener, steps=4)
    complete(run, callbacks)
    assert len(listener.rows) == 4
    assert not any(listener.rows.values())
    assert not listener.texts


def test_options_are_checked(make_run: MakeRun) -> None:
    with pytest.raises(ValueError, match="extra_updates=-1"):
        estimate(extra_updates=-1)
    with pytest.raises(ValueError, match="max_gain=0"):
        estimate(max_gain=0)
    callback = estimate(num=3)
    run, _ = make_run(callback, objective=objective(), packing=4)
    with pytest.raises(ConfigError, match="with packing=4 at least 2 samples and one pack are needed"):
        callback.check(run)
