"""The callback reports a finding when it begins and when it is cleared, and its state is exact after resuming."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch

from gantrain.callbacks.base import Callback, Callbacks
from gantrain.callbacks.log import Log
from gantrain.callbacks.verdicts import Verdicts
from gantrain.metrics.moments import Moments
from gantrain.session.run import PreviousSession, Run
from gantrain.train import TrainState
from gantrain.verdicts.base import UNDECIDED, Finding, Undecided, Verdict
from gantrain.verdicts.evidence import Evidence

MakeRun = Callable[..., tuple[Run, Callbacks]]


class Scripted(Verdict):
    """Finds something at given steps, and remembers what it has seen."""

    def __init__(self, *steps: int, checks: int = 1, undecided: tuple[int, ...] = ()):
        self.steps, self.checks, self.undecided = steps, checks, undecided
        self.seen: list[tuple[int, int, dict[str, list[tuple[int, float]]]]] = []
        self.count = torch.zeros(())
        self.real: list[float | None] = []

    def __call__(self, evidence: Evidence) -> Finding | Undecided | None:
        self.count += 1  # in place: saved states must be copies
        self.real += [scores.real for scores in evidence.scores.values()]
        self.seen.append((evidence.step, len(evidence.rows), {n: [*s.values] for n, s in evidence.scores.items()}))
        if evidence.step in self.undecided:
            return UNDECIDED
        return Finding(f"Found at {evidence.step}.", "less.") if evidence.step in self.steps else None

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state.get("count", torch.zeros(()))


class Board(Callback):
    def __init__(self) -> None:
        self.texts: list[tuple[int, str, str]] = []

    def markdown(self, state: TrainState, tag: str, text: str) -> None:
        self.texts.append((state.step, tag, text))


def pass_steps(run: Run, callbacks: Callbacks, until: int) -> None:
    """Do as if the run was trained until a step, with scalars logged every 5 steps."""
    while run.state.step < until:
        run.state.step += 1
        if run.state.step % 5 == 0 or run.state.step == run.steps:
            run.publish_scalars({"loss/generator": float(run.state.step), "throughput/images_per_second": 9.0})
        for callback in callbacks:
            callback(run.state, {})


def test_finding_is_reported_once_and_again_only_after_it_was_cleared(make_run: MakeRun, caplog: Any) -> None:
    board = Board()
    run, callbacks = make_run(Verdicts(every=10), board, steps=80)
    run.verdicts = {"one": Scripted(20, 30, 40, 60, 80), "never": Scripted()}
    callbacks.start()
    pass_steps(run, callbacks, 80)
    known = {"verdict": "one", "advice": "less."}
    assert run.findings == [
        known | {"step": 20, "evidence": "Found at 20.", "cleared": 50},
        known | {"step": 60, "evidence": "Found at 60.", "cleared": 70},
        known | {"step": 80, "evidence": "Found at 80.", "cleared": None},
    ]
    assert [(step, tag) for step, tag, _ in board.texts] == [(step, "verdict/one") for step in (20, 50, 60, 70, 80)]
    assert board.texts[0][2] == "Found at 20. What usually helps: less."
    assert board.texts[1][2] == "Cleared at step 50; it was found at step 20."
    assert caplog.records[0].getMessage() == "verdict one at step 20: Found at 20. What usually helps: less."
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 3


@pytest.mark.parametrize(
    ("steps", "reported"),
    [
        ((10,), []),
        ((10, 30), []),
        ((10, 20), [(20, 40)]),
        ((10, 20, 40), [(20, 60)]),
        ((10, 20, 50, 60), [(20, 40), (60, 80)]),
        ((80,), []),
    ],
)
def test_successive_checks_must_agree(make_run: MakeRun, steps: tuple[int, ...], reported: list[Any]) -> None:
    run, callbacks = make_run(Verdicts(every=10), steps=80)
    run.verdicts = {"two": Scripted(*steps, checks=2)}
    callbacks.start()
    pass_steps(run, callbacks, 80)
    assert [(finding["step"], finding["cleared"]) for finding in run.findings] == reported


def test_undecided_check_counts_neither_way(make_run: MakeRun) -> None:
    """Two of the checks that decide must agree, as with evaluate_every=20 and every=10."""
    run, callbacks = make_run(Verdicts(every=10), steps=100)
    run.verdicts = {"two": Scripted(20, 40, 80, checks=2, undecided=(30, 50, 70, 90))}
    callbacks.start()
    pass_steps(run, callbacks, 60)
    assert [(finding["step"], finding["cleared"]) for finding in run.findings] == [(40, None)]
    pass_steps(run, callbacks, 100)
    assert [(finding["step"], finding["cleared"]) for finding in run.findings] == [(40, None)]
    assert run.findings[0]["evidence"] == "Found at 40."


def test_check_gets_what_was_logged_since_the_previous_one(make_run: MakeRun) -> None:
    run, callbacks = make_run(Verdicts(every=10), steps=23)
    run.verdicts = {"one": Scripted()}
    callbacks.start()
    pass_steps(run, callbacks, 23)
    assert [(step, rows) for step, rows, _ in run.verdicts["one"].seen] == [(10, 2), (20, 2), (23, 1)]


def test_without_verdicts_nothing_is_collected(make_run: MakeRun) -> None:
    run, callbacks = make_run(callback := Verdicts(every=10), metrics={"moments": Moments(num_samples=10)}, steps=50)
    callbacks.start()
    before = callback.state_dict()
    pass_steps(run, callbacks, 50)
    run.publish_scalars({"metric/mean_error": 1.0})
    assert callback.state_dict() == before


def test_scores_of_different_protocols_are_never_compared(make_run: MakeRun) -> None:
    run, callbacks = make_run(Verdicts(every=1), metrics={"moments": Moments(num_samples=10)}, steps=9)
    run.verdicts = {"one": (verdict := Scripted())}
    callbacks.start()
    for step, num in ((1, 10), (2, 10), (3, 20), (4, 20)):
        run.state.step = step
        run.receipts["metric/mean_error"] = {"features": "x", "num_generated": num, "real": num / 100}
        run.publish_scalars({"metric/mean_error": float(step)})
        for callback in callbacks:
            callback(run.state, {})
    assert [scores["mean_error"] for *_, scores in verdict.seen] == [
        [(1, 1.0)],
        [(1, 1.0), (2, 2.0)],
        [(3, 3.0)],
        [(3, 3.0), (4, 4.0)],
    ]
    assert verdict.real == [0.1, 0.1, 0.2, 0.2]


def resumed(make_run: MakeRun, saved: dict[str, Any], steps: int, *, step: int, planned: int) -> tuple[Run, Callbacks]:
    """Make a run of `steps` steps that resumes a run of `planned` steps at a step."""
    run, callbacks = make_run(Verdicts(every=10), Log(every=5), folder=f"resumed_{step}_{planned}", steps=steps)
    run.verdicts = {"one": Scripted(*range(25, 100), checks=2)}
    run.state.step = step
    run.previous = PreviousSession(planned, intervals={"Verdicts": 10, "Log": 5})
    (callback,) = (c for c in callbacks if isinstance(c, Verdicts))
    callback.load_state_dict(deepcopy(saved))
    callbacks.start()
    callbacks.all = [callback]  # the rows come from pass_steps
    return run, callbacks


@pytest.mark.parametrize(("planned", "at"), [(100, 8), (100, 34), (100, 40), (33, 33), (40, 40), (7, 7), (45, 45)])
def test_resumed_run_has_the_same_findings_and_state(make_run: MakeRun, planned: int, at: int) -> None:
    """Also if the last check was made only because the run was planned to end there."""
    results = []
    for parts in (False, True):
        run, callbacks = make_run(
            callback := Verdicts(every=10), folder=f"straight_{parts}", steps=planned if parts else 60
        )
        run.verdicts = {"one": Scripted(*range(25, 100), checks=2)}
        callbacks.start()
        pass_steps(run, callbacks, at if parts else 60)
        if parts:
            saved = callback.state_dict()
            run, callbacks = resumed(make_run, saved, 60, step=at, planned=planned)
            (callback,) = callbacks.all
            pass_steps(run, callbacks, 60)
        results.append((run.findings, callback.state_dict()))
    assert results[0] == results[1]
    assert [finding["step"] for finding in results[0][0]] == [40]


def test_rollback_restores_findings_and_memories(make_run: MakeRun) -> None:
    run, callbacks = make_run(callback := Verdicts(every=10), steps=60)
    run.verdicts = {"one": Scripted(20, 30, 50)}
    callbacks.start()
    pass_steps(run, callbacks, 25)
    saved = callback.state_dict()
    pass_steps(run, callbacks, 55)
    assert len(run.findings) == 2
    callback.load_state_dict(saved)
    run.state = replace(run.state, step=25)
    callbacks.rewind()
    assert [(finding["step"], finding["cleared"]) for finding in run.findings] == [(20, None)]
    assert run.verdicts["one"].count == 2


def test_stop_names_the_verdict_that_ends_the_run(make_run: MakeRun) -> None:
    run, callbacks = make_run(Verdicts(every=10), steps=40, verdict={"stop": ["two", "late"]})
    run.verdicts = {"one": Scripted(10), "two": Scripted(20), "late": Scripted(40)}
    callbacks.start()
    pass_steps(run, callbacks, 10)
    assert run.stopped_by is None
    pass_steps(run, callbacks, 20)
    assert run.stopped_by == "two"
    run.stopped_by = None
    pass_steps(run, callbacks, 40)
    assert run.stopped_by is None  # after the last step there is nothing to stop
