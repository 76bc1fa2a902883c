import io
import re
import time
from collections.abc import Callable
from itertools import pairwise

import pytest
from rich.console import Console

from gantrain.callbacks import progress
from gantrain.callbacks.base import Callbacks
from gantrain.callbacks.log import Log
from gantrain.callbacks.progress import Progress
from gantrain.session.run import Run

MakeRun = Callable[..., tuple[Run, Callbacks]]
Complete = Callable[..., None]

SCALARS = {"loss/discriminator": 0.9312, "loss/generator": 1.4123, "throughput/images_per_second": 2310.4}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def use_console(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> io.StringIO:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, force_interactive=terminal, width=120)
    monkeypatch.setattr(progress, "console", console)
    return text


def test_without_a_terminal_plain_lines_are_printed_at_intervals(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    text = use_console(monkeypatch, terminal=False)
    run, callbacks = make_run(callback := Progress(seconds_between_lines=10.0), steps=1560)
    callbacks.start()
    for step in range(1, 401):  # a logged step every 0.1 seconds
        clock[0] += 0.1
        run.state.step = step
        callback(run.state, {})
        run.publish_scalars(SCALARS)
    callbacks.finish("stopped")
    callbacks.finish("stopped")
    lines = text.getvalue().splitlines()
    steps = [int(re.fullmatch(r"step (\d+)/1560  .*", line).group(1)) for line in lines]  # type: ignore[union-attr]
    assert len(steps) == 5
    assert steps[0] == 1
    assert steps[-1] == 400
    assert all(100 <= b - a <= 102 for a, b in pairwise(steps[:-1]))
    assert lines[-1] == "step 400/1560  loss D 0.931 G 1.41  2,310 images/s  0:01:56 left"
    assert "\x1b" not in text.getvalue()


def test_slow_steps_have_a_line_after_a_second_and_one_at_the_end(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    """Of a resumed run, whose next logged step is far away, or without the callback log."""
    text = use_console(monkeypatch, terminal=False)
    run, callbacks = make_run(callback := Progress(seconds_between_lines=10.0), steps=40)
    run.state.step = 4
    callbacks.start()
    for step in range(5, 41):
        clock[0] += 0.5
        run.state.step = step
        callback(run.state, {})
    callbacks.finish("finished")
    lines = text.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 6/40", "step 26/40", "step 40/40"]
    assert lines[0] == "step 6/40  0:00:17 left"


def test_a_bar_is_drawn_on_a_terminal(make_run: MakeRun, complete: Complete, monkeypatch: pytest.MonkeyPatch) -> None:
    text = use_console(monkeypatch, terminal=True)
    complete(*make_run(Log(every=1), Progress(seconds_between_lines=10.0), steps=20))
    last = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text.getvalue()).replace("\r", "\n").rstrip().splitlines()[-1]
    assert re.search(r"test .*20/20 loss D \S+ G \S+  [\d,]+ images/s", last)
    assert "left" not in text.getvalue()


def test_progress_costs_microseconds_per_step(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    use_console(monkeypatch, terminal=True)
    callback = Progress(seconds_between_lines=10.0)
    run, callbacks = make_run(callback, steps=10**6)
    callbacks.start()
    seconds = []
    for _ in range(20):
        start = time.process_time()  # does not depend on other processes on the machine
        for _ in range(1000):
            callback(run.state, {})
        seconds.append(time.process_time() - start)
    callbacks.finish("stopped")
    assert min(seconds) / 1000 < 20e-6


def test_long_work_between_steps_prints_lines_and_short_work_none(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    text = use_console(monkeypatch, terminal=False)
    run, callbacks = make_run(Progress(seconds_between_lines=10.0), steps=10)
    callbacks.start()
    for _ in range(3):  # each takes nine seconds
        for done in range(1, 10):
            run.publish_progress("generated samples", done, 9)
            clock[0] += 1
    assert not text.getvalue()
    for done in range(1, 26):
        run.publish_progress("generated samples", 1000 * done, 25_000)
        clock[0] += 1
    assert text.getvalue().splitlines() == [f"generated samples: {n}1,000 of 25,000" for n in (1, 2)]


def test_work_between_steps_has_a_bar_until_it_is_done(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    use_console(monkeypatch, terminal=True)
    run, callbacks = make_run(callback := Progress(seconds_between_lines=10.0), steps=10)
    callbacks.start()
    for what in ("real images", "generated samples"):
        for done in range(1, 5):
            clock[0] += 1
            run.publish_progress(what, done, 5)
            (_, bar) = callback.bar.tasks
            assert (bar.description, bar.completed, bar.total) == (what, done, 5)
        run.publish_progress(what, 5, 5)
        assert len(callback.bar.tasks) == 1
    callbacks.finish("finished")
