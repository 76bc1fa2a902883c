import json
from collections.abc import Callable
from typing import ClassVar, Literal

import pytest
import torch
from torch import Tensor

from gantrain.callbacks.base import Callback, Callbacks
from gantrain.callbacks.evaluate import Evaluate
from gantrain.callbacks.log import Log
from gantrain.callbacks.samples import Samples
from gantrain.datasets.base import Dataset
from gantrain.datasets.toys import gaussian
from gantrain.errors import ConfigError, DivergedError
from gantrain.metrics.modes import Modes
from gantrain.session.record import Record
from gantrain.session.run import Run
from gantrain.session.summary import score_lines
from gantrain.train import TrainState

MakeRun = Callable[..., tuple[Run, Callbacks]]
Complete = Callable[..., None]


class Listener(Callback):
    def __init__(self) -> None:
        self.rows: dict[int, dict[str, float]] = {}

    def scalars(self, state: TrainState, scalars: dict[str, float]) -> None:
        self.rows[state.step] = dict(scalars)


class SumMetric:
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


def test_metrics_are_logged_at_their_interval_and_at_the_last_step(make_run: MakeRun, complete: Complete) -> None:
    listener, total, other = Listener(), SumMetric(), SumMetric("other")
    metrics = {"total": total, "other": other}
    run, callbacks = make_run(Evaluate(every=3, max_fraction=0.1), Log(every=1000), listener, metrics=metrics, steps=7)
    complete(run, callbacks)
    assert sorted(listener.rows) == [1, 3, 6, 7]
    assert [step for step, row in listener.rows.items() if "metric/total" in row] == [3, 6, 7]
    assert listener.rows[7]["metric/total"] == total.samples[-1].sum().item()
    few, many = total.samples[:2]
    torch.testing.assert_close(few, many[:30], rtol=0, atol=0)
    torch.testing.assert_close(other.samples[1], many, rtol=0, atol=0)
    assert run.state.G.training


def test_every_evaluation_uses_the_same_latents(make_run: MakeRun) -> None:
    metric = SumMetric()
    run, callbacks = make_run(evaluate := Evaluate(every=1, max_fraction=0.1), metrics={"fake": metric})
    callbacks.start()
    for _ in range(2):
        run.state.step += 1
        evaluate(run.state, {})
    torch.testing.assert_close(metric.samples[1], metric.samples[3], rtol=0, atol=0)


def test_data_that_a_metric_cannot_evaluate_are_refused_before_anything_is_written(make_run: MakeRun) -> None:
    run, callbacks = make_run(
        Evaluate(every=5, max_fraction=0.1), metrics={"modes": Modes(num_samples=10, radius_stds=3.0)}
    )
    with pytest.raises(ConfigError, match=r"metric=\[modes\]: dataset=noise"):
        callbacks.check()
    assert list(run.folder.iterdir()) == []


def test_a_metric_that_is_nan_ends_the_run(make_run: MakeRun, complete: Complete) -> None:
    run, callbacks = make_run(
        Evaluate(every=2, max_fraction=0.1), Log(every=1), metrics={"fake": SumMetric(value=float("nan"))}
    )
    with pytest.raises(DivergedError, match="metric/total"):
        complete(run, callbacks)


def test_every_started_callback_finishes_even_if_another_fails(
    make_run: MakeRun,
) -> None:
    seen: list[str] = []

    class Recorded(Callback):
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

    _, callbacks = make_run(Recorded("a", fails="finish"), Recorded("b"), Recorded("c", fails="start"))
    with pytest.raises(RuntimeError, match="start"):
        callbacks.start()
    with pytest.raises(RuntimeError, match="finish"):
        callbacks.finish("failed")
    assert seen == ["start a", "start b", "finish a", "finish b"]


def test_callbacks_are_called_by_order_not_by_position_in_the_config(make_run: MakeRun) -> None:
    log, evaluate = Log(every=1), Evaluate(every=1, max_fraction=0.1)
    run, callbacks = make_run(log, evaluate)
    assert [*callbacks] == run.listeners == [evaluate, log]


@pytest.mark.parametrize("board_first", [True, False])
def test_images_published_at_the_start_reach_callbacks_in_any_order(make_run: MakeRun, board_first: bool) -> None:
    seen: list[str] = []

    class Board(Callback):
        def image(self, state: TrainState, tag: str, image: object) -> None:
            seen.append(tag)

    samples = Samples(every=5, num=4, num_vectors=4)
    _, callbacks = make_run(*((Board(), samples) if board_first else (samples, Board())))
    callbacks.start()
    assert seen == ["samples/real", "samples/fixed"]


