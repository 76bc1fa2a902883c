import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from gantrain.callbacks.checkpoint import Checkpoint, estimate_bytes, latest, load, save
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
        assert latest(run.folder).name == f"step_{expected[-1]:08d}.pt"


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
    content = load(latest(run.folder), "cpu")
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
    save(path, run)
    before = path.read_bytes()

    def fail(content: object, file: Any) -> None:
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="No space"):
        save(path, run)
    assert path.read_bytes() == before
    assert [p.name for p in run.folder.iterdir()] == [path.name]


def test_the_estimate_is_near_the_size(make_run: Callable[..., Run], complete: Callable[..., None]) -> None:
    run = make_run(Checkpoint(), steps=1, ema=True)
    run.state.D.extra = torch.nn.Linear(500, 500)
    run.state.D_optimizer.add_param_group({"params": list(run.state.D.extra.parameters())})
    for parameter in run.state.D.extra.parameters():
        parameter.grad = torch.zeros_like(parameter)
    complete(run)
    size = latest(run.folder).stat().st_size
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
    with pytest.raises(DivergedError, match=r"D\..* not finite at step 2"):
        callback(run.state, {})
    assert latest(run.folder).name == "step_00000001.pt"


def test_missing_and_damaged_checkpoints_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=str(tmp_path)):
        latest(tmp_path)
    with pytest.raises(DataError, match="no such checkpoint"):
        load(tmp_path / "step_00000001.pt", "cpu")
    torch.save({"weights": torch.zeros(2)}, tmp_path / "foreign.pt")
    with pytest.raises(DataError, match=r"foreign\.pt is no checkpoint of gantrain: it has no D, G, G_ema"):
        load(tmp_path / "foreign.pt", "cpu")
    for content in (b"", b"garbage", b"PK\x03\x04 half a file"):
        (tmp_path / "bad.pt").write_bytes(content)
        with pytest.raises(DataError, match=r"bad\.pt is damaged"):
            load(tmp_path / "bad.pt", "cpu")
