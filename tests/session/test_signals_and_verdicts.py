"""Which of a signal and a verdict decides how a run ends."""

import os
import signal
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from composing import composed

from gantrain.assemble import assemble
from gantrain.callbacks.base import Callback
from gantrain.errors import StoppedByVerdictError
from gantrain.session.outcome import raise_or_exit
from gantrain.session.record import Record
from gantrain.session.run import Run
from gantrain.session.signals import StopOnSignal, Stopped
from gantrain.tasks.job import Job
from gantrain.tasks.train import train_to_end
from gantrain.train import TrainState
from gantrain.updates import Logs


@pytest.fixture
def requeued() -> Iterator[list[int]]:
    """Install a handler for SIGUSR1, as a cluster launcher does; return the signals that it gets."""
    received: list[int] = []
    previous = signal.signal(signal.SIGUSR1, lambda signum, _: received.append(signum))
    yield received
    signal.signal(signal.SIGUSR1, previous)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    config = composed("model.generator.width=4", "model.discriminator.width=4", "batch_size=8", "callback=[]")
    job = Job(name="x", folder=tmp_path, config=config, choices={}, typed=[], resume_command="gantrain resume=x")
    return assemble(job, config).run


def stopped(run: Run, signum: signal.Signals, verdict: str | None) -> StopOnSignal:
    """Receive a signal in a step after which a verdict may end the run."""
    run.stopped_by = verdict
    with StopOnSignal(verdict=lambda: run.stopped_by) as stop:
        os.kill(os.getpid(), signum)
        with pytest.raises(Stopped):
            stop(run.state, {})
    return stop


@pytest.mark.parametrize(("verdict", "calls"), [(None, [signal.SIGUSR1]), ("collapse", [])])
def test_run_that_a_verdict_ends_is_not_requeued(
    run: Run, requeued: list[int], verdict: str | None, calls: list[int]
) -> None:
    stop = stopped(run, signal.SIGUSR1, verdict)
    with pytest.raises(SystemExit if verdict is None else StoppedByVerdictError):
        raise_or_exit(run, stop, "stopped", None)
    assert requeued == calls


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("verdict", "status"), [(None, None), ("collapse", 4)])
def test_signal_ends_the_command_with_the_status_of_the_verdict(
    run: Run, signum: signal.Signals, verdict: str | None, status: int | None, capsys: Any
) -> None:
    """SystemExit ends a sweep; after the error of a verdict it would continue."""
    stop = stopped(run, signum, verdict)
    with pytest.raises(SystemExit) as ended:
        raise_or_exit(run, stop, "stopped", None)
    assert ended.value.code == (status or 128 + signum)
    message = " ".join(capsys.readouterr().err.split())
    assert ("by the verdict collapse, which verdict.stop names" in message) == (verdict is not None)


@pytest.mark.parametrize(("step", "verdict"), [(1, None), (2, None), (2, "collapse")])
def test_signal_during_the_callbacks_of_the_last_step_lets_the_run_finish(
    tmp_path: Path, step: int, verdict: str | None
) -> None:
    """For example while samples are drawn, which can take a minute."""
    options = ("model.generator.width=4", "model.discriminator.width=4", "batch_size=8", "callback=[]", "steps=2")
    config = composed(*options)
    job = Job(name="x", folder=tmp_path, config=config, choices={}, typed=[], resume_command="gantrain resume=x")
    training = assemble(job, config)
    record = Record(training.run, {})

    class Send(Callback):
        def __call__(self, state: TrainState, _: Logs) -> None:
            if state.step == step:
                training.run.stopped_by = verdict
                os.kill(os.getpid(), signal.SIGTERM)

    training.callbacks.append(Send())
    is_last = step == 2 and verdict is None
    with (
        StopOnSignal(verdict=lambda: training.run.stopped_by) as stop,
        nullcontext() if is_last else pytest.raises(Stopped),
    ):
        train_to_end(training, record, stop)
    assert training.run.state.step == step
    assert stop.received == signal.SIGTERM
