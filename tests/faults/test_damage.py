"""A damaged checkpoint is refused by name or reads the same state, and the run resumes from the one before it."""

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import COMMAND, Result
from runs import differences, file_bytes, flatten, run_json

from gantrain.errors import DataError
from gantrain.session import checkpoint

FLIPS = 500
PAGE = 4096


def damaged_versions(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Truncate the content at every page, and flip single bits at reproducible positions."""
    for size in range(0, len(content), PAGE):
        yield f"truncated to {size} bytes", content[:size]
    draw = random.Random(0)
    # Every other flip is near the end, where the directory of the zip is.
    for k in range(FLIPS):
        at = draw.randrange(len(content) - (2 * PAGE if k % 2 else len(content)), len(content))
        bit = 1 << draw.randrange(8)
        yield f"bit {bit} of byte {at}", content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :]


def test_damaged_checkpoint_is_refused_by_name_or_reads_the_same(
    reference_run: Callable[..., Path], tmp_path: Path
) -> None:
    intact = checkpoint.paths(reference_run(*COMMAND))[-1]
    expected = dict(flatten(checkpoint.read(intact)))
    path = tmp_path / "step_00000012.pt"
    refused: list[str] = []
    same = 0
    for damage, content in damaged_versions(intact.read_bytes()):
        path.write_bytes(content)
        try:
            found = dict(flatten(checkpoint.read(path)))
        except DataError as error:
            refused.append(str(error))
        else:
            same += 1
            assert found == expected, damage
    print(f"{len(refused)} damaged versions refused, {same} read the same")
    assert all(str(path) in message and "\n" not in message for message in refused)
    assert len(refused) + same == FLIPS + -(-intact.stat().st_size // PAGE)


@pytest.fixture
def stopped(gantrain: Callable[..., Result], reference_run: Callable[..., Path], work: Path) -> Path:
    """A copy of a run whose newest checkpoint is that of step 9."""
    run = Path(shutil.copytree(reference_run(*COMMAND), work / "out"))
    checkpoint.paths(run)[-1].unlink()
    return run


@pytest.mark.parametrize("damage", ["truncated", "bit flip", "empty", "not a zip"])
def test_resume_falls_back_to_the_checkpoint_before_a_damaged_one(
    gantrain: Callable[..., Result], reference_run: Callable[..., Path], stopped: Path, damage: str
) -> None:
    newest = checkpoint.paths(stopped)[-1]
    content = bytearray(newest.read_bytes())
    if damage == "truncated":
        del content[len(content) // 2 :]
    elif damage == "bit flip":
        content[len(content) // 2] ^= 1
    elif damage == "empty":
        content.clear()
    else:
        content[:] = b"not a zip file"
    newest.write_bytes(content)
    done = gantrain(*COMMAND, "run_dir=out")
    assert done.status == 0, done.stderr
    assert f"warning: {newest.relative_to(stopped.parent)}" in done.stderr
    assert "Traceback" not in done.stderr
    assert "resuming at step 6" in done.stderr
    assert differences(reference_run(*COMMAND), stopped) == []


def test_run_with_only_damaged_checkpoints_is_refused_and_left_unchanged(
    gantrain: Callable[..., Result], stopped: Path
) -> None:
    for path in checkpoint.paths(stopped):
        path.write_bytes(path.read_bytes()[:-1])
    before = file_bytes(stopped)
    refused = gantrain(*COMMAND, "run_dir=out")
    assert refused.status == 2
    assert "none of its 2 checkpoints can be read" in refused.stderr
    assert "Traceback" not in refused.stderr
    after = file_bytes(stopped)
    assert "none of its" not in after.pop("gantrain.log").decode()  # it names each damaged checkpoint
    assert after == before


@pytest.mark.parametrize(
    ("name", "damage"),
    [("run.json", "truncated"), ("metrics.csv", "truncated"), ("metrics.csv", "noise"), ("tensorboard", "truncated"),
     ("tensorboard", "noise"), ("tensorboard", "deleted"), ("samples", "truncated"), ("samples", "deleted")],
)  # fmt: skip
def test_run_with_damaged_logs_or_images_resumes(
    gantrain: Callable[..., Result], reference_run: Callable[..., Path], stopped: Path, name: str, damage: str
) -> None:
    paths = [stopped / name] if (stopped / name).is_file() else sorted((stopped / name).iterdir())[:1]
    for path in paths:
        content = path.read_bytes()
        path.write_bytes(random.Random(0).randbytes(500) if damage == "noise" else content[: len(content) // 2])
        if damage == "deleted":
            path.unlink()
    done = gantrain(*COMMAND, "run_dir=out")
    assert done.status == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert run_json(stopped)["status"] == "finished"
    different = differences(reference_run(*COMMAND), stopped)
    assert not [name for name in different if name.startswith("checkpoint")]
    allowed = {"tensorboard": {"events", "shown"}, "samples": {"names", "samples.gif"}}.get(name, {name, "curves.png"})
    assert {name for name in different if not name.startswith("samples/")} <= allowed