@pytest.mark.parametrize(
    ("seconds", "fraction", "interval"),
    [(0.01, 0.1, 20), (0.1, 0.1, 100), (0.2, 0.1, 500), (0.5, 0.1, 1000), (0.1, 0.5, 20), (30, 0.1, 1000)],
)
def test_all_evaluations_together_keep_to_the_budget(
    make_run: MakeRun, caplog: pytest.LogCaptureFixture, seconds: float, fraction: float, interval: int
) -> None:
    """Of a run of 1,000 steps of 10 ms."""
    _, callbacks = make_run(evaluate := Evaluate(every=None, max_fraction=fraction), steps=1000)
    callbacks.start()
    assert evaluate.first == 20
    evaluate.choose_interval(seconds, 0.01)
    assert evaluate.every == interval
    due = {step for step in range(1, 1001) if evaluate.is_due(step)} | {1000}
    share = len(due) * seconds / (len(due) * seconds + 10)
    assert share <= fraction or due == {20, 1000}
    assert ("the first and the last alone take 86 % of the time" in caplog.text) == (share > fraction)


def test_interval_of_the_first_evaluation_is_kept_when_resumed(make_run: MakeRun, complete: Complete) -> None:
    listener, metrics = Listener(), {"total": SumMetric()}
    run, callbacks = make_run(
        first := Evaluate(every=None, max_fraction=0.1), Log(every=1000), listener, metrics=metrics, steps=100
    )
    complete(run, callbacks, "stopped", steps=3)
    assert [step for step, row in listener.rows.items() if "metric/total" in row] == [2]
    assert first.every is not None
    second = Evaluate(every=None, max_fraction=0.5)
    second.load_state_dict(first.state_dict())
    make_run(second, metrics=metrics, folder="later", steps=50)
    assert (second.first, second.every) == (2, first.every)


@pytest.mark.parametrize("fraction", [0.0, 1.0, float("nan")])
def test_budgets_outside_of_0_to_1_are_refused(fraction: float) -> None:
    with pytest.raises(ConfigError, match=f"max_eval_fraction={fraction}: must be above 0"):
        Evaluate(every=None, max_fraction=fraction)


class Spread(SumMetric):
    better: ClassVar[dict[str, Literal["higher", "lower"]]] = {"total": "lower"}

    def __call__(self, sample: Callable[[int], Tensor], real: Dataset) -> dict[str, float]:
        mean = float(sample(self.num_samples).mean())
        return {"total": round(mean) + 0.5, "total_std": 0.25}


def test_a_standard_deviation_is_printed_beside_its_score(make_run: MakeRun, complete: Complete) -> None:
    texts: list[str] = []

    class Board(Callback):
        def markdown(self, state: TrainState, tag: str, text: str) -> None:
            texts.append(text)

    run, callbacks = make_run(
        Evaluate(every=2, max_fraction=0.1),
        *(Log(every=9), Board()),
        metrics={"sum": Spread()},
        dataset=gaussian(mean=3.0, std=0.1),
        steps=2,
    )
    callbacks.append(record := Record(run, {}))
    complete(run, callbacks)
    value = f"{record.last['metric/total']:.4g} ± 0.25"
    row, *_ = texts[-1].splitlines()[2:]
    assert row == f"| total | {value} | 3.5 ± 0.25 | 100 generated, current weights |"
    (line,) = score_lines(run, record)
    best = f"best {record.last['metric/total']:.4g} at step 2"
    assert line == f"  score     total: last {value}, {best}, real vectors 3.5 ± 0.25 (100 generated, current weights)"


def test_receipts_are_published_with_the_scores(make_run: MakeRun, complete: Complete) -> None:
    texts: list[tuple[int, str, str]] = []

    class Board(Callback):
        def markdown(self, state: TrainState, tag: str, text: str) -> None:
            texts.append((state.step, tag, text))

    run, callbacks = make_run(
        Evaluate(every=2, max_fraction=0.1), Log(every=9), Board(), metrics={"sum": SumMetric()}, steps=2
    )
    complete(run, callbacks)
    ((step, tag, text),) = texts
    assert (step, tag) == (2, "metric/receipts")
    assert "| total | " in text
    assert "100 generated, current weights" in text
    assert json.loads(text.split("```json")[1].split("```")[0])["total"]["seed"] == run.config.seed
    assert run.receipts["metric/total"]["num_generated"] == 100
