import hashlib
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest
import torch

from gantrain.callbacks.base import Callback, Callbacks
from gantrain.callbacks.checkpoint import Checkpoint, estimate_bytes
from gantrain.callbacks.evaluate import Evaluate
from gantrain.callbacks.log import Log
from gantrain.errors import ConfigError, DataError, DivergedError
from gantrain.session.checkpoint import find, newest, read, write
from gantrain.session.run import Run
from gantrain.session.snapshot import capture, restore

MakeRun = Callable[..., tuple[Run, Callbacks]]
Complete = Callable[..., None]


def make_checkpoint(
    *, every: int = 4, keep: int = 2, keep_every: int | None = None, best: str | None = None
) -> Checkpoint:
    return Checkpoint(every=every, keep=keep, keep_every=keep_every, best=best)


def names(run: Run) -> list[str]:
    return sorted(path.name for path in (run.folder / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("status", "steps", "expected"),
    [("finished", 10, [8, 10]), ("stopped", 6, [4, 6]), ("finished", 8, [4, 8]), ("diverged", 10, [4, 8]),
     ("failed", 3, [])],
)  # fmt: skip
def test_the_newest_checkpoints_are_kept(
    make_run: MakeRun, complete: Complete, status: str, steps: int, expected: list[int]
) -> None:
    run, callbacks = make_run(make_checkpoint(every=4, keep=2), steps=10)
    complete(run, callbacks, status=status, steps=steps)
    assert names(run) == [f"step_{step:08d}.pt" for step in expected]
    if expected:
        assert find(run.folder)[0].name == f"step_{expected[-1]:08d}.pt"


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return bool(a == b)


@pytest.mark.parametrize("ema", [False, True])
def test_a_checkpoint_holds_networks_optimizers_and_counters(make_run: MakeRun, complete: Complete, ema: bool) -> None:
    run, callbacks = make_run(make_checkpoint(), steps=3, ema=ema)
    complete(run, callbacks)
    content = find(run.folder)[1]
    state = run.state
    assert (content["step"], content["batches_seen"], content["image_shape"]) == (3, 3, [1, 8, 8])
    assert equal(content["G"], state.G.state_dict())
    assert equal(content["D"], state.D.state_dict())
    assert equal(content["G_ema"], state.G_ema.state_dict() if state.G_ema is not None else None)
    assert equal(content["G_optimizer"], state.G_optimizer.state_dict())
    assert equal(content["D_optimizer"], state.D_optimizer.state_dict())
    assert content["G_optimizer"]["state"][0]["step"] == 3


def test_a_failed_write_leaves_the_old_checkpoint_and_no_temporary_file(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = make_run()
    path = run.folder / "step_00000001.pt"
    write(path, capture(run))
    before = path.read_bytes()

    def fail(content: object, file: Any) -> None:
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="No space"):
        write(path, capture(run))
    assert path.read_bytes() == before
    assert [p.name for p in run.folder.iterdir()] == [path.name]


def test_the_estimated_size_is_near_the_true_size(make_run: MakeRun, complete: Complete) -> None:
    run, callbacks = make_run(make_checkpoint(), steps=1, ema=True)
    run.state.D.extra = torch.nn.Linear(500, 500)
    run.state.D_optimizer.add_param_group({"params": list(run.state.D.extra.parameters())})
    for parameter in run.state.D.extra.parameters():
        parameter.grad = torch.zeros_like(parameter)
    complete(run, callbacks)
    size = find(run.folder)[0].stat().st_size
    # Adam never creates moments for the layer that is not used.
    unused = 2 * sum(p.nbytes for p in run.state.D.extra.parameters())
    assert size - 50_000 < estimate_bytes(run.state) <= size + unused


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_a_disk_too_small_for_the_checkpoints_is_refused(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9 - 10**6, 10**6))
    _, callbacks = make_run(make_checkpoint(keep=2))
    with pytest.raises(ConfigError, match=r"checkpoint\.keep=2.*1 MB free"):
        callbacks.check()


def test_weights_with_nan_are_never_saved(make_run: MakeRun) -> None:
    run, callbacks = make_run(callback := make_checkpoint(every=1, keep=1))
    callbacks.start()
    run.state.step = 1
    callback(run.state, {})
    with torch.no_grad():
        next(run.state.D.parameters()).fill_(float("nan"))
    run.state.step = 2
    callback(run.state, {})
    with pytest.raises(DivergedError, match=r"D\..* contains NaN or Inf at step 2"):
        callback.wait()
    assert find(run.folder)[0].name == "step_00000001.pt"


def test_the_error_names_a_missing_or_damaged_checkpoint(tmp_path: Path) -> None:
    assert newest(tmp_path) is None
    with pytest.raises(DataError, match=str(tmp_path)):
        find(tmp_path)
    with pytest.raises(DataError, match="no such checkpoint"):
        read(tmp_path / "step_00000001.pt")
    torch.save({"weights": torch.zeros(2)}, tmp_path / "foreign.pt")
    with pytest.raises(DataError, match=r"foreign\.pt is not a checkpoint of gantrain: it has no networks"):
        read(tmp_path / "foreign.pt")
    for content in (b"", b"garbage", b"PK\x03\x04 half a file"):
        (tmp_path / "bad.pt").write_bytes(content)
        with pytest.raises(DataError, match=r"bad\.pt is damaged"):
            read(tmp_path / "bad.pt")


