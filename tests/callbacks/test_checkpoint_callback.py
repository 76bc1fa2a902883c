import hashlib
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest
import torch

from gantrain.callbacks.checkpoint import Checkpoint, estimate_bytes
from gantrain.callbacks.evaluate import Evaluate
from gantrain.callbacks.log import Log
from gantrain.checkpoint import capture, find, newest, read, restore, write
from gantrain.errors import ConfigError, DataError, DivergedError
from gantrain.run import Run


def names(run: Run) -> list[str]:
    return sorted(path.name for path in (run.folder / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("status", "steps", "expected"),
    [("finished", 10, [8, 10]), ("stopped", 6, [4, 6]), ("finished", 8, [4, 8]), ("diverged", 10, [4, 8]),
     ("failed", 3, [])],
)  # fmt: skip
def test_the_last_ones_are_kept(
    make_run: Callable[..., Run], complete: Callable[..., None], status: str, steps: int, expected: list[int]
) -> None:
    run = make_run(Checkpoint(), steps=10, checkpoint={"every": 4, "keep": 2})
    complete(run, status=status, steps=steps)
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
def test_everything_comes_back(make_run: Callable[..., Run], complete: Callable[..., None], ema: bool) -> None:
    run = make_run(Checkpoint(), steps=3, ema=ema)
    complete(run)
    content = find(run.folder)[1]
    state = run.state
    assert (content["step"], content["batches_seen"], content["image_shape"]) == (3, 3, [1, 8, 8])
    assert equal(content["G"], state.G.state_dict())
    assert equal(content["D"], state.D.state_dict())
    assert equal(content["G_ema"], state.G_ema.state_dict() if state.G_ema is not None else None)
    assert equal(content["G_optimizer"], state.G_optimizer.state_dict())
    assert equal(content["D_optimizer"], state.D_optimizer.state_dict())
    assert content["G_optimizer"]["state"][0]["step"] == 3


def test_a_failing_write_leaves_the_old_checkpoint_and_nothing_else(
    make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
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


def test_the_estimate_is_near_the_size(make_run: Callable[..., Run], complete: Callable[..., None]) -> None:
    run = make_run(Checkpoint(), steps=1, ema=True)
    run.state.D.extra = torch.nn.Linear(500, 500)
    run.state.D_optimizer.add_param_group({"params": list(run.state.D.extra.parameters())})
    for parameter in run.state.D.extra.parameters():
        parameter.grad = torch.zeros_like(parameter)
    complete(run)
    size = find(run.folder)[0].stat().st_size
    # The moments of the layer that nothing uses are never made.
    unused = 2 * sum(p.nbytes for p in run.state.D.extra.parameters())
    assert size - 50_000 < estimate_bytes(run.state) <= size + unused


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_a_full_disk_is_foreseen(make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9 - 10**6, 10**6))
    with pytest.raises(ConfigError, match=r"checkpoint\.keep=2.*1 MB free"):
        make_run(Checkpoint()).check()


def test_weights_that_are_no_numbers_are_never_saved(make_run: Callable[..., Run]) -> None:
    run = make_run(Checkpoint(), checkpoint={"every": 1, "keep": 1})
    run.start()
    (callback,) = run.callbacks
    run.state.step = 1
    callback(run.state, {})
    with torch.no_grad():
        next(run.state.D.parameters()).fill_(float("nan"))
    run.state.step = 2
    callback(run.state, {})
    with pytest.raises(DivergedError, match=r"D\..* holds numbers that are not finite at step 2"):
        callback.wait()
    assert find(run.folder)[0].name == "step_00000001.pt"


def test_missing_and_damaged_checkpoints_are_named(tmp_path: Path) -> None:
    assert newest(tmp_path) is None
    with pytest.raises(DataError, match=str(tmp_path)):
        find(tmp_path)
    with pytest.raises(DataError, match="no such checkpoint"):
        read(tmp_path / "step_00000001.pt")
    torch.save({"weights": torch.zeros(2)}, tmp_path / "foreign.pt")
    with pytest.raises(DataError, match=r"foreign\.pt is no checkpoint of gantrain: it holds no networks"):
        read(tmp_path / "foreign.pt")
    for content in (b"", b"garbage", b"PK\x03\x04 half a file"):
        (tmp_path / "bad.pt").write_bytes(content)
        with pytest.raises(DataError, match=r"bad\.pt is damaged"):
            read(tmp_path / "bad.pt")


def test_every_nth_is_kept_for_good(make_run: Callable[..., Run], complete: Callable[..., None]) -> None:
    run = make_run(Checkpoint(), steps=13, checkpoint={"every": 2, "keep": 2, "keep_every": 5})
    complete(run)
    assert names(run) == [f"step_{step:08d}.pt" for step in (5, 10, 12, 13)]


class Rising:
    """A metric whose values are given; the higher the better."""

    num_samples = 1
    better: ClassVar[dict[str, Any]] = {"height": "higher"}

    def __init__(self, *values: float):
        self.values = iter(values)

    def check(self, real: object) -> None:
        pass

    def __call__(self, sample: object, real: object) -> dict[str, float]:
        return {"height": next(self.values)}


def test_the_best_by_a_metric_is_kept_besides(make_run: Callable[..., Run], complete: Callable[..., None]) -> None:
    metric = Rising(1.0, 3.0, 2.0)
    rule = {"every": 100, "keep": 1, "best": "height"}
    run = make_run(
        Evaluate(), Log(), Checkpoint(), steps=6, evaluate_every=2, metrics={"rising": metric}, checkpoint=rule
    )
    complete(run)
    assert names(run) == ["best.pt", "step_00000006.pt"]
    best = read(run.folder / "checkpoints/best.pt")
    assert (best["step"], best["callbacks"]["Checkpoint"]) == (4, {"metric": "height", "value": 3.0})
    assert find(run.folder / "checkpoints/best.pt")[0].name == "best.pt"
    assert find(run.folder)[1]["step"] == 6


def test_the_best_is_not_forgotten_by_a_resumed_run(
    make_run: Callable[..., Run], complete: Callable[..., None]
) -> None:
    rule = {"every": 100, "keep": 1, "best": "height"}
    run = make_run(Evaluate(), Log(), Checkpoint(), evaluate_every=2, metrics={"r": Rising(3.0)}, checkpoint=rule)
    complete(run, "stopped", steps=2)
    content = find(run.folder)[1]
    later = make_run(
        Evaluate(),
        Log(),
        Checkpoint(),
        evaluate_every=2,
        metrics={"r": Rising(2.0, 4.0)},
        checkpoint=rule,
        folder="later",
    )
    restore(later, content, run.folder)
    complete(later, "stopped", steps=6)
    assert read(later.folder / "checkpoints/best.pt")["step"] == 6


def test_a_best_metric_that_is_not_measured_is_refused(make_run: Callable[..., Run]) -> None:
    run = make_run(Checkpoint(), metrics={"r": Rising()}, checkpoint={"every": 1, "keep": 1, "best": "fid"})
    with pytest.raises(ConfigError, match=r"checkpoint\.best=fid: must be a number of the metrics in use \(height\)"):
        run.check()


def test_a_checkpoint_is_what_torch_reads_and_ends_with_its_hash(make_run: Callable[..., Run]) -> None:
    run = make_run(ema=True)
    path = run.folder / "step_00000000.pt"
    write(path, capture(run))
    content = path.read_bytes()
    body, comment = content[:-71], content[-71:]
    assert comment == b"sha256:" + hashlib.sha256(body[:-2] + b"\0\0").hexdigest().encode()
    assert torch.load(path, weights_only=True)["step"] == 0
    with zipfile.ZipFile(path) as archive:
        assert archive.comment == comment
        assert archive.testzip() is None


def test_a_checkpoint_cannot_run_code_nor_fill_the_memory(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (os.system, (f"touch {tmp_path}/ran",))

    torch.save({"G": Evil(), "D": {}, "step": 1}, tmp_path / "evil.pt")
    with pytest.raises(DataError, match=r"evil\.pt asks for code to be run.*it was not run"):
        read(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()
    torch.save({"G": torch.zeros(10**6), "D": {}, "step": 1}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for record in plain.namelist():
            bomb.writestr(record, plain.read(record))
    with pytest.raises(DataError, match=r"bomb\.pt is damaged.*not stored as they are"):
        read(tmp_path / "bomb.pt")
