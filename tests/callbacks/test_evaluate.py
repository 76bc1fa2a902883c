from collections.abc import Callable
from typing import ClassVar, Literal

import pytest
import torch
from torch import Tensor

from gantrain.callbacks.base import Callback
from gantrain.callbacks.evaluate import Evaluate
from gantrain.callbacks.log import Log
from gantrain.callbacks.samples import Samples
from gantrain.datasets.base import Dataset
from gantrain.errors import ConfigError, DivergedError
from gantrain.metrics.modes import Modes
from gantrain.run import Run
from gantrain.train import TrainState


class Listener(Callback):
    def __init__(self) -> None:
        self.rows: dict[int, dict[str, float]] = {}

    def scalars(self, state: TrainState, scalars: dict[str, float]) -> None:
        self.rows[state.step] = dict(scalars)


class Fake:
    better: ClassVar[dict[str, Literal["higher", "lower"]]] = {}
    num_samples = 100

    def __init__(self, name: str = "total", value: float | None = None):
        self.name, self.value = name, value
        self.samples: list[Tensor] = []

    def check(self, real: Dataset) -> None:
        pass

    def __call__(self, sample: Callable[[int], Tensor], real: Dataset) -> dict[str, float]:
        self.samples += [sample(30), sample(self.num_samples)]
        return {self.name: self.samples[-1].sum().item() if self.value is None else self.value}


def test_metrics_are_logged_at_their_interval_and_the_last_step(
    make_run: Callable[..., Run], complete: Callable[..., None]
) -> None:
    listener, total, other = Listener(), Fake(), Fake("other")
    run = make_run(
        Evaluate(),
        Log(),
        listener,
        metrics={"total": total, "other": other},
        steps=7,
        log_every=1000,
        evaluate_every=3,
    )
    complete(run)
    assert sorted(listener.rows) == [1, 3, 6, 7]
    assert [step for step, row in listener.rows.items() if "metric/total" in row] == [3, 6, 7]
    assert listener.rows[7]["metric/total"] == total.samples[-1].sum().item()
    few, many = total.samples[:2]
    torch.testing.assert_close(few, many[:30], rtol=0, atol=0)
    torch.testing.assert_close(other.samples[1], many, rtol=0, atol=0)
    assert run.state.G.training


def test_the_codes_are_the_same_every_time(make_run: Callable[..., Run]) -> None:
    metric = Fake()
    run = make_run(Evaluate(), metrics={"fake": metric}, evaluate_every=1)
    run.start()
    for _ in range(2):
        run.state.step += 1
        run.callbacks[0](run.state, {})
    torch.testing.assert_close(metric.samples[1], metric.samples[3], rtol=0, atol=0)


def test_data_that_a_metric_cannot_judge_are_refused_before_anything_is_written(make_run: Callable[..., Run]) -> None:
    run = make_run(Evaluate(), metrics={"modes": Modes(num_samples=10, radius_stds=3.0)})
    with pytest.raises(ConfigError, match="metric modes: dataset=noise"):
        run.check()
    assert list(run.folder.iterdir()) == []


def test_a_metric_that_is_no_number_ends_the_run(make_run: Callable[..., Run], complete: Callable[..., None]) -> None:
    run = make_run(Evaluate(), Log(), metrics={"fake": Fake(value=float("nan"))}, evaluate_every=2)
    with pytest.raises(DivergedError, match="metric/total"):
        complete(run)


def test_all_that_started_finish_in_order_and_one_that_fails_keeps_no_other_from_it(
    make_run: Callable[..., Run],
) -> None:
    seen: list[str] = []

    class Noted(Callback):
        def __init__(self, name: str, fails: str = ""):
            self.name, self.fails = name, fails

        def start(self, run: Run) -> None:
            if self.fails == "start":
                raise RuntimeError("start")
            seen.append(f"start {self.name}")

        def finish(self, state: TrainState, status: str) -> None:
            seen.append(f"finish {self.name}")
            if self.fails == "finish":
                raise RuntimeError("finish")

    run = make_run(Noted("a", fails="finish"), Noted("b"), Noted("c", fails="start"))
    with pytest.raises(RuntimeError, match="start"):
        run.start()
    with pytest.raises(RuntimeError, match="finish"):
        run.finish("failed")
    assert seen == ["start a", "start b", "finish a", "finish b"]


def test_what_adds_observations_goes_first_wherever_it_is_named(make_run: Callable[..., Run]) -> None:
    log, evaluate = Log(), Evaluate()
    assert make_run(log, evaluate).callbacks == [evaluate, log]


@pytest.mark.parametrize("board_first", [True, False])
def test_pictures_of_the_start_arrive_in_either_order(make_run: Callable[..., Run], board_first: bool) -> None:
    seen: list[str] = []

    class Board(Callback):
        def image(self, state: TrainState, tag: str, image: object) -> None:
            seen.append(tag)

    samples = Samples(num=4, num_vectors=4)
    make_run(*((Board(), samples) if board_first else (samples, Board()))).start()
    assert seen == ["samples/real", "samples/fixed"]