def test_every_nth_checkpoint_is_kept_for_good(make_run: MakeRun, complete: Complete) -> None:
    run, callbacks = make_run(make_checkpoint(every=2, keep=2, keep_every=5), steps=13)
    complete(run, callbacks)
    assert names(run) == [f"step_{step:08d}.pt" for step in (5, 10, 12, 13)]


class GivenValues:
    """A metric that returns given values; higher is better."""

    num_samples = 1
    better: ClassVar[dict[str, Any]] = {"height": "higher"}

    def __init__(self, *values: float):
        self.values = iter(values)

    def check(self, real: object) -> None:
        pass

    def __call__(self, sample: object, real: object) -> dict[str, float]:
        return {"height": next(self.values)}


def callbacks_with_metric(*values: float) -> tuple[list[Callback], dict[str, Any]]:
    """Return callbacks that evaluate every 2 steps and keep the best checkpoint, and a metric with the given values."""
    callbacks = [Evaluate(every=2, max_fraction=0.1), Log(every=1), make_checkpoint(every=100, keep=1, best="height")]
    return callbacks, {"rising": GivenValues(*values)}


def test_the_checkpoint_with_the_best_metric_is_kept_too(make_run: MakeRun, complete: Complete) -> None:
    added, metrics = callbacks_with_metric(1.0, 3.0, 2.0)
    run, callbacks = make_run(*added, steps=6, metrics=metrics)
    complete(run, callbacks)
    assert names(run) == ["best.pt", "step_00000006.pt"]
    best = read(run.folder / "checkpoints/best.pt")
    kept = best["callbacks"]["Checkpoint"]
    assert (best["step"], kept["metric"], kept["value"], kept["step"]) == (4, "height", 3.0, 4)
    assert find(run.folder / "checkpoints/best.pt")[0].name == "best.pt"
    assert find(run.folder)[1]["step"] == 6


def test_a_resumed_run_remembers_the_best_metric(make_run: MakeRun, complete: Complete) -> None:
    added, metrics = callbacks_with_metric(3.0)
    run, callbacks = make_run(*added, metrics=metrics)
    complete(run, callbacks, "stopped", steps=2)
    content = find(run.folder)[1]
    added, metrics = callbacks_with_metric(2.0, 4.0)
    later, callbacks = make_run(*added, metrics=metrics, folder="later")
    restore(later, content, run.folder)
    complete(later, callbacks, "stopped", steps=6)
    assert read(later.folder / "checkpoints/best.pt")["step"] == 6


def test_values_of_another_protocol_are_not_compared(
    make_run: MakeRun, complete: Complete, caplog: pytest.LogCaptureFixture
) -> None:
    added, metrics = callbacks_with_metric(3.0)
    run, callbacks = make_run(*added, metrics=metrics)
    complete(run, callbacks, "stopped", steps=2)
    content = find(run.folder)[1]
    added, metrics = callbacks_with_metric(2.0, 1.0)
    metrics["rising"].num_samples = 7
    later, callbacks = make_run(*added, metrics=metrics, folder="later")
    (later.folder / "checkpoints").mkdir()
    (run.folder / "checkpoints/best.pt").rename(later.folder / "checkpoints/best.pt")
    restore(later, content, run.folder)
    complete(later, callbacks, "stopped", steps=6)
    assert read(later.folder / "checkpoints/best.pt")["step"] == 4
    assert read(later.folder / "checkpoints/best_at_2.pt")["step"] == 2
    assert "cannot be compared, because their protocols differ: num_generated 1 and 7" in caplog.text


def test_a_best_metric_that_is_not_measured_is_refused(make_run: MakeRun) -> None:
    _, callbacks = make_run(make_checkpoint(best="fid"), metrics={"rising": GivenValues()})
    with pytest.raises(ConfigError, match=r"checkpoint\.best=fid: must be a value of the metrics in use \(height\)"):
        callbacks.check()


def test_torch_reads_a_checkpoint_which_ends_with_its_sha256(make_run: MakeRun) -> None:
    run, _ = make_run(ema=True)
    path = run.folder / "step_00000000.pt"
    write(path, capture(run))
    content = path.read_bytes()
    body, comment = content[:-71], content[-71:]
    assert comment == b"sha256:" + hashlib.sha256(body[:-2] + b"\0\0").hexdigest().encode()
    assert torch.load(path, weights_only=True)["step"] == 0
    with zipfile.ZipFile(path) as archive:
        assert archive.comment == comment
        assert archive.testzip() is None


def test_a_checkpoint_cannot_run_code_or_exhaust_memory(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (os.system, (f"touch {tmp_path}/ran",))

    torch.save({"G": Evil(), "D": {}, "step": 1}, tmp_path / "evil.pt")
    with pytest.raises(DataError, match=r"evil\.pt contains code.*it was not run"):
        read(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()
    torch.save({"G": torch.zeros(10**6), "D": {}, "step": 1}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for record in plain.namelist():
            bomb.writestr(record, plain.read(record))
    with pytest.raises(DataError, match=r"bomb\.pt is damaged.*its records are compressed"):
        read(tmp_path / "bomb.pt")
