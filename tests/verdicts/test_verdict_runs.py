"""Runs with verdicts: provoked failures, stopping, resuming, and no effect on the training."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import SMALL, Result, gantrain, on_call, server, start, work
from runs import differences, flatten, run_json, tensorboard_events

from gantrain.session import checkpoint

__all__ = ["gantrain", "server", "start", "work"]

Run = Callable[..., Result]


def load_benchmark() -> Any:
    path = Path(__file__).parents[2] / "benchmarks/verdicts.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_verdicts", path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


benchmark = load_benchmark()


@pytest.mark.parametrize("failure", benchmark.PROVOKED, ids=lambda failure: failure.verdict)
def test_provoked_failure_is_found(gantrain: Run, work: Path, failure: Any) -> None:
    """Within failure.steps steps, the length of the run; benchmarks/verdicts.py prints the table of these runs."""
    overrides, more = benchmark.command(failure)
    done = gantrain(*overrides.split(), *more, "run_dir=run", "statistics_dir=null")
    assert done.status == 0, done.stderr
    found = [finding for finding in run_json(work / "run")["verdicts"] if finding["verdict"] == failure.verdict]
    assert found, done.stderr
    assert f"warning: verdict {failure.verdict} at step {found[0]['step']:,}: {found[0]['evidence']}" in done.stderr
    assert f"What usually helps: {found[0]['advice']}" in done.stderr


def test_every_verdict_has_a_provoked_failure() -> None:
    conf = Path(__file__).parents[2] / "conf/verdict"
    names = {path.stem for path in conf.glob("*.yaml")} - {"default"}
    assert {failure.verdict for failure in benchmark.PROVOKED} == names
    assert len(benchmark.HEALTHY) >= 12


# G does not learn, so that generator_stalls is found at the second comparison: step 9 with every=3.
STALLED = (*SMALL, "dataset.holdout=0.01", "optimizer.lr=1e-9", "callback.verdicts.every=3", "checkpoint.every=4")
STALLED += ("log_every=2", "sample_every=5", "callback.samples.num=16", "verdict.discriminator_wins.loss=0.9")


def test_weights_are_those_without_verdicts(gantrain: Run, work: Path) -> None:
    """With dropout, BatchNorm, spectral norm, augmentation, an EMA, held-out images and metrics, at every step."""
    command = (*SMALL, "dataset.holdout=0.01", "metric=[fid]", "metric.fid.num_samples=40", "metric.fid.num_real=100")
    command += ("evaluate_every=2", "ema_halflife_images=10", "regularizer=[input_noise]", "steps=6")
    for options in (
        ("network=cdcgan", "augment=[diffaugment]"),
        ("model=vanilla", "model.discriminator.dropout=0.3", "packing=2"),
    ):
        contents = []
        for name, more in (("with", "callback.verdicts.every=1"), ("without", "verdict=[]")):
            done = gantrain(*command, *options, more, f"run_dir={name}_{options[0][-3:]}")
            assert done.status == 0, done.stderr
            path = checkpoint.paths(work / f"{name}_{options[0][-3:]}")[-1]
            saved = checkpoint.read(path)
            assert (saved["callbacks"]["verdicts"]["verdicts"] != {}) == (name == "with")
            networks = ("G", "D", "G_ema", "G_optimizer", "D_optimizer", "regularizers")
            contents.append(dict(flatten({key: saved[key] for key in networks})))
        assert contents[0] == contents[1]


def test_findings_are_in_the_terminal_tensorboard_and_run_json(gantrain: Run, work: Path) -> None:
    done = gantrain(*STALLED, "steps=12", "run_dir=run")
    assert done.status == 0, done.stderr
    (stalled,) = (f for f in run_json(work / "run")["verdicts"] if f["verdict"] == "generator_stalls")
    assert stalled == {
        "verdict": "generator_stalls",
        "step": 9,
        "evidence": stalled["evidence"],
        "advice": stalled["advice"],
        "cleared": None,
    }
    assert stalled["evidence"].startswith("G has stopped moving: since step 6 its samples")
    assert f"warning: verdict generator_stalls at step 9: {stalled['evidence']} What usually helps:" in done.stderr
    assert f"  verdict   generator_stalls, since step 9: {stalled['evidence']}" in done.stderr
    (text,) = (x for (tag, step), x in tensorboard_events(work / "run").items() if tag.startswith("verdict/generator"))
    assert stalled["evidence"].encode() in text


def test_killed_and_resumed_run_has_the_same_findings(gantrain: Run, work: Path) -> None:
    """The run is killed at step 10, ends at step 13 between two checks, and is resumed to step 20."""
    assert gantrain(*STALLED, "steps=20", "run_dir=straight").status == 0
    each_step = "gantrain.callbacks.log:Log.__call__"
    kill = on_call(each_step, "os.kill(os.getpid(), signal.SIGKILL)", call=11)
    assert gantrain(*STALLED, "steps=13", "run_dir=parts", before=kill).status == -9
    assert gantrain(*STALLED, "steps=13", "run_dir=parts").status == 0
    assert gantrain(*STALLED, "steps=20", "run_dir=parts").status == 0
    assert differences(work / "straight", work / "parts") == []
    findings = [run_json(work / name)["verdicts"] for name in ("straight", "parts")]
    assert findings[0] == findings[1] != []


STOP = "verdict.stop=[generator_stalls]"


def test_stop_ends_the_run_with_a_checkpoint_and_resuming_goes_on(gantrain: Run, work: Path) -> None:
    done = gantrain(*STALLED, STOP, "steps=14", "run_dir=run")
    assert done.status == 4, done.stderr
    assert "gantrain: stopped after step 9 by the verdict generator_stalls, which verdict.stop names." in done.stderr
    assert "resume with: gantrain resume=run (it stops again only for a new finding)" in done.stderr
    record = run_json(work / "run")
    assert (record["status"], record["steps"], record["error"]) == ("stopped", 9, None)
    assert checkpoint.paths(work / "run")[-1].name == "step_00000009.pt"
    assert gantrain("resume=run").status == 0
    assert gantrain(*STALLED, "steps=14", "run_dir=straight").status == 0
    assert differences(work / "straight", work / "run") == []
    assert run_json(work / "run")["verdicts"] == run_json(work / "straight")["verdicts"]


def test_signal_in_the_step_of_the_stop_ends_a_sweep(gantrain: Run, work: Path) -> None:
    send = on_call("gantrain.tasks.train:StopOnSignal.__call__", "os.kill(os.getpid(), signal.SIGTERM)", call=9)
    done = gantrain("-m", *STALLED, STOP, "seed=0,1", "steps=10", "run_dir=sweep", before=send)
    assert done.status == 4, done.stderr
    assert done.stderr.count("stopped after step 9 by the verdict generator_stalls") == 1
    (path,) = work.glob("sweep/*/run.json")
    assert json.loads(path.read_text())["status"] == "stopped"


def test_stop_in_a_sweep_ends_one_run_only(gantrain: Run, work: Path) -> None:
    common = [option for option in STALLED if not option.startswith("optimizer.lr")]
    done = gantrain("-m", *common, STOP, "optimizer.lr=1e-9,1e-2", "steps=10", "run_dir=sweep")
    assert done.status == 4, done.stderr
    assert [json.loads(path.read_text())["status"] for path in sorted(work.glob("sweep/*/run.json"))] == [
        "stopped",
        "finished",
    ]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("verdict.stop=[colapse]", "verdict.stop=[colapse]: must be a list of the verdicts in use: collapse, "),
        ("verdict.stop=collapse", "verdict.stop=collapse: must be a list of the verdicts in use: collapse, "),
        ("verdict=[clipping] verdict.stop=[collapse]", "must be a list of the verdicts in use: clipping."),
        ("verdict=[] verdict.stop=[collapse]", "must be a list of the verdicts in use: there are none."),
        (
            "verdict.stop=[collapse] callback=[log]",
            "verdict.stop=[collapse] needs the callback that calls the verdicts",
        ),
        ("callback.verdicts.every=0", "callback.verdicts: every=0: must be at least 1."),
        ("verdict=[collaps]", "verdict=collaps: no such option"),
        ("verdict.collapse.pixel=0.1", "verdict.collapse.pixel"),
        ("+verdict.halt=[collapse]", "verdict.halt=['collapse']: must be a mapping of options"),
    ],
)
def test_mistakes_are_refused_with_a_message(gantrain: Run, work: Path, typed: str, message: str) -> None:
    done = gantrain(*SMALL, *typed.split(), "steps=1", "run_dir=run")
    assert done.status == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (work / "run").exists()


OWN = '''
from gantrain.verdicts.base import Finding, Verdict

class Dark(Verdict):
    """Finds samples whose mean is below a limit at a number of successive checks."""

    def __init__(self, *, limit: float, checks: int):
        self.limit, self.checks, self.calls = limit, checks, 0

    def __call__(self, evidence):
        self.calls += 1
        mean = float(evidence.samples.x.mean())
        if mean < self.limit:
            return Finding(f"The mean is {mean:.3f} at call {self.calls}.", "more light.")

    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        self.calls = state.get("calls", 0)
'''


def test_own_verdict_is_one_python_file_and_one_yaml_file(gantrain: Run, work: Path) -> None:
    (work / "dark.py").write_text(OWN)
    (work / "my/verdict").mkdir(parents=True)
    (work / "my/verdict/dark.yaml").write_text("# dark samples\ndark: {_target_: dark.Dark, limit: 1.0, checks: 2}\n")
    command = (*SMALL, "--config-dir", "my", "trust=[dark]", "verdict=[default,dark]", "callback.verdicts.every=3")
    command += ("verdict.stop=[dark]", "checkpoint.every=2")
    done = gantrain(*command, "steps=9", "run_dir=run")
    assert done.status == 4, done.stderr
    (finding,) = (f for f in run_json(work / "run")["verdicts"] if f["verdict"] == "dark")
    assert finding["step"] == 6
    assert finding["evidence"].endswith("at call 2.")
    assert gantrain(*command, "steps=9", "run_dir=run", "verdict.dark.limit=-1.0").status == 0
    assert checkpoint.read(checkpoint.paths(work / "run")[-1])["callbacks"]["verdicts"]["verdicts"]["dark"] == {
        "calls": 3
    }
    # Other verdicts, or none, may be selected when a run is resumed; run.json keeps what was found.
    less = ("verdict=[collapse]", "verdict.stop=[]", "callback=[log,checkpoint]")
    done = gantrain(*SMALL, "checkpoint.every=2", *less, "steps=12", "run_dir=run")
    assert done.status == 0, done.stderr
    assert [f["verdict"] for f in run_json(work / "run")["verdicts"]].count("dark") == 1
